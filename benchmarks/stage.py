"""The servers that a benchmark runs on: a primary and a target of the example's model.

PostgreSQL 16 and 18 with fsync, and Redis, all on this machine.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from examples.trip_chat import models
from mappings.trips import registry
from mirror.assembly import migrating
from mirror.config import Settings, load_settings
from mirror.devstack import DevStack
from mirror.migrations import upgrade

Connection = psycopg.Connection[tuple[object, ...]]

# Every trip has a hundred members, every user is in twenty trips.
_FILL = """
insert into users (id, email, username)
select gen_random_uuid(), 'user' || n || '@example.com', 'user' || n
from generate_series(1, {users}) as n;
create table numbered as select id, row_number() over (order by id) as n from users;
insert into trips (id, name, created_by)
select gen_random_uuid(), 'Trip ' || n, (select id from numbered where n = 1)
from generate_series(1, {trips}) as n;
insert into trip_memberships (trip_id, user_id, role, status)
select t.id, u.id, 'MEMBER', 'ACTIVE'
from (select id, row_number() over () as n from trips) as t
cross join generate_series(1, 100) as m
join numbered as u on u.n = 1 + (t.n * 7919 + m * 104729) % {users};
drop table numbered;
analyze
"""


@dataclass
class Stage:
    """A migrated pair of databases, with connections of their owners in autocommit mode."""

    stack: DevStack
    settings: Settings
    primary: Connection
    target: Connection

    def fill(self, memberships: int) -> None:
        """Give the primary that many memberships, and a user for twenty, a trip for a hundred."""
        sizes = {"users": memberships // 20, "trips": memberships // 100}
        self.primary.execute(_FILL.format(**sizes).encode())


@contextmanager
def stage(*, api: Path | None = None) -> Iterator[Stage]:
    """Yield a migrated pair of databases without rows; with an API before the target if asked."""
    with DevStack.start(api=api) as stack:
        settings = load_settings(
            primary_database_url=stack.primary_url,
            supabase_db_url=stack.supabase_db_url,
            redis_url=stack.redis_url,
        )
        with migrating(settings, "primary") as connection:
            models.Base.metadata.create_all(connection)
            upgrade(connection)
        with migrating(settings, "supabase") as connection:
            upgrade(connection, "supabase", registry)
        with (
            psycopg.connect(stack.primary_url, autocommit=True) as primary,
            psycopg.connect(stack.supabase_db_url, autocommit=True) as target,
        ):
            yield Stage(stack, settings, primary, target)
