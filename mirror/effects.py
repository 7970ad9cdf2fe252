"""Effects: what a change of one row of the primary means to the mappings.

Derived from the declarations alone, and used by every way of capture: a row that shows a
mapping's whole key names that key; any other row names a scope, by the value that ties it in.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mirror.branches import Branch, Place, branches, only_unites
from mirror.errors import MappingError
from mirror.mapping import EVERYTHING, Mapping, Reference


@dataclass(frozen=True)
class Effect:
    """What a row of one table of the primary says about one mapping."""

    mapping: str
    reference: str | None
    """None: the row shows a key. Otherwise it names a scope: the reference's name, or EVERYTHING
    where what ties it in cannot be seen."""
    columns: tuple[str, ...]
    """The table's columns that hold the key's values, or the scope's one; none for EVERYTHING."""
    types: tuple[str, ...]
    """Their types as declared."""
    reads: frozenset[str] | None
    """The table's columns that the mapping's query reads. None: that cannot be seen."""
    decides: frozenset[str] | None
    """Those by whose change access may be taken away; None: any."""
    adds: bool
    """A row that is inserted can take nothing away."""
    unique: bool
    """No two rows of the table that count at once name the same."""


def effects(mapping: Mapping) -> dict[str, tuple[Effect, ...]]:
    """Return what each table that the mapping's query reads means to it, by the table's name.

    Raises:
        MappingError: a change of a table could not be traced to keys; names the table and the
            declaration that is missing.
    """
    found: dict[str, list[Effect]] = defaultdict(list)
    adds_up = only_unites(mapping.query)
    parts = branches(mapping)
    for branch in parts:
        decides = branch.decides()
        for occurrence, table in branch.tables.items():
            reference, columns, types = _named(mapping, branch, occurrence)
            # What ties a row in decides, even where the query does not read it.
            read = branch.reads[occurrence] | set(columns)
            deciding = decides[occurrence] | set(columns)
            found[table].append(
                Effect(
                    mapping.name,
                    reference,
                    columns,
                    types,
                    reads=None if branch.opaque else frozenset(read),
                    decides=None if branch.opaque else frozenset(deciding),
                    adds=adds_up and branch.only_adds,
                    unique=reference is None and len(parts) == 1 and not branch.combines,
                )
            )
    return {table: _merged(several) for table, several in sorted(found.items())}


def _named(
    mapping: Mapping, branch: Branch, occurrence: int
) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
    """Return the reference (None for the key), the columns and their types that a row names."""
    key = [_column(branch.equals(name), occurrence) for name in mapping.key]
    ties = [
        (reference, _tie(branch, occurrence, reference))
        for reference in _by_preference(mapping, branch, occurrence)
    ]
    tied = next(((reference, column) for reference, column in ties if column is not None), None)
    declared = any(ref.table == branch.tables[occurrence] for ref in mapping.references)
    if all(key) or tied or declared:
        if branch.entangled or not (all(key) or tied):
            return EVERYTHING, (), ()
        if all(key):
            columns = tuple(str(column) for column in key)
            return None, columns, tuple(column.type for column in mapping.key_columns)
        if tied:
            return tied[0].name, (str(tied[1]),), (tied[0].type,)
    raise MappingError(_missing(mapping, branch, occurrence))


def _by_preference(mapping: Mapping, branch: Branch, occurrence: int) -> list[Reference]:
    """Return the references, the narrowest first, as far as a declaration tells.

    Those that were declared for the table; then those by which the query joins it, before its own
    other values; then those that were declared at all, before parents' columns.
    """
    table = branch.tables[occurrence]

    def rank(reference: Reference) -> tuple[bool, bool, bool]:
        own = any(place.occurrence == occurrence for place in branch.shows(reference.name))
        return reference.table != table, own, reference not in mapping.references

    return sorted(mapping.all_references, key=rank)


def _tie(branch: Branch, occurrence: int, reference: Reference) -> str | None:
    if reference.column is not None and reference.table == branch.tables[occurrence]:
        return reference.column
    return _column(branch.equals(reference.name), occurrence)


def _column(places: Iterable[Place], occurrence: int) -> str | None:
    """Return an occurrence's column among several that are equal, the same one in each run."""
    return min((place.column for place in places if place.occurrence == occurrence), default=None)


def _merged(effects: Sequence[Effect]) -> tuple[Effect, ...]:
    """Return one effect for each thing that a row names; one that names all says it alone."""
    if any(effect.reference == EVERYTHING for effect in effects):
        effects = [
            replace(e, reference=EVERYTHING, columns=(), types=(), unique=False) for e in effects
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
        )
    return tuple(merged.values())


def _union(a: frozenset[str] | None, b: frozenset[str] | None) -> frozenset[str] | None:
    return None if a is None or b is None else a | b


def _missing(mapping: Mapping, branch: Branch, occurrence: int) -> str:
    table = branch.tables[occurrence]
    if list(branch.tables.values()).count(table) > 1:
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
