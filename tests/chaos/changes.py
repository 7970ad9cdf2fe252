"""The random changes of one writer, which owns its trips and users alone."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from examples.trip_chat.models import Membership, Role, Status, Trip, User
from mirror.capture.recorder import LaneName
from tests.chaos.access import Pair

Record = Callable[[Session, str, UUID | Pair, LaneName], None]
"""Calls a hook for a key of a mapping."""


@dataclass
class Change:
    """A change that can be made again if its transaction failed."""

    make: Callable[[Session], None]
    granted: frozenset[Pair] = frozenset()
    revoked: frozenset[Pair] = frozenset()


class Changes:
    """Draws one change after the other."""

    def __init__(self, random: Random, record: Record, *, bulk: bool) -> None:
        self.random = random
        self.record = record
        self.users = [UUID(int=random.getrandbits(128), version=4) for _ in range(3)]
        self.trips = [UUID(int=random.getrandbits(128), version=4) for _ in range(2)]
        self.pairs = [(trip, user) for trip in self.trips for user in self.users]
        self.active: set[Pair] = set()
        """The pairs whose membership counts, whether their trip is deleted or not."""
        self.kinds = [self._join, self._join, self._join, self._leave, self._leave]
        self.kinds += [self._change_role, self._rename, self._delete_trip, self._restore_trip]
        self.kinds += [self._recreate_trip]
        if bulk:
            self.kinds.append(self._empty_trip)

    def first(self) -> Change:
        """Return the change that creates the users and trips."""

        def make(session: Session) -> None:
            for user in self.users:
                session.merge(User(id=user, email=f"{user}@example.com", username="first"))
                self.record(session, "users", user, "grant")
            session.flush()
            for trip in self.trips:
                session.merge(Trip(id=trip, name="first", created_by=self.users[0]))
                self.record(session, "trips", trip, "grant")

        return Change(make)

    def next(self) -> Change:
        """Draw a change."""
        return self.random.choice(self.kinds)()

    def _join(self) -> Change:
        pair = self.random.choice(self.pairs)
        role = self.random.choice(list(Role))
        self.active.add(pair)
        return Change(lambda session: self._put(session, [pair], role), granted=frozenset([pair]))

    def _put(self, session: Session, pairs: Iterable[Pair], role: Role) -> None:
        for trip, user in pairs:
            member = Membership(
                trip_id=trip, user_id=user, role=role, status=Status.ACTIVE, deleted_at=None
            )
            session.merge(member)
            session.flush()
            self.record(session, "trip_memberships", (trip, user), "grant")

    def _leave(self) -> Change:
        pair = self.random.choice(self.pairs)
        how = self.random.choice(["delete", "mark", "deactivate"])
        self.active.discard(pair)

        def make(session: Session) -> None:
            member = session.get(Membership, pair)
            if member is not None and how == "delete":
                session.delete(member)
            elif member is not None and how == "mark":
                member.deleted_at = datetime.now(UTC)
            elif member is not None:
                member.status = Status.INACTIVE
            self.record(session, "trip_memberships", pair, "revocation")

        return Change(make, revoked=frozenset([pair]))

    def _change_role(self) -> Change:
        pair, role = self.random.choice(self.pairs), self.random.choice(list(Role))

        def make(session: Session) -> None:
            member = session.get(Membership, pair)
            if member is not None:
                member.role = role
            self.record(session, "trip_memberships", pair, "revocation")

        return Change(make)

    def _rename(self) -> Change:
        name = f"name {self.random.randrange(10**6)}"
        trip, user = self.random.choice(self.trips), self.random.choice(self.users)

        def make(session: Session) -> None:
            session.get_one(Trip, trip).name = name
            session.get_one(User, user).username = name
            self.record(session, "trips", trip, "grant")
            self.record(session, "users", user, "grant")

        return Change(make)

    def _of(self, trip: UUID) -> frozenset[Pair]:
        return frozenset(pair for pair in self.pairs if pair[0] == trip)

    def _delete_trip(self) -> Change:
        trip = self.random.choice(self.trips)

        def make(session: Session) -> None:
            session.get_one(Trip, trip).deleted_at = datetime.now(UTC)
            self.record(session, "trips", trip, "revocation")

        return Change(make, revoked=self._of(trip))

    def _restore_trip(self) -> Change:
        trip = self.random.choice(self.trips)

        def make(session: Session) -> None:
            session.get_one(Trip, trip).deleted_at = None
            self.record(session, "trips", trip, "grant")

        return Change(make, granted=self._of(trip) & self.active)

    def _recreate_trip(self) -> Change:
        """Delete a trip with its members, and insert it again with some of them."""
        trip, role = self.random.choice(self.trips), self.random.choice(list(Role))
        kept = [pair for pair in sorted(self._of(trip)) if self.random.random() < 0.5]
        self.active = (self.active - self._of(trip)) | set(kept)

        def make(session: Session) -> None:
            session.delete(session.get_one(Trip, trip))
            session.flush()
            session.add(Trip(id=trip, name="again", created_by=self.users[0]))
            session.flush()
            self.record(session, "trips", trip, "revocation")
            self._put(session, kept, role)

        return Change(make, granted=frozenset(kept), revoked=self._of(trip) - set(kept))

    def _empty_trip(self) -> Change:
        """Delete all members of a trip, as a user of psql does."""
        trip = self.random.choice(self.trips)
        self.active -= self._of(trip)

        def make(session: Session) -> None:
            statement = text("delete from trip_memberships where trip_id = :trip")
            session.execute(statement, {"trip": trip})

        return Change(make, revoked=self._of(trip))
