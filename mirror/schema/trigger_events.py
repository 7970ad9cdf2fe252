"""Trigger events: SQL queries for the events that follow from one statement on a table.

A trigger runs these queries. Each reads the trigger's transition tables `old_rows` and `new_rows`,
and returns rows (lane, mapping, reference, key) for `mirror.outbox`. The lane is 0 for a revocation
and 1 for a grant.
"""

from collections.abc import Iterable, Sequence
from textwrap import indent

from mirror.model.mapping import EVERYTHING
from mirror.model.query.effects import Effect
from mirror.schema.quoting import identifier, literal

_REVOCATION, _GRANT = 0, 1


def inserted(effect: Effect) -> str:
    """Return a query for the events of inserted rows, by one Effect of the table."""
    return _all(effect, "new_rows", lane=_lane(effect))


def deleted(effect: Effect) -> str:
    """Return a query for the events of deleted rows, by one Effect of the table."""
    return _all(effect, "old_rows", lane=_REVOCATION)


def _lane(effect: Effect) -> int:
    """Return the lane for the events of inserted rows: grant if they can only give access."""
    return _GRANT if effect.adds else _REVOCATION


def _all(effect: Effect, rows: str, *, lane: int) -> str:
    """Return a query for the events of all rows of a transition table."""
    if effect.reference == EVERYTHING:
        return (
            f"select {lane}, {_target(effect)}, '{{}}'::text[]\nwhere exists (select from {rows})"
        )
    distinct = "" if effect.unique else "distinct "
    values = [f"r.{identifier(column)}" for column in effect.columns]
    texts = _texts(effect, map(_text, values))
    return (
        # By their bytes: some collations treat different values as equal.
        f'select {distinct}{lane}, {_target(effect)}, {texts} collate "C"\n'
        f"from {rows} as r\n"
        f"where {_and(f'{value} is not null' for value in values)}"
    )


def with_null(effect: Effect) -> dict[str, list[str]]:
    """Return queries, by operation, for the events of rows with NULL in the column of the scope.

    It is unknown which keys these rows affect, so each event is about the whole mapping.
    """
    column = f"r.{identifier(effect.columns[0])}"
    return {
        "INSERT": [_null_rows(effect, "select * from new_rows", column, lane=_lane(effect))],
        "DELETE": [_null_rows(effect, "select * from old_rows", column, lane=_REVOCATION)],
        "UPDATE": [
            _null_rows(effect, _difference(*sides, effect, effect.reads), "r.c1", lane=_REVOCATION)
            for sides in (("old", "new"), ("new", "old"))
        ],
    }


def _null_rows(effect: Effect, rows: str, value: str, *, lane: int) -> str:
    return (
        f"select {lane}, {literal(effect.mapping)}, {literal(EVERYTHING)}, '{{}}'::text[]\n"
        f"where exists (\n  select from (\n{indent(rows, '    ')}\n  ) as r\n"
        f"  where {value} is null\n)"
    )


def updated(effect: Effect) -> str:
    """Return a query for the events of rows that an UPDATE changed, by one Effect of the table."""
    if effect.reference == EVERYTHING:
        return (
            f"select {_REVOCATION}, {_target(effect)}, '{{}}'::text[]\n"
            f"where exists (\n{indent(_difference('old', 'new', effect, effect.reads), '  ')}\n)"
        )
    return _paired(effect) if effect.unique else _differing(effect)


def _paired(effect: Effect) -> str:
    """Return a query for the events of changed rows, if the Effect's columns identify a row.

    It compares the old and the new row of each pair byte by byte, because that works for every
    type. PostgreSQL keeps both in the order of the updates, so it pairs them by their numbers: to
    find equal keys takes longer. Where the keys of a pair differ, each is an event.
    """
    keys = _key_names(effect)
    moved = _differ(keys)
    # If every column that is read also decides, each event is a revocation: compare rows once.
    decisive = [moved, *([_differ(names)] if (names := _decisive_names(effect)) else [])]
    lane = (
        f"{_REVOCATION}"
        if effect.decides in {None, effect.reads}
        else f"case when {' or '.join(decisive)} then {_REVOCATION} else {_GRANT} end"
    )
    changed = (
        f"select {lane} as lane, {moved} as moved,\n"
        f"  {', '.join(f'{side}.{key} as {side}{key}' for side in 'on' for key in keys)}\n"
        f"from (\n{indent(_numbered('old_rows', effect), '  ')}\n) as o\n"
        f"full join (\n{indent(_numbered('new_rows', effect), '  ')}\n) as n on n.place = o.place\n"
        f"where o.place is null or n.place is null or {_differ(_read_names(effect))}"
    )
    sides = []
    for side, condition in (("n", ""), ("o", "c.moved and ")):
        values = [f"c.{side}{key}" for key in keys]
        sides.append(
            f"select c.lane, {_target(effect)}, {_texts(effect, map(_text, values))}\n"
            f"from changed as c\n"
            f"where {condition}{_and(f'{value} is not null' for value in values)}"
        )
    return f"with changed as (\n{indent(changed, '  ')}\n)\n" + "\nunion all\n".join(sides)


def _differ(names: Sequence[str]) -> str:
    """Return the condition that the rows o and n differ in these columns."""
    old, new = (", ".join(f"{side}.{name}" for name in names) for side in "on")
    return f"row({old})::record *<> row({new})::record"


def _key_names(effect: Effect) -> list[str]:
    """Return the names, in a numbered row, of the key's columns."""
    return [f"k{number}" for number, _ in enumerate(effect.columns, 1)]


def _decisive_names(effect: Effect) -> list[str]:
    """Return the names, in a numbered row, of the columns outside of the key that decide."""
    names = (effect.decides or frozenset()) - set(effect.columns)
    return [name for column, name in _other_names(effect).items() if column in names]


def _read_names(effect: Effect) -> list[str]:
    """Return the names, in a numbered row, of all that the mapping's query reads."""
    if effect.reads is None:
        return ["whole"]
    others = [name for column, name in _other_names(effect).items() if column in effect.reads]
    return _key_names(effect) + others


def _other_names(effect: Effect) -> dict[str, str]:
    """Return the columns outside of the key that are compared, each with its name in a row."""
    compared = (effect.reads or frozenset()) | (effect.decides or frozenset())
    return {name: f"c{i}" for i, name in enumerate(sorted(compared - set(effect.columns)), 1)}


def _numbered(rows: str, effect: Effect) -> str:
    """Return a query for the rows of a transition table.

    Each has its number `place`, its key (k1, k2, …), and the other columns that are compared (c1,
    c2, …); `whole` is the row, if it is unknown which columns are read.
    """
    keys = zip(effect.columns, _key_names(effect), strict=True)
    others = _other_names(effect).items()
    columns = [f"r.{identifier(name)} as {alias}" for name, alias in (*keys, *others)]
    if effect.reads is None:
        # Not `r` alone: the table may have a column of this name.
        columns.append("(r.*)::record as whole")
    return f"select row_number() over () as place, {', '.join(columns)}\nfrom {rows} as r"


def _differing(effect: Effect) -> str:
    """Return a query for the events of keys or scopes whose rows the statement changed.

    It compares the rows before and after as sets, by the columns that the mapping's query reads.
    """
    sides = (("old", "new"), ("new", "old"))
    lanes = [(_REVOCATION, effect.decides)]
    if effect.reads != effect.decides:
        lanes.append((_GRANT, effect.reads))
    names = [f"c{number}" for number, _ in enumerate(effect.columns, 1)]
    found = "\nunion all\n".join(
        f"select {lane} as lane, {', '.join(names)} from (\n"
        f"{indent(_difference(*pair, effect, columns), '  ')}\n) as d"
        for lane, columns in lanes
        for pair in sides
    )
    values = _texts(effect, (f"f.{name}" for name in names))
    return (
        f"select min(f.lane), {_target(effect)}, {values}\n"
        f"from (\n{indent(found, '  ')}\n) as f\n"
        f"where {_and(f'f.{name} is not null' for name in names)}\n"
        f"group by {', '.join(f'f.{name}' for name in names)}"
    )


def _difference(mine: str, other: str, effect: Effect, columns: frozenset[str] | None) -> str:
    """Return a query for the rows of side `mine` (`old` or `new`) that the side `other` lacks.

    Rows are compared by the given columns; None: by all.
    """
    values = [
        f"{_bytes(f'r.{identifier(name)}')} as c{i}" for i, name in enumerate(effect.columns, 1)
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


def _target(effect: Effect) -> str:
    """Return the event's mapping and reference, as SQL literals joined by a comma."""
    reference = "null" if effect.reference is None else literal(effect.reference)
    return f"{literal(effect.mapping)}, {reference}"


def _bytes(value: str) -> str:
    """Return the expression for a value as text that compares by bytes, for every type.

    NULL stays NULL.
    """
    return f'(case when {value} is distinct from null then {_text(value)} end) collate "C"'


def _texts(effect: Effect, texts: Iterable[str]) -> str:
    """Return the array of an Effect's values as the mapping's query prints them, from their texts.

    There, a text of type character(n) has no blanks at its end, because a cast removes them. The
    declarations may not say which columns have this type: the trigger's function looks it up.
    """
    several = zip(effect.columns, texts, strict=True)
    return "array[{}]".format(
        ", ".join(
            f"case when {literal(column)} = any (padded) then rtrim({text}) else {text} end"
            for column, text in several
        )
    )


def _text(value: str) -> str:
    """Return the expression for a value's text, as its type prints it.

    A cast would call a function of the type's creator with the rights of the role that installed
    the trigger. concat() and a row's text call only functions of the server or of a superuser.
    """
    return f"concat({value})"


def _and(conditions: Iterable[str]) -> str:
    return " and ".join(conditions)
