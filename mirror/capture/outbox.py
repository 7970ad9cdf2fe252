"""The outbox as writers see it: events, and how they are recorded.

An event says that a key, or everything in a scope, may have changed. It never says how: the
drain reads the present state, so order, duplicates and even events of a savepoint that rolled
back do no harm.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from sqlalchemy import Connection, table, text, update
from sqlalchemy.exc import DBAPIError, UnboundExecutionError
from sqlalchemy.orm import Session

from mirror.capture.statements import statement
from mirror.errors import MappingError, NotMigrated, UsageError
from mirror.errors.sqlstates import NO_PRIVILEGE, OUTDATED, server_error
from mirror.model.keys import Key
from mirror.model.registry import Registry

OUTBOX: Final = table("outbox", schema="mirror")
"""For sessions of several databases: `Session(binds={..., OUTBOX: primary})`."""

# Sessions that send reads to replicas know by an UPDATE that they must not.
_WRITES = {"clause": update(OUTBOX)}


class Lane(IntEnum):
    """Which events go first."""

    REVOCATION = 0
    """May take access away: deletes, role and status changes."""
    GRANT = 1

    @classmethod
    def named(cls, name: str) -> "Lane":
        """Return the lane called `revocation` or `grant`."""
        try:
            return cls[name.upper()]
        except KeyError:
            raise UsageError(f"lane {name!r}: expected 'revocation' or 'grant'.") from None


@dataclass(frozen=True)
class Event:
    """Something about a key, or about a scope, may have changed."""

    lane: Lane
    mapping: str
    key: Key
    """A key; for a scope its value, followed by the key after which to go on, if any."""
    reference: str | None = None
    """None: `key` is a key. Otherwise the scope's reference, or EVERYTHING."""


def key_event(registry: Registry, mapping: str, key: object, lane: str) -> Event:
    """Return the event of one key.

    Raises:
        MappingError: no such mapping.
        InvalidKey: the key has the wrong arity or type, or holds None.
    """
    return Event(Lane.named(lane), mapping, registry[mapping].canonical(key))


def scope_event(
    registry: Registry, mapping: str, reference: str, value: object, lane: str
) -> Event:
    """Return the event of all keys under one value of a reference.

    Raises:
        MappingError: no such mapping, or it has no such reference.
        InvalidKey: the value has the wrong type, or is None.
    """
    declared = registry[mapping]
    if declared.reference(reference) is None:
        known = ", ".join(ref.name for ref in declared.all_references) or "none"
        raise MappingError(
            f"mapping {mapping!r} has no reference {reference!r} (declared: {known})."
        )
    text = declared.canonical_reference(reference, value)
    return Event(Lane.named(lane), mapping, (text,), reference)


_RECORD = text(statement("record_events"))


def outbox_connection(session: Session) -> Connection:
    """Return the session's connection to the database that holds the outbox.

    Raises:
        UsageError: the session does not say which database that is.
    """
    try:
        return session.connection(bind_arguments=dict(_WRITES))
    except UnboundExecutionError as error:
        raise UsageError(
            "this session has no database for mirror.outbox; add mirror.capture.OUTBOX to its "
            "binds, with the engine of the primary."
        ) from error


def insert(connection: Connection, events: Iterable[Event]) -> None:
    """Record events in the connection's transaction.

    Raises:
        NotMigrated: the primary has no outbox; the transaction cannot go on, because its change
            would be lost to the mirror.
    """
    rows = [[int(event.lane), event.mapping, event.reference, event.key] for event in events]
    try:
        connection.execute(_RECORD, {"events": json.dumps(rows, ensure_ascii=False)})
    except DBAPIError as error:
        state = server_error(error.orig).state
        if state in OUTDATED:
            raise NotMigrated(
                "primary: mirror.outbox is missing, or of another version; run `mirror migrate "
                "primary`. The transaction cannot commit: the mirror would miss its change."
            ) from error
        if state == NO_PRIVILEGE:
            raise NotMigrated(
                "primary: this role may not write mirror.outbox; as its owner, run "
                "`grant usage on schema mirror to <role>; grant insert on mirror.outbox to <role>`"
            ) from error
        raise
