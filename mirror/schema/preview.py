"""Preview: runs a migration, compares the database's catalog before and after, and undoes it.

So it fails wherever the migration would, and shows what that would really do. Until it is undone,
it holds the same locks.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from mirror.model.registry import Registry
from mirror.schema import catalog_queries
from mirror.schema.changes import Changes, find_changes
from mirror.schema.migrate import upgrade
from mirror.schema.prune import read_leftovers
from mirror.schema.running import run, translated
from mirror.schema.sides import Side

# Readers of the tables would queue behind a lock for which the preview waits.
_LOCK_TIMEOUT = "set local lock_timeout = '5s'"
_MANY = 12
"""So many new objects of one kind in schema `mirror`, or more, are counted and not listed."""

_Object = tuple[str, str]
"""Kind and name: `column`, `public.seats.person`."""


@dataclass(frozen=True)
class Preview:
    """The effect that a migration would have."""

    steps: list[str]
    """The names of the migrations; empty if the database is up to date."""
    lines: list[str]
    """The objects that it would create, alter and drop, and the rows that it would change."""
    next_steps: list[str]
    """The steps that follow it."""


def preview(
    connection: Connection,
    side: Side,
    registry: Registry,
    *,
    triggers: bool = False,
    guards: bool = False,
) -> Preview:
    """Return what `upgrade` with these arguments would do; the caller's transaction is unchanged.

    Raises:
        MirrorError: as `upgrade`; or a table is in use for more than five seconds.
    """
    with translated(side):
        changes = Changes([], [], first=False)
        if side == "supabase":
            changes = find_changes(connection, registry)
        undone = connection.begin_nested()
        try:
            run(connection, _LOCK_TIMEOUT)
            before, files = _catalog(connection), _files(connection)
            steps = upgrade(connection, side, registry, triggers=triggers, guards=guards)
            after = _catalog(connection)
            lines = list(_differences(before, after))
            lines += _rewritten(files, _files(connection))
            lines += _changed_rows(connection)
            left = read_leftovers(connection, registry) if side == "supabase" else []
        finally:
            undone.rollback()
    return Preview(steps, lines if steps else [], changes.next_steps(left) if steps else [])


def _catalog(connection: Connection) -> dict[_Object, str]:
    """Return the definition of each object that a migration can change."""
    rows = connection.execute(text(catalog_queries.OBJECTS))
    return {(row.kind, row.name): row.definition for row in rows}


def _files(connection: Connection) -> dict[str, int]:
    """Return, by table, the number of the file that holds its rows."""
    rows = connection.execute(text(catalog_queries.FILES))
    return {row.name: row.relfilenode for row in rows}


def _differences(before: dict[_Object, str], after: dict[_Object, str]) -> Iterator[str]:
    new = {name for kind, name in after.keys() - before.keys() if kind == "table"}
    old = {name for kind, name in before.keys() - after.keys() if kind == "table"}
    verbs: list[tuple[str, list[_Object], set[str]]] = [
        ("drop", sorted(before.keys() - after.keys()), old),
        ("create", sorted(after.keys() - before.keys()), new),
        (
            "alter",
            sorted(key for key in before.keys() & after.keys() if before[key] != after[key]),
            set(),
        ),
    ]
    for verb, keys, tables in verbs:
        # A table comes and goes with its parts.
        listed = [key for key in keys if key[0] == "table" or _table(*key) not in tables]
        many = Counter(kind for kind, name in listed if _is_ours(name))
        for kind, count in many.items():
            if count >= _MANY:
                yield f"{verb} {count} {kind}s of the mirror"
        for kind, name in listed:
            if many[kind] < _MANY or not _is_ours(name):
                yield _line(verb, kind, name, before.get((kind, name)), after.get((kind, name)))


def _line(verb: str, kind: str, name: str, old: str | None, new: str | None) -> str:
    """Return one difference as a phrase that resembles its statement."""
    if kind == "column" and verb == "drop":
        return f"drop column {name} ({old}): its values are lost"
    if kind == "table" and verb == "drop":
        return f"drop table {name}: its rows are lost"
    if kind in {"column", "constraint"}:
        return f"{verb} {kind} {name}: " + " → ".join(filter(None, (old, new)))
    return f"{verb} {kind} {name}"


def _table(kind: str, name: str) -> str | None:
    """Return the table to which an object belongs; None: to none."""
    return name.rpartition(" on ")[2] if " on " in name and kind != "function" else None


def _is_ours(name: str) -> bool:
    return name.startswith(("mirror.", "public.mirror_"))


def _rewritten(before: dict[str, int], after: dict[str, int]) -> Iterator[str]:
    for table, file in after.items():
        if before.get(table, file) != file:
            yield f"rewrite table {table}: its readers wait"


def _changed_rows(connection: Connection) -> Iterator[str]:
    """Yield the rows of tables outside of schema `mirror` that this transaction has changed."""
    rows: list[Any] = list(connection.execute(text(catalog_queries.CHANGED_ROWS)))
    for row in rows:
        counts = {"insert": row.inserted, "update": row.updated, "delete": row.deleted}
        for verb, count in counts.items():
            if count:
                yield f"{verb} {count} row(s) of {row.name}"
