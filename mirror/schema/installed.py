"""Installed objects: reads from a database's catalog what one side of the mirror has put there.

It asks the database and no declarations: these may have changed since, or may be gone.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from mirror.errors import NotMigrated
from mirror.schema import catalog_queries
from mirror.schema.migrate import directory, history, names_of
from mirror.schema.sides import OTHER, ROLE, VARIABLE, Side

_CAPTURE = "Capture for the permission model "
"""How the comment on a function of the triggers begins."""
_VERBS = ("read", "insert", "update", "delete")

_Address = tuple[int, int]
"""The oids of an object's catalog and of the object."""


@dataclass(frozen=True)
class Item:
    """One object of a database."""

    kind: str
    """`table`, `function`, `trigger`, `policy`: the word after DROP."""
    name: str
    """Its qualified and quoted name, as DROP takes it."""
    table: str | None
    """The table of a trigger or policy, qualified and quoted."""
    address: _Address


@dataclass(frozen=True)
class Installed:
    """The objects that one side of the mirror has put into a database."""

    names: list[str]
    """This side's names in the history of migrations."""
    items: list[Item]
    """All objects but the mirrored tables."""
    mirrored: list[Item]
    """The mirrored tables, if this is the target's side."""
    shared: bool
    """The other side of the mirror is in this database, too, so schema `mirror` has to stay."""
    rebuild: bool
    """The other side uses tables that this side has created, so it has to be migrated again."""

    def of(self, kind: str) -> list[Item]:
        """Return the objects of one kind."""
        return [item for item in self.items if item.kind == kind]


def read_installed(connection: Connection, side: Side) -> Installed:
    """Return what one side of the mirror has put into this database.

    Raises:
        NotMigrated: it holds only the other side, or a schema `mirror` of another program; or its
            history is empty.
    """
    applied = history(connection)
    names = names_of(side, applied or {})
    others = names_of(OTHER[side], applied or {})
    if others and not names:
        raise NotMigrated(
            f"{ROLE[side]}: the database of {VARIABLE[side]} holds only the {ROLE[OTHER[side]]}'s "
            f"side of a mirror ({', '.join(others)}). Correct {VARIABLE[side]}, or run "
            f'`{VARIABLE[OTHER[side]]}="${VARIABLE[side]}" mirror uninstall {OTHER[side]}`.'
        )
    if applied is not None and not names:
        raise NotMigrated(
            f"{ROLE[side]}: the history in mirror.migrations is empty, so it does not say which "
            f"side this is. If it is this one, run `mirror migrate {side}` first."
        )
    objects, rebuild = list(connection.execute(text(catalog_queries.IN_SCHEMA))), False
    if others:
        objects, rebuild = _only(connection, side, objects)
    addresses = [_address(row) for row in objects]
    mirrored: list[_Address] = []
    if side == "supabase":
        doors = {"names": sorted(_created("supabase", "public"))}
        found = connection.execute(text(catalog_queries.DOORS), doors)
        addresses += [_address(row) for row in found]
        policies, mirrored = _policies(connection, names, {row.name for row in objects})
        addresses += policies
    functions = [row.oid for row in objects if row.kind == "function"]
    triggers = connection.execute(text(catalog_queries.TRIGGERS), {"functions": functions})
    addresses += [_address(row) for row in triggers]
    return Installed(
        names,
        _described(connection, addresses),
        _described(connection, mirrored),
        bool(others),
        rebuild,
    )


def users_of(connection: Connection, items: Collection[Item]) -> list[str]:
    """Return descriptions of the objects that use one of `items` and do not go with it."""
    addresses = [item.address for item in items]
    return list(connection.scalars(text(catalog_queries.USERS), _parameters(addresses)))


def callers_of(connection: Connection, items: Collection[Item]) -> list[str]:
    """Return the functions outside of schema `mirror` whose text names a table or function."""
    names = {item.name.partition("(")[0] for item in items if item.kind in {"table", "function"}}
    if not names:
        return []
    parameters = {
        "pattern": catalog_queries.naming(names),
        "oids": [item.address[1] for item in items],
    }
    return list(connection.scalars(text(catalog_queries.CALLERS), parameters))


def writer_stays(connection: Connection, items: Collection[Item]) -> str | None:
    """Return why role mirror_writer has to stay when `items` go.

    Empty: it can go. None: there is no such role.
    """
    addresses = [item.address for item in items]
    row = connection.execute(text(catalog_queries.WRITER), _parameters(addresses)).first()
    return None if row is None else row[0] or ""


def _only(connection: Connection, side: Side, objects: list[Any]) -> tuple[list[Any], bool]:
    """Return the objects of one side, where schema `mirror` holds both, as `Installed.rebuild`.

    A table of both sides, which has one name and two shapes, is that of the side that came first.
    """
    primary, target = _created("primary", "mirror"), _created("supabase", "mirror")
    first = "primary" if connection.scalar(text(catalog_queries.PRIMARY_FIRST)) else "supabase"

    def belongs(row: Any) -> bool:
        if row.name in primary & target:
            return row.name != "migrations" and first == side
        of_primary = row.name in primary or (row.comment or "").startswith(_CAPTURE)
        return bool(of_primary) is (side == "primary")

    return [row for row in objects if belongs(row)], first == side


def _created(side: Side, schema: str) -> set[str]:
    """Return the names of the tables and functions that a side's migrations create in a schema."""
    pattern = rf"create (?:table if not exists|or replace function) {schema}\.(\w+)"
    files = (directory() / side).glob("*.sql" if side == "primary" else "0001_engine/*.sql")
    return {name for file in files for name in re.findall(pattern, file.read_text("utf-8"))}


def _policies(
    connection: Connection, names: list[str], objects: Collection[str]
) -> tuple[list[_Address], list[_Address]]:
    """Return the policies of guards and of mirrored tables, and these tables."""
    models = {name.partition("_")[2] for name in names if not name[0].isdigit()}
    mapped = (
        list(connection.execute(text(catalog_queries.MAPPINGS))) if "mappings" in objects else []
    )
    if "leftovers" in objects:
        mapped += connection.execute(text(catalog_queries.LEFT_TABLES))
    models |= {row.model for row in mapped}
    tables = [_address(row) for row in mapped if row.oid is not None]
    guards = [f"mirror_{model}_{verb}" for model in sorted(models) for verb in _VERBS]
    parameters = {"guards": guards, "tables": [oid for _, oid in tables]}
    found = connection.execute(text(catalog_queries.POLICIES), parameters)
    return [_address(row) for row in found], tables


def _described(connection: Connection, addresses: list[_Address]) -> list[Item]:
    found = connection.execute(text(catalog_queries.DESCRIBED), _parameters(addresses))
    return [Item(row.type, row.identity, row.on_table, _address(row)) for row in found]


def _address(row: Any) -> _Address:
    return row.class_, row.oid


def _parameters(addresses: list[_Address]) -> dict[str, list[int]]:
    return {
        "classes": [class_ for class_, _ in addresses],
        "oids": [oid for _, oid in addresses],
    }
