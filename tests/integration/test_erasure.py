"""Erasure: after a row is deleted in the primary, its values are nowhere in the mirror."""

import io
import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Text, column, select, table

from mirror.devstack import RedisServer
from mirror.model.mapping import Column, Mapping, Parent
from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from mirror.settings import Settings, load_settings
from mirror.settings.logs import configure_logging
from mirror.sync.wiring import build_drain
from mirror.worker import Worker
from tests.support.databases import TestDatabase

USER = str(uuid4())
ADDRESS = "grace.hopper@example.com"
REFUSED = "grace.hopper@example.org"

_TABLES = """
select format('%I.%I', schemaname, tablename) from pg_tables
where schemaname !~ '^(pg_|information_schema)' and (%s or schemaname = 'mirror')
  and has_table_privilege(format('%I.%I', schemaname, tablename), 'select')
"""


def rows_of(database: TestDatabase, *, every_schema: bool) -> str:
    """Return all rows of all tables as text: of the schema `mirror`, or of every schema."""
    tables = database.query(_TABLES.replace("%I", "%%I"), every_schema)
    found: list[str] = []
    for (name,) in tables:
        found += [row for (row,) in database.query(f"select t::text from {name} as t")]
    return "\n".join(found)


class Mirrored:
    """A worker between the two databases, and all that it stores and logs."""

    def __init__(self, primary: TestDatabase, target: TestDatabase, worker: Worker) -> None:
        self.primary = primary
        self.target = target
        self.worker = worker
        self.log = io.StringIO()

    def change(self, query: str, *parameters: Any) -> None:
        """Change the user's row in the primary, with its event, and mirror it."""
        self.primary.query(query, *parameters)
        self.primary.query("insert into mirror.outbox (mapping, key) values ('users', %s)", [USER])
        # Earlier failures are retried now.
        self.primary.query("update mirror.retries set due_at = now() - interval '1 second'")
        self.worker.run_drain()

    def places(self, value: str) -> list[str]:
        """Return the places that hold a value."""
        texts = {
            "target": rows_of(self.target, every_schema=True),
            "primary": rows_of(self.primary, every_schema=False),
            "log": self.log.getvalue(),
        }
        return [place for place, text in texts.items() if value in text]


@pytest.fixture
def mirrored(
    primary: TestDatabase, target: TestDatabase, settings: Settings, redis_server: RedisServer
) -> Iterator[Mirrored]:
    """A user whose address is in the target; the log holds everything that can be logged."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    changed = load_settings(
        primary_database_url=settings.need("primary_database_url"),
        supabase_db_url=settings.need("supabase_db_url"),
        redis_url=redis_server.url,
    )
    made = Mirrored(primary, target, Worker(lambda: changed))
    configure_logging(level="debug", stream=made.log)
    made.change("insert into users (id, email, username) values (%s, %s, 'g')", USER, ADDRESS)
    yield made
    made.worker.drain.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_the_address_of_a_deleted_user_is_nowhere(mirrored: Mirrored) -> None:
    """Not in a table of the target, in a table of the mirror in the primary, nor in a log."""
    assert mirrored.places(ADDRESS) == ["target"]
    mirrored.change("delete from users where id = %s", USER)
    assert mirrored.places(ADDRESS) == []
    assert "drained" in mirrored.log.getvalue()
    assert mirrored.places(USER) == ["target"], "the key stays in the ledger"


def test_the_address_of_an_event_that_failed_is_nowhere(mirrored: Mirrored) -> None:
    """The target refuses the new address: the event's error and the log do not repeat it."""
    mirrored.target.query(
        "alter table users add constraint no_org check (email not like '%@example.org')"
    )
    mirrored.change("update users set email = %s where id = %s", REFUSED, USER)
    assert "no_org" in mirrored.primary.value("select error from mirror.retries")
    assert mirrored.places("no_org") == ["primary", "log"]
    assert mirrored.places(REFUSED) == []
    mirrored.change("delete from users where id = %s", USER)
    assert mirrored.places(REFUSED) == mirrored.places(ADDRESS) == []
    assert mirrored.primary.value("select count(*) from mirror.retries") == 0


_handles = table("handles", column("username", Text))
_seats = table("seats", column("id", Text), column("username", Text))
HANDLES = Mapping(
    name="handles",
    table="handles",
    key=("username",),
    columns=(Column("username", "text"),),
    query=select(_handles.c.username),
)
SEATS = Mapping(
    name="seats",
    table="seats",
    key=("id",),
    columns=(Column("id", "text"), Column("username", "text")),
    query=select(_seats.c.id, _seats.c.username),
    parents=(Parent("handles", "username"),),
)


def test_a_personal_key_is_remembered_until_the_purge(
    primary: TestDatabase, project: TestDatabase
) -> None:
    """Ledgers and scopes hold the key of a deleted row for `MIRROR_TOMBSTONE_DAYS`, no longer."""
    model = Registry("handles", [HANDLES, SEATS])
    primary.query(
        "create table handles (username text); create table seats (id text, username text)"
    )
    with project.migrating() as connection:
        upgrade(connection, "supabase", model)
    settings = load_settings(primary_database_url=primary.url, supabase_db_url=project.url)
    with closing(build_drain(settings, model)) as drain:
        primary.query(
            "insert into handles values ('grace'); insert into seats values ('1', 'grace')"
        )
        event = (
            "insert into mirror.outbox (mapping, key)"
            " values ('handles', '{grace}'), ('seats', '{1}')"
        )
        primary.query(event)
        drain.run()
        assert project.value("select username from seats") == "grace"
        primary.query("delete from handles; delete from seats")
        primary.query(event)
        drain.run()
        assert "grace" not in rows_of(primary, every_schema=False)

        for days in (settings.tombstone_days - 1, settings.tombstone_days + 1):
            for name, moment in (
                ("ledger_handles", "applied_at"),
                ("ledger_seats", "applied_at"),
                ("scopes", "read_at"),
            ):
                project.query(f"update mirror.{name} set {moment} = now() - interval '{days} days'")
            drain.target.purge(settings.tombstone_days)
            kept = "grace" in rows_of(project, every_schema=True)
            assert kept == (days < settings.tombstone_days)
