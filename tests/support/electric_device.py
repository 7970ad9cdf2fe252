"""A device that syncs with Electric: it reads a snapshot, then the changes of its user's rows."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from tests.support.databases import TestDatabase

Row = dict[str, str | None]


class Change(NamedTuple):
    """One change of the published table."""

    verb: str
    """`insert`, `update` or `delete`."""
    row: Row
    """The new row, or the old row of a delete."""


@dataclass
class Device:
    """A device of a user, with its own replication slot; it reads the log when it is online."""

    database: TestDatabase
    """The database, as a role with the REPLICATION attribute."""
    name: str
    user: UUID
    publication: str = "electric_publication_default"
    rows: dict[tuple[str | None, str | None], str | None] = field(default_factory=dict)
    """The device's rows: the level by kind and id."""

    def __post_init__(self) -> None:
        self.database.query("select pg_create_logical_replication_slot(%s, 'pgoutput')", self.name)
        snapshot = self.database.query(
            "select resource_type, resource_id::text, permission_level from user_permissions"
            " where user_id = %s",
            self.user,
        )
        self.rows = {(kind, resource): level for kind, resource, level in snapshot}

    def sync(self) -> list[str]:
        """Read the new changes; apply and return those of the user's rows, each as `verb kind`."""
        # A slot yields only changes that are on disk; the tests' servers write late by default.
        with self.database.connect(options="-c synchronous_commit=on") as connection:
            connection.execute("select pg_logical_emit_message(true, '', '')")
        messages = self.database.query(
            "select data from pg_logical_slot_get_binary_changes("
            "%s, null, null, 'proto_version', '1', 'publication_names', %s)",
            self.name,
            self.publication,
        )
        done = []
        for verb, row in decoded(bytes(data) for (data,) in messages):
            if row["user_id"] != str(self.user):
                continue
            key = (row["resource_type"], row["resource_id"])
            if verb == "delete":
                del self.rows[key]
            else:
                self.rows[key] = row["permission_level"]
            done.append(f"{verb} {row['resource_type']}")
        return done

    def close(self) -> None:
        """Drop the replication slot."""
        self.database.query("select pg_drop_replication_slot(%s)", self.name)


def decoded(messages: Iterator[bytes]) -> Iterator[Change]:
    """Yield the changes in these messages of the plug-in pgoutput, protocol 1."""
    columns: dict[int, list[str]] = {}
    for message in messages:
        reader = _Reader(message[1:])
        match message[:1]:
            case b"R":
                relation = reader.number("I")
                columns[relation] = list(reader.relation())
            case b"I" | b"U" | b"D" as kind:
                names = columns[reader.number("I")]
                part, row = reader.bytes(1), reader.row(names)
                if kind == b"U" and part != b"N":
                    reader.bytes(1)
                    row = reader.row(names)
                verb = {b"I": "insert", b"U": "update", b"D": "delete"}[kind]
                yield Change(verb, row)
            case b"B" | b"C" | b"O" | b"Y":
                pass
            case other:
                raise AssertionError(other)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def bytes(self, count: int) -> bytes:
        self._position += count
        return self._data[self._position - count : self._position]

    def number(self, kind: str) -> int:
        value: int = struct.unpack(f"!{kind}", self.bytes(struct.calcsize(f"!{kind}")))[0]
        return value

    def text(self) -> str:
        end = self._data.index(b"\0", self._position)
        return self.bytes(end + 1 - self._position)[:-1].decode()

    def relation(self) -> Iterator[str]:
        self.text(), self.text(), self.bytes(1)
        for _ in range(self.number("H")):
            self.bytes(1)
            yield self.text()
            self.bytes(8)

    def row(self, names: list[str]) -> Row:
        values: list[str | None] = []
        for _ in range(self.number("H")):
            kind = self.bytes(1)
            values.append(self.bytes(self.number("I")).decode() if kind == b"t" else None)
        return dict(zip(names, values, strict=True))
