"""Effects: what a change of one row of the primary means to the mappings.

Derived from the declarations alone, and used by every way of capture: a row that shows a
mapping's whole key names that key; any other row names a scope, by the value that ties it in.
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
    """What a row of one table of the primary says about one mapping."""

    mapping: str
    reference: str | None
    """None: the row shows a key. Otherwise it names a scope: the reference's name, or EVERYTHING
    where what ties it in cannot be seen."""
    columns: tuple[str, ...]
    """The table's columns that hold the key's values, or the scope's one; none for EVERYTHING."""
    reads: frozenset[str] | None
    """The table's columns that the mapping's query reads. None: that cannot be seen."""
    decides: frozenset[str] | None
    """Those by whose change access may be taken away; None: any."""
    adds: bool
    """A row that is inserted can take nothing away."""
    unique: bool
    """No two rows of the table that count at once name the same."""
    nulls: bool = False
    """A row that has NULL there may count all the same, and then means the whole mapping."""


def effects(mapping: Mapping) -> dict[str, tuple[Effect, ...]]:
    """Return what each table that the mapping's query reads means to it, by the table's name.

    Raises:
        MappingError: a change of a table could not be traced to keys; names the table and the
            declaration that is missing.
    """
    try:
        several = branches(mapping)
    except UnreadableQuery:
        return _everything(mapping)
    found: dict[str, list[Effect]] = defaultdict(list)
    for branch in several:
        for occurrence in branch.occurrences:
            reference, names, nulls = _named(mapping, branch, occurrence)
            # What ties a row in decides, even where the query does not read it.
            read = branch.reads[occurrence] | set(names)
            deciding = branch.decides[occurrence] | set(names)
            found[occurrence.table].append(
                Effect(
                    mapping.name,
                    reference,
                    names,
                    reads=None if branch.opaque else frozenset(read),
                    decides=None if branch.opaque else frozenset(deciding),
                    adds=branch.only_adds,
                    unique=reference is None
                    and len(several) == 1
                    and branch.counts_each(occurrence),
                    nulls=nulls,
                )
            )
    return {table: _merged(several) for table, several in sorted(found.items())}


def _everything(mapping: Mapping) -> dict[str, tuple[Effect, ...]]:
    """Return the effects of a query that is not looked into: all of the mapping, each time."""
    shown = [
        table_name(column.table)
        for part in parts(mapping.query)
        for expression in part.selected_columns
        for column in columns(expression)
        if isinstance(column.table, TableClause)
    ]
    read = {table_name(e) for e in visitors.iterate(mapping.query) if isinstance(e, TableClause)}
    for table in sorted(read.difference(shown)):
        if all(reference.table != table for reference in mapping.references):
            raise MappingError(_missing(mapping, table, several=False))
    whole = Effect(mapping.name, EVERYTHING, (), None, None, adds=False, unique=False)
    return dict.fromkeys(sorted(read), (whole,))


def _named(
    mapping: Mapping, branch: Branch, occurrence: TableRef
) -> tuple[str | None, tuple[str, ...], bool]:
    """Return what a row names: the reference (None for the key) and its columns.

    And whether a row counts that has NULL there.
    """
    key = [branch.tied(name, occurrence, is_key=True) for name in mapping.key]
    ties = [
        (reference, _tie(branch, occurrence, reference))
        for reference in _by_preference(mapping, branch, occurrence)
    ]
    tied = next(((reference, column) for reference, column in ties if column is not None), None)
    if not all(key) and tied is None:
        if all(reference.table != occurrence.table for reference in mapping.references):
            several = branch.appearances(occurrence) > 1
            raise MappingError(_missing(mapping, occurrence.table, several=several))
        return EVERYTHING, (), False
    if branch.entangled:
        return EVERYTHING, (), False
    if tied is None or all(key):
        return None, tuple(map(str, key)), False
    reference, column = tied
    nulls = (
        reference.column is None
        and reference.name not in mapping.key
        and not branch.never_null(reference.name, occurrence)
    )
    return reference.name, (column,), nulls


def _by_preference(mapping: Mapping, branch: Branch, occurrence: TableRef) -> list[Reference]:
    """Return the references, the narrowest first, as far as a declaration tells.

    Those that were declared for the table; then those by which the query joins it, before its own
    other values; then those that were declared at all, before parents' columns.
    """

    def rank(reference: Reference) -> tuple[bool, bool, bool]:
        own = branch.own(reference.name, occurrence)
        return reference.table != occurrence.table, own, reference not in mapping.references

    return sorted(mapping.all_references, key=rank)


def _tie(branch: Branch, occurrence: TableRef, reference: Reference) -> str | None:
    found = branch.tied(reference.name, occurrence, is_key=False)
    # Of several occurrences, the declared column is true of one alone.
    if reference.table == occurrence.table and branch.appearances(occurrence) == 1:
        return reference.column or found
    return found


def _merged(effects: Sequence[Effect]) -> tuple[Effect, ...]:
    """Return one effect for each thing that a row names; one that names all says it alone."""
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
    return None if a is None or b is None else a | b


def _missing(mapping: Mapping, table: str, *, several: bool) -> str:
    if several:
        return (
            f"mapping {mapping.name!r}: its query reads {table!r} more than once, but the key "
            f"names one of its rows only, so a change of the other would be missed. Declare "
            f"Reference(<label>, <type>, table={table!r}) and select the value that points at "
            f"the other."
        )
    return (
        f"mapping {mapping.name!r}: its query reads {table!r}, but no reference ties that "
        f"table in, so a change of it would be missed. Declare Reference(<label>, <type>, "
        f"table={table!r}) and select the value that points at it."
    )
