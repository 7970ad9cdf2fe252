"""Transitions: the events that follow from a statement's old and new rows, as queries over them.

Each yields rows (lane, mapping, reference, key) for `mirror.outbox`, from the transition tables
`old_rows` and `new_rows` of a trigger.
"""

from collections.abc import Iterable
from textwrap import indent

from mirror.effects import Effect
from mirror.mapping import EVERYTHING
from mirror.sql import identifier, literal


def inserted(effect: Effect) -> str:
    """Return a query for the events of inserted rows."""
    return _all(effect, "new_rows", lane=_lane(effect))


def deleted(effect: Effect) -> str:
    """Return a query for the events of deleted rows."""
    return _all(effect, "old_rows", lane=0)


def _lane(effect: Effect) -> int:
    """Return the lane of an inserted row."""
    return 1 if effect.adds else 0


def _all(effect: Effect, rows: str, *, lane: int) -> str:
    """Return a query for the events of all rows of a transition table."""
    if effect.reference == EVERYTHING:
        return f"select {lane}, {_what(effect)}, '{{}}'::text[]\nwhere exists (select from {rows})"
    distinct = "" if effect.unique else "distinct "
    values = [f"r.{identifier(column)}" for column in effect.columns]
    return (
        # By their bytes: to some collations, values that differ are one.
        f'select {distinct}{lane}, {_what(effect)}, {_texts(values)} collate "C"\n'
        f"from {rows} as r\n"
        f"where {_and(f'{value} is not null' for value in values)}"
    )


def untied(effect: Effect) -> dict[str, list[str]]:
    """Return queries, by operation, for rows that count though they have NULL for what ties."""
    column = f"r.{identifier(effect.columns[0])}"
    return {
        "INSERT": [_without(effect, "select * from new_rows", column, lane=_lane(effect))],
        "DELETE": [_without(effect, "select * from old_rows", column, lane=0)],
        "UPDATE": [
            _without(effect, _difference(*sides, effect, effect.reads), "r.c1", lane=0)
            for sides in (("old", "new"), ("new", "old"))
        ],
    }


def _without(effect: Effect, rows: str, value: str, *, lane: int) -> str:
    return (
        f"select {lane}, {literal(effect.mapping)}, {literal(EVERYTHING)}, '{{}}'::text[]\n"
        f"where exists (\n  select from (\n{indent(rows, '    ')}\n  ) as r\n"
        f"  where {value} is null\n)"
    )


def updated(effect: Effect) -> str:
    """Return a query for the events of rows that an UPDATE changed."""
    if effect.reference == EVERYTHING:
        return (
            f"select 0, {_what(effect)}, '{{}}'::text[]\n"
            f"where exists (\n{indent(_difference('old', 'new', effect, effect.reads), '  ')}\n)"
        )
    return _paired(effect) if effect.unique else _differing(effect)


def _paired(effect: Effect) -> str:
    """Return a query for the events of rows that differ, each found by its key on both sides.

    Rows are compared as images, byte by byte: that works for every type.
    """
    names = [identifier(column) for column in effect.columns]
    same = _and(
        # As bytes: to some collations, two keys are one.
        f"{_text(f'o.{name}')} = {_text(f'n.{name}')}"
        for name in names
    )
    first = names[0]
    moved = f"o.{first} is null or n.{first} is null"
    # Where all that is read decides, every event is a revocation: no row is compared twice.
    lane = (
        "0"
        if effect.decides == effect.reads
        else f"case when {moved}{_differ(effect, effect.decides)} then 0 else 1 end"
    )
    values = [f"coalesce(n.{name}, o.{name})" for name in names]
    return (
        f"select {lane}, {_what(effect)},\n"
        f"  {_texts(values)}\n"
        f"from old_rows as o\n"
        f"full join new_rows as n on {same}\n"
        f"where ({moved}{_differ(effect, effect.reads)})\n"
        f"  and {_and(f'{value} is not null' for value in values)}"
    )


def _differ(effect: Effect, columns: frozenset[str] | None) -> str:
    if columns is None:
        return "\n  or o *<> n"
    names = sorted(columns - set(effect.columns))
    if not names:
        return ""
    old, new = (", ".join(f"{side}.{identifier(name)}" for name in names) for side in "on")
    return f"\n  or row({old})::record *<> row({new})::record"


def _differing(effect: Effect) -> str:
    """Return a query for what rows name of which the statement left more or fewer than before.

    To the mapping's query, rows that agree in all it reads are one like the other.
    """
    sides = (("old", "new"), ("new", "old"))
    lanes = [(0, effect.decides)] + [(1, effect.reads)] * (effect.reads != effect.decides)
    names = [f"c{number}" for number, _ in enumerate(effect.columns, 1)]
    found = "\nunion all\n".join(
        f"select {lane} as lane, {', '.join(names)} from (\n"
        f"{indent(_difference(*pair, effect, columns), '  ')}\n) as d"
        for lane, columns in lanes
        for pair in sides
    )
    return (
        f"select min(f.lane), {_what(effect)}, array[{', '.join(f'f.{n}' for n in names)}]\n"
        f"from (\n{indent(found, '  ')}\n) as f\n"
        f"where {_and(f'f.{name} is not null' for name in names)}\n"
        f"group by {', '.join(f'f.{name}' for name in names)}"
    )


def _difference(mine: str, other: str, effect: Effect, columns: frozenset[str] | None) -> str:
    """Return a query for what one side has and the other has not, in the columns that matter."""
    values = [
        f"{_text(f'r.{identifier(name)}')} as c{i}" for i, name in enumerate(effect.columns, 1)
    ]
    if columns is None:
        values.append('(r.*)::text collate "C" as rest')
    elif rest := sorted(columns - set(effect.columns)):
        several = ", ".join(f"r.{identifier(name)}" for name in rest)
        values.append(f'row({several})::text collate "C" as rest')
    chosen = ", ".join(values) or "1"
    return (
        f"select {chosen} from {mine}_rows as r\nexcept all\nselect {chosen} from {other}_rows as r"
    )


def _what(effect: Effect) -> str:
    reference = "null" if effect.reference is None else literal(effect.reference)
    return f"{literal(effect.mapping)}, {reference}"


def _text(value: str) -> str:
    """Return a value as text that is compared by its bytes, whatever its type and collation."""
    return f'(case when {value} is distinct from null then {_printed(value)} end) collate "C"'


def _texts(values: Iterable[str]) -> str:
    return f"array[{', '.join(map(_printed, values))}]"


def _printed(value: str) -> str:
    """Return a value's text as its type prints it.

    A cast would call a function of whoever made the type, with the rights of whoever installed
    this. What format() and a row's text call is the server's, or a superuser's.
    """
    return f"format('%s', {value})"


def _and(conditions: Iterable[str]) -> str:
    return " and ".join(conditions)
