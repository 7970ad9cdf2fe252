"""Two equal databases that the tests of a module share; each test breaks its own rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy.orm import Session

from examples.trip_chat.models import Membership
from mappings.trips import registry
from mirror import hooks
from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.devstack import PostgresCluster
from mirror.model.keys import Key
from mirror.settings import load_settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain
from tests.support import factories
from tests.support.databases import TestDatabase

WHERE = "where (trip_id, user_id) = (%s, %s)"


def key(member: Membership) -> Key:
    """Return a member's key."""
    return str(member.trip_id), str(member.user_id)


RECORDER = hooks.Hooks(registry, Doorbell(DoorbellSettings(mode="off")))


@dataclass
class SharedPair:
    """Two equal databases, and a worker between them; each test breaks its own rows."""

    primary: TestDatabase
    target: TestDatabase
    session: Session
    drain: Drain

    def member(self, **values: Any) -> Membership:
        """Return a mirrored member of a trip, with a user of Supabase Auth."""
        made: Membership = factories.MembershipFactory(**values)
        self.session.flush()
        RECORDER.changed(self.session, "users", made.user_id)
        RECORDER.changed(self.session, "trips", made.trip_id)
        RECORDER.changed(self.session, "trip_memberships", key(made))
        self.session.commit()
        self.target.query("insert into auth.users (id) values (%s)", made.user_id)
        self.mirror()
        return made

    def change(self, change: str, member: Membership) -> None:
        """Change a membership in the primary without recording an event."""
        self.primary.query(f"update trip_memberships set {change} {WHERE}", *key(member))

    def record(self, member: Membership) -> None:
        """Record the event that a hook would record."""
        self.primary.query(
            "insert into mirror.outbox (mapping, key) values ('trip_memberships', %s)",
            list(key(member)),
        )

    def mirror(self) -> None:
        """Mirror all events."""
        assert self.drain.run().failed == 0

    @contextmanager
    def broken(self, break_sql: str, repair_sql: str) -> Iterator[None]:
        """Break the target's schema, and repair it at the end of the block."""
        self.target.query(break_sql)
        try:
            yield
        finally:
            self.target.query(repair_sql)


@pytest.fixture(scope="module")
def world(
    primary_cluster: PostgresCluster,
    primary_template: str,
    target_cluster: PostgresCluster,
    target_template: str,
) -> Iterator[SharedPair]:
    """The trips model, with everything mirrored."""
    primary_cluster.create_database("primary_world", template=primary_template)
    target_cluster.create_database("target_world", template=target_template, owner="postgres")
    primary = TestDatabase(primary_cluster.url("primary_world"))
    target = TestDatabase(target_cluster.url("target_world", user="postgres"))
    settings = load_settings(primary_database_url=primary.url, supabase_db_url=target.url)
    drain = build_drain(settings, registry)
    engine = primary.engine()
    with Session(engine, expire_on_commit=False) as session:
        for factory in (
            factories.UserFactory,
            factories.TripFactory,
            factories.MembershipFactory,
        ):
            factory._meta.sqlalchemy_session = session
        yield SharedPair(primary, target, session, drain)
    drain.close()
    engine.dispose()
    primary_cluster.drop_database("primary_world")
    target_cluster.drop_database("target_world")
