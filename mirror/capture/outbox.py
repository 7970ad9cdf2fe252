"""Outbox: defines events, and records them in the caller's transaction.

An event says that the row of a key, or all rows of a scope, may have changed. A scope is all keys
with one value of a reference. An event never says how a row changed: the drain reads the present
state, so the order of events, duplicates, and events of a savepoint that rolled back are harmless.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from sqlalchemy import Connection, MetaData, Table, text, update
from sqlalchemy.exc import DBAPIError, UnboundExecutionError
from sqlalchemy.orm import Session

from mirror.capture.statements import statement
from mirror.errors import MappingError, NotMigrated, UsageError
from mirror.errors.sqlstates import NO_PRIVILEGE, OUTDATED, server_error
from mirror.model.keys import Key
from mirror.model.registry import Registry

OUTBOX: Final = Table("outbox", MetaData(), schema="mirror")
"""For sessions of several databases: `Session(binds={..., OUTBOX: primary})`, or with
Flask-SQLAlchemy `OUTBOX.metadata.info["bind_key"] = "primary"`."""

# A session that sends reads to replicas chooses the primary for an UPDATE.
_WRITES = {"clause": update(OUTBOX)}


class Lane(IntEnum):
    """The priority of an event; revocations go first."""

    REVOCATION = 0
    """May take access away: deletes, role and status changes."""
    GRANT = 1
    """Cannot take access away."""

    @classmethod
    def parse(cls, name: str) -> "Lane":
        """Return the lane called `revocation` or `grant`.

        Raises:
            UsageError: `name` is neither of them.
        """
        try:
            return cls[name.upper()]
        except KeyError:
            raise UsageError(f"lane {name!r}: expected 'revocation' or 'grant'.") from None


@dataclass(frozen=True)
class Event:
    """Says that the row of a key, or all rows of a scope, may have changed."""

    lane: Lane
    mapping: str
    key: Key
    """The key. For a scope: its value. If only the rest of a large scope is left to read, the last
    key before the rest follows."""
    reference: str | None = None
    """None: the event is about a key. Otherwise the scope's reference, or EVERYTHING."""


def key_event(registry: Registry, mapping: str, key: object, lane: str) -> Event:
    """Return an event that says that the row of one key may have changed.

    Raises:
        MappingError: the mapping is not declared.
        InvalidKey: the key has the wrong number of values, a wrong type, or contains None.
        UsageError: `lane` is neither `revocation` nor `grant`.
    """
    return Event(Lane.parse(lane), mapping, registry[mapping].canonical(key))


def scope_event(
    registry: Registry, mapping: str, reference: str, value: object, lane: str
) -> Event:
    """Return an event that says that all rows under one value of a reference may have changed.

    Raises:
        MappingError: the mapping or its reference is not declared.
        InvalidKey: the value has the wrong type, or is None.
        UsageError: `lane` is neither `revocation` nor `grant`.
    """
    declared = registry[mapping]
    if declared.reference(reference) is None:
        known = ", ".join(ref.name for ref in declared.all_references) or "none"
        raise MappingError(
            f"mapping {mapping!r} has no reference {reference!r} (declared: {known})."
        )
    text = declared.canonical_reference(reference, value)
    return Event(Lane.parse(lane), mapping, (text,), reference)


_RECORD = text(statement("record_events"))


def outbox_connection(session: Session) -> Connection:
    """Return the session's connection to the database that holds the outbox.

    Raises:
        UsageError: the session has no bind for the outbox.
    """
    try:
        return session.connection(bind_arguments=dict(_WRITES))
    except UnboundExecutionError as error:
        raise UsageError(
            "this session has no database for mirror.outbox; add mirror.capture.OUTBOX to its "
            "binds, with the engine of the primary."
        ) from error
    except AssertionError as error:
        # A ShardedSession asserts that it was asked for a mapped class.
        raise UsageError(
            "this session cannot tell which of its shards holds mirror.outbox; in a subclass, let "
            "get_bind() return the primary's engine if `clause` is an UPDATE of "
            "mirror.capture.OUTBOX."
        ) from error


def insert(connection: Connection, events: Iterable[Event]) -> None:
    """Write events to the outbox in the connection's transaction.

    Raises:
        NotMigrated: the primary has no outbox, or the role may not write to it. The transaction
            must fail, because the mirror would miss its change.
    """
    rows = [[int(event.lane), event.mapping, event.reference, event.key] for event in events]
    try:
        connection.execute(_RECORD, {"events": json.dumps(rows, ensure_ascii=False)})
    except DBAPIError as error:
        state = server_error(error.orig).state
        if state in OUTDATED:
            raise NotMigrated(
                "primary: mirror.outbox is missing, or of another version; run `mirror migrate "
                "primary`. If the session has several databases and chose another one, bind "
                "mirror.capture.OUTBOX to the primary. The transaction cannot commit: the mirror "
                "would miss its change."
            ) from error
        if state == NO_PRIVILEGE:
            raise NotMigrated(
                "primary: this role may not write mirror.outbox; as its owner, run "
                "`grant usage on schema mirror to <role>; grant insert (lane, mapping, reference, "
                "key) on mirror.outbox to <role>`"
            ) from error
        raise
