"""Effects: the keys or scopes of a mapping that a change of one row of the primary affects.

They follow from the declarations alone, and every kind of capture uses them. A row that has all
values of a mapping's key affects that key. Any other row affects a scope of the mapping: all keys
whose rows have one value of a reference (such as `trip_id`). It is a reference by which the query
joins the row's table.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import TableClause
from sqlalchemy.sql import visitors

from mirror.errors import MappingError
from mirror.model.mapping import EVERYTHING, Mapping, Reference
from mirror.model.query.branches import Branch, branches
from mirror.model.query.select_tree import TableRef, UnreadableQuery, columns, parts, table_name


@dataclass(frozen=True)
class Effect:
    """How a changed row of one table of the primary affects one mapping."""

    mapping: str
    """The mapping's name."""
    reference: str | None
    """None: the row affects a key. Otherwise it affects a scope, and this is the name of the
    scope's reference; EVERYTHING: the affected rows are unknown, so the scope is the whole mapping.
    """
    columns: tuple[str, ...]
    """The table's columns with the key's values, or the one with the scope's value; empty for
    EVERYTHING."""
    reads: frozenset[str] | None
    """The table's columns that the mapping's query reads. None: unknown."""
    decides: frozenset[str] | None
    """The table's columns whose change may take access away. None: unknown, so any column may."""
    adds: bool
    """True: an inserted row can only give access. False: it may also take access away."""
    unique: bool
    """True: at any time, at most one row of the table affects a given key."""
    nulls: bool = False
    """True: a row with NULL in `columns` may affect result rows, too; its change then counts as a
    change of the whole mapping."""


def effects(mapping: Mapping) -> dict[str, tuple[Effect, ...]]:
    """Return, by the name of each table that the mapping's query reads, the Effects of its rows.

    A table has several Effects if the query reads it several times, and its rows affect the mapping
    by different columns.

    Raises:
        MappingError: changes of a table cannot be traced to keys or scopes (the message names the
            table and the missing declaration), or a table's name contains a dot.
    """
    try:
        several = branches(mapping)
    except UnreadableQuery:
        return _everything(mapping)
    found: dict[str, list[Effect]] = defaultdict(list)
    for branch in several:
        for occurrence in branch.occurrences:
            reference, names, nulls = _identity_of(mapping, branch, occurrence)
            # A reference's column decides even if the query does not read it.
            read = branch.reads[occurrence] | set(names)
            deciding = branch.decides[occurrence] | set(names)
            found[occurrence.table].append(
                Effect(
                    mapping.name,
                    reference,
                    names,
                    reads=None if branch.opaque else frozenset(read),
                    decides=None if branch.opaque else frozenset(deciding),
                    adds=branch.insert_only_adds,
                    unique=reference is None
                    and len(several) == 1
                    and branch.keeps_rows_apart(occurrence),
                    nulls=nulls,
                )
            )
    return {table: _merged(several) for table, several in sorted(found.items())}


def _everything(mapping: Mapping) -> dict[str, tuple[Effect, ...]]:
    """Return, by table, the Effects of a mapping whose query this library does not analyse.

    A change of any table that it reads counts as a change of the whole mapping.

    Raises:
        MappingError: no column of a table is selected, and no reference of the mapping names the
            table; or a table's name contains a dot.
    """
    selected = [
        table_name(column.table)
        for part in parts(mapping.query)
        for expression in part.selected_columns
        for column in columns(expression)
        if isinstance(column.table, TableClause)
    ]
    read = {table_name(e) for e in visitors.iterate(mapping.query) if isinstance(e, TableClause)}
    for table in sorted(read.difference(selected)):
        if all(reference.table != table for reference in mapping.references):
            raise MappingError(_missing_reference(mapping, table, several=False))
    whole = Effect(mapping.name, EVERYTHING, (), None, None, adds=False, unique=False)
    return dict.fromkeys(sorted(read), (whole,))


def _identity_of(
    mapping: Mapping, branch: Branch, occurrence: TableRef
) -> tuple[str | None, tuple[str, ...], bool]:
    """Return `reference`, `columns` and `nulls` of the Effect of one occurrence of a table.

    Raises:
        MappingError: the table does not have all values of the mapping's key, no column of it has
            the value of a reference, and no reference names the table.
    """
    key = [branch.column_equal_to(name, occurrence, is_key=True) for name in mapping.key]
    candidates = [
        (reference, _column_for(branch, occurrence, reference))
        for reference in _by_preference(mapping, branch, occurrence)
    ]
    narrowest = next(((ref, column) for ref, column in candidates if column is not None), None)
    if not all(key) and narrowest is None:
        if all(reference.table != occurrence.table for reference in mapping.references):
            several = branch.occurrence_count(occurrence) > 1
            raise MappingError(_missing_reference(mapping, occurrence.table, several=several))
        return EVERYTHING, (), False
    if branch.relates_rows:
        return EVERYTHING, (), False
    if narrowest is None or all(key):
        return None, tuple(map(str, key)), False
    reference, column = narrowest
    nulls = (
        reference.column is None
        and reference.name not in mapping.key
        and not branch.never_null(reference.name, occurrence)
    )
    return reference.name, (column,), nulls


def _by_preference(mapping: Mapping, branch: Branch, occurrence: TableRef) -> list[Reference]:
    """Return the mapping's references, first those of which one value presumably has fewest keys.

    References that name the table at `occurrence` come first. Among the rest, those by which the
    query joins that table come before those that are columns of it, and declared references before
    parents' columns, which are references, too.
    """

    def rank(reference: Reference) -> tuple[bool, bool, bool]:
        own = branch.is_own_column(reference.name, occurrence)
        return reference.table != occurrence.table, own, reference not in mapping.references

    return sorted(mapping.all_references, key=rank)


def _column_for(branch: Branch, occurrence: TableRef, reference: Reference) -> str | None:
    """Return the column of the table at `occurrence` that has the value of a mapping's reference.

    If the reference declares a column of this table, and the table occurs only once in the SELECT,
    that one is returned. Otherwise it is the column that conditions of the SELECT make equal to the
    reference's value; None: they make none equal.
    """
    found = branch.column_equal_to(reference.name, occurrence, is_key=False)
    # If the table occurs several times, the declared column is right for one occurrence only.
    if reference.table == occurrence.table and branch.occurrence_count(occurrence) == 1:
        return reference.column or found
    return found


def _merged(effects: Sequence[Effect]) -> tuple[Effect, ...]:
    """Return one table's Effects on one mapping; those on the same keys or scopes are merged.

    If one of them affects the whole mapping, all are merged into that one.
    """
    if any(effect.reference == EVERYTHING for effect in effects):
        effects = [
            replace(e, reference=EVERYTHING, columns=(), unique=False, nulls=False) for e in effects
        ]
    merged: dict[object, Effect] = {}
    for effect in effects:
        name = (effect.reference, effect.columns)
        known = merged.get(name, effect)
        merged[name] = replace(
            effect,
            reads=_union(known.reads, effect.reads),
            decides=_union(known.decides, effect.decides),
            adds=known.adds and effect.adds,
            unique=known is effect and effect.unique,
            nulls=known.nulls or effect.nulls,
        )
    return tuple(merged.values())


def _union(a: frozenset[str] | None, b: frozenset[str] | None) -> frozenset[str] | None:
    """Return the union of two sets of columns; None (unknown) if either is None."""
    return None if a is None or b is None else a | b


def _missing_reference(mapping: Mapping, table: str, *, several: bool) -> str:
    if several:
        return (
            f"mapping {mapping.name!r}: its query reads {table!r} more than once, but its key "
            f"identifies only one of these rows, so a change of the other would be missed. Declare "
            f"Reference(<label>, <type>, table={table!r}) and select the value that points at "
            f"the other."
        )
    return (
        f"mapping {mapping.name!r}: its query reads {table!r}, but no reference leads to that "
        f"table, so a change of it would be missed. Declare Reference(<label>, <type>, "
        f"table={table!r}) and select the value that points at it."
    )
