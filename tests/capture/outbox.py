"""Triggers on a database of a test's own, and what they have recorded."""

from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from tests.support.databases import TestDatabase

Events = set[tuple[int, str, str | None, tuple[str, ...]]]


def install(database: TestDatabase, registry: Registry) -> list[str]:
    """Migrate with triggers; return what was applied."""
    with database.migrating() as connection:
        return upgrade(connection, "primary", registry, triggers=True)


def take_events(database: TestDatabase) -> Events:
    """Empty the outbox and return what it held: lane, mapping, reference, key."""
    rows = database.query("delete from mirror.outbox returning lane, mapping, reference, key")
    return {(lane, mapping, reference, tuple(key)) for lane, mapping, reference, key in rows}
