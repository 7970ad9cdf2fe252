"""Differences: rows of the target that are not those that the primary wants."""

from collections.abc import Sequence

import psycopg
from psycopg import sql

from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.sync.drain import Drain
from mirror.testing.acting import Row

_SHOWN = 5
_MANY = 1_000_000

Rows = dict[Key, Sequence[str | None]]
"""By key: the values of the columns, in texts."""


def differing_rows(drain: Drain, target: psycopg.Connection[Row]) -> list[str]:
    """Return a line for each row that differs, is missing or is too much; a few of each mapping."""
    lines = []
    for mapping in drain.registry:
        wanted, mirrored = _wanted(drain, mapping), _mirrored(target, mapping)
        found = [
            f"{mapping.name} {','.join(key)} {_says(wanted.get(key), mirrored.get(key))}"
            for key in sorted({*wanted, *mirrored})
            if wanted.get(key) != mirrored.get(key)
        ]
        lines += found[:_SHOWN]
        lines += [f"and {len(found) - _SHOWN} more of {mapping.name}"] if found[_SHOWN:] else []
    return lines


def _says(wanted: Sequence[str | None] | None, mirrored: Sequence[str | None] | None) -> str:
    if wanted is None:
        return "is too much"
    return "is missing" if mirrored is None else "differs"


def _wanted(drain: Drain, mapping: Mapping) -> Rows:
    """Return the rows of a mapping's query whose parents exist."""
    with drain.source.snapshot() as snapshot:
        found = snapshot.rows_in_scope(mapping, "*", (), limit=_MANY)
    rows: Rows = {key: row[: len(mapping.columns)] for key, row in found.items()}
    names = [column.name for column in mapping.columns]
    for parent in mapping.parents:
        known = {key for (key,) in _wanted(drain, drain.registry[parent.mapping])}
        place = names.index(parent.column)
        rows = {k: row for k, row in rows.items() if row[place] is None or row[place] in known}
    return rows


def _mirrored(target: psycopg.Connection[Row], mapping: Mapping) -> Rows:
    """Return the target's rows that have not expired, without bare keys that are retained."""
    names = [column.name for column in mapping.columns]
    query = sql.SQL("select {} from {} as m where {}").format(
        sql.SQL(", ").join(sql.SQL("m.{}::text").format(sql.Identifier(n)) for n in names),
        sql.Identifier(mapping.schema, mapping.table),
        sql.SQL("true")
        if mapping.expires is None
        else sql.SQL("coalesce(m.{} > now(), true)").format(sql.Identifier(mapping.expires)),
    )
    places = [names.index(name) for name in mapping.key]
    rows = target.execute(query).fetchall()
    if mapping.on_delete == "retain":
        data = [names.index(column.name) for column in mapping.data_columns]
        rows = [row for row in rows if not data or any(row[p] is not None for p in data)]
    return {tuple(row[p] for p in places): row for row in rows}
