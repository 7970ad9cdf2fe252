"""Traffic: the mixed changes of a backend, at a steady rate, which it records with hooks.

There are as many joins as leaves, and as many new trips as deleted ones, so the number of
memberships stays about the same.
"""

import itertools
import random
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.orm import Session

from benchmarks.servers import Servers
from mappings.trips import registry
from mirror.capture.doorbell import Doorbell
from mirror.hooks import Hooks

MEMBERS_OF_A_NEW_TRIP = 100
_ROLLED_BACK = 0.05
_JOINS_AGAIN = 0.5

JOIN = text("""
insert into trip_memberships (trip_id, user_id, role, status)
values (:trip, :user, 'MEMBER', 'ACTIVE')
""")
LEAVE = text("delete from trip_memberships where trip_id = :trip and user_id = :user")
_CHANGE_ROLES = text("""
update trip_memberships as member
set role = case role when 'MEMBER' then cast('ADMIN' as trip_role) else 'MEMBER' end
from unnest(cast(:trips as uuid[]), cast(:users as uuid[])) as drawn (trip_id, user_id)
where member.trip_id = drawn.trip_id and member.user_id = drawn.user_id
""")
_RENAME_USER = text("update users set username = :name where id = :user")
_RENAME_TRIP = text("update trips set name = :name where id = :trip")
_NEW_TRIP = text("insert into trips (id, name, created_by) values (:trip, 'New', :user)")
# Its memberships go with it.
_DELETE_TRIP = text("delete from trips where id = :trip")

Member = tuple[UUID, UUID]
"""The ids of a trip and of a user."""
Item = TypeVar("Item", bound=Hashable)


class Bag(Generic[Item]):
    """Different items, of which one can be drawn at random."""

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self._items = list(items)
        self._places = {item: place for place, item in enumerate(self._items)}

    def __contains__(self, item: Item) -> bool:
        return item in self._places

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def add(self, item: Item) -> None:
        """Add an item that is not in the bag."""
        self._places[item] = len(self._items)
        self._items.append(item)

    def discard(self, item: Item) -> None:
        """Take an item out, if it is in the bag."""
        place = self._places.pop(item, None)
        if place is None:
            return
        last = self._items.pop()
        if place < len(self._items):
            self._items[place] = last
            self._places[last] = place

    def draw(self, source: random.Random, count: int) -> list[Item]:
        """Return `count` different items, or all if there are fewer; they stay in the bag."""
        return source.sample(self._items, min(count, len(self._items)))


@dataclass
class Effect:
    """The memberships and trips that a transaction adds and removes."""

    joined: list[Member] = field(default_factory=list)
    left: list[Member] = field(default_factory=list)
    founded: list[UUID] = field(default_factory=list)
    deleted: list[UUID] = field(default_factory=list)


class Traffic:
    """A backend that writes to one primary.

    Args:
        servers: the pair whose primary it changes.
        doorbell: wakes its workers.
        spared: the trips and users that it leaves alone.
    """

    def __init__(self, servers: Servers, doorbell: Doorbell, spared: set[UUID]) -> None:
        self.transactions = 0
        self._hooks = Hooks(registry, doorbell)
        self._engine = servers.engine()
        self._random = random.Random(7)  # noqa: S311 - it draws changes
        self._users, self._trips = (
            [one for one in _ids(servers, query) if one not in spared]
            for query in ("select id from users", "select id from trips")
        )
        self._open_trips = Bag(self._trips)
        members = servers.primary.execute("select trip_id, user_id from trip_memberships")
        self._members: Bag[Member] = Bag(
            (UUID(str(trip)), UUID(str(user))) for trip, user in members if trip not in spared
        )
        self._former: Bag[Member] = Bag()
        kinds: list[tuple[Callable[[Session], Effect], int]] = [
            (self._join, 30),
            (self._leave, 30),
            (self._change_role, 25),
            (self._rename_user, 10),
            (self._rename_trip, 3),
            (self._found_trip, 1),
            (self._delete_trip, 1),
        ]
        self._kinds = [kind for kind, _ in kinds]
        self._weights = [weight for _, weight in kinds]

    def run(
        self, stop: threading.Event, *, rate: float, burst: int, seconds_between_bursts: float
    ) -> None:
        """Write `rate` transactions a second until stopped, and now and then a burst of events."""
        began = time.monotonic()
        next_burst = began + seconds_between_bursts / 2
        for number in itertools.count():
            if stop.wait(max(0.0, began + number / rate - time.monotonic())):
                break
            if time.monotonic() >= next_burst:
                next_burst += seconds_between_bursts
                self._write(lambda session: self._change_roles(session, burst))
            (kind,) = self._random.choices(self._kinds, self._weights)
            self._write(kind, rolled_back=self._random.random() < _ROLLED_BACK)
        self._engine.dispose()

    def _write(self, kind: Callable[[Session], Effect], *, rolled_back: bool = False) -> None:
        """Run a transaction; remember its effect if it commits."""
        with Session(self._engine) as session:
            effect = kind(session)
            if rolled_back:
                session.rollback()
                return
            session.commit()
        self.transactions += 1
        for trip in effect.founded:
            self._open_trips.add(trip)
        for trip in effect.deleted:
            self._open_trips.discard(trip)
            for member in [one for one in self._former if one[0] == trip]:
                self._former.discard(member)
        for member in effect.joined:
            self._former.discard(member)
            self._members.add(member)
        for member in effect.left:
            self._members.discard(member)
            if member[0] in self._open_trips:
                self._former.add(member)

    def _join(self, session: Session) -> Effect:
        former = self._former.draw(self._random, 1)
        if former and self._random.random() < _JOINS_AGAIN:
            member = former[0]
        else:
            (trip,) = self._open_trips.draw(self._random, 1)
            member = trip, self._random.choice(self._users)
        if member in self._members:
            return self._change_role(session)
        self._add_member(session, member)
        return Effect(joined=[member])

    def _leave(self, session: Session) -> Effect:
        left = self._members.draw(self._random, 1)
        for trip, user in left:
            session.execute(LEAVE, {"trip": trip, "user": user})
            self._hooks.changed(session, "trip_memberships", (trip, user))
        return Effect(left=left)

    def _change_role(self, session: Session) -> Effect:
        return self._change_roles(session, 1)

    def _change_roles(self, session: Session, count: int) -> Effect:
        members = self._members.draw(self._random, count)
        trips, users = [trip for trip, _ in members], [user for _, user in members]
        session.execute(_CHANGE_ROLES, {"trips": trips, "users": users})
        for member in members:
            self._hooks.changed(session, "trip_memberships", member)
        return Effect()

    def _rename_user(self, session: Session) -> Effect:
        user = self._random.choice(self._users)
        session.execute(_RENAME_USER, {"user": user, "name": f"user{self.transactions}"})
        self._hooks.changed(session, "users", user, lane="grant")
        return Effect()

    def _rename_trip(self, session: Session) -> Effect:
        for trip in self._open_trips.draw(self._random, 1):
            session.execute(_RENAME_TRIP, {"trip": trip, "name": f"Trip {self.transactions}"})
            self._hooks.changed(session, "trips", trip, lane="grant")
        return Effect()

    def _found_trip(self, session: Session) -> Effect:
        trip = uuid4()
        users = self._random.sample(self._users, min(MEMBERS_OF_A_NEW_TRIP, len(self._users)))
        session.execute(_NEW_TRIP, {"trip": trip, "user": users[0]})
        self._hooks.changed(session, "trips", trip, lane="grant")
        for user in users:
            self._add_member(session, (trip, user))
        return Effect(founded=[trip], joined=[(trip, user) for user in users])

    def _delete_trip(self, session: Session) -> Effect:
        trips = self._open_trips.draw(self._random, 1)
        for trip in trips:
            session.execute(_DELETE_TRIP, {"trip": trip})
            self._hooks.changed(session, "trips", trip)
        return Effect(deleted=trips, left=[one for one in self._members if one[0] in trips])

    def _add_member(self, session: Session, member: Member) -> None:
        trip, user = member
        session.execute(JOIN, {"trip": trip, "user": user})
        self._hooks.changed(session, "trip_memberships", member, lane="grant")


def _ids(servers: Servers, query: str) -> list[UUID]:
    return [UUID(str(one)) for (one,) in servers.primary.execute(query.encode()).fetchall()]
