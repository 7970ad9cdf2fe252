"""Two equal databases that the tests of a module share; each test breaks its own rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy.orm import Session

from examples.trip_chat.models import Base, Membership
from mappings.trips import registry
from mirror import hooks
from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.model.keys import Key
from mirror.sync.drain import Drain
from mirror.testing import Model, Sandboxes
from tests.support import factories
from tests.support.databases import SCHEMA, TestDatabase

WHERE = "where (trip_id, user_id) = (%s, %s)"


def key(member: Membership) -> Key:
    """Return a member's key."""
    return str(member.trip_id), str(member.user_id)


TRIPS = Model(registry, primary=Base.metadata.create_all, target=SCHEMA)
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
def world(sandboxes: Sandboxes) -> Iterator[SharedPair]:
    """The trips model, with everything mirrored."""
    with (
        sandboxes.open(TRIPS) as sandbox,
        Session(sandbox.engine, expire_on_commit=False) as session,
    ):
        for factory in (
            factories.UserFactory,
            factories.TripFactory,
            factories.MembershipFactory,
        ):
            factory._meta.sqlalchemy_session = session
        primary, target = TestDatabase(sandbox.primary_url), TestDatabase(sandbox.target_url)
        yield SharedPair(primary, target, session, sandbox.drain)
