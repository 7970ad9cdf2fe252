"""Random transactions by random writers, each captured in another way, with drains running.

Whatever they did, and in whatever order it was mirrored, in the end the target is what the
mappings' queries say.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from random import Random
from uuid import UUID

import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError, NoResultFound, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from mirror.sync.drain import Drain
from tests.capture.backend import CapturedBackend
from tests.capture.clubs import Club, Company, Member, Person
from tests.faults.tools import Running

# Few of each, so that writers meet.
CLUBS, PEOPLE = range(1, 5), range(10, 15)
AUTH_IDS = [UUID(int=number) for number in range(1, 8)]


class Writer:
    """Makes random changes in one world; calls the hooks that a careful author would."""

    def __init__(self, world: CapturedBackend, seed: int) -> None:
        self.world = world
        self.random = Random(seed)
        self.committed = 0
        changes: list[Callable[[Session], None]] = [
            self._join,
            self._leave_or_return,
            self._promote,
            self._remove,
            self._upsert_member,
            self._promote_club,
            self._archive,
            self._new_club,
            self._delete_club,
            self._rename,
            self._sign_in,
            self._new_person,
            self._delete_person,
        ]
        if "triggers" in world.ways:
            changes += [self._delete_company, self._by_hand]
        self.changes = changes

    def run(self, transactions: int) -> None:
        """Make that many transactions, or try to."""
        for _ in range(transactions):
            with self.world.session() as session:
                try:
                    for _ in range(self.random.randint(1, 4)):
                        self._step(session)
                    if self.random.random() < 0.15:
                        session.rollback()
                    else:
                        session.commit()
                        self.committed += 1
                except OperationalError:
                    session.rollback()  # Two waited for each other.

    def _step(self, session: Session) -> None:
        """Make one change in a savepoint, which is rolled back if it cannot be, or by chance."""
        with (
            suppress(IntegrityError, StaleDataError, NoResultFound),
            session.begin_nested() as savepoint,
        ):
            self.random.choice(self.changes)(session)
            session.flush()
            if self.random.random() < 0.2:
                savepoint.rollback()

    def _pick(self, numbers: range) -> int:
        return self.random.choice(numbers)

    def _a_member(self, session: Session) -> Member:
        member = session.scalars(select(Member).order_by(text("random()")).limit(1)).first()
        if member is None:
            raise NoResultFound
        return member

    def _told(self, session: Session, person: int, *clubs: int) -> None:
        """Call the hooks for a person's memberships, and for clubs that changed."""
        self.world.scope(session, "memberships", person_id=person)
        for club in clubs:
            self.world.changed(session, "clubs", club)

    def _join(self, session: Session) -> None:
        member = Member(club_id=self._pick(CLUBS), person_id=self._pick(PEOPLE))
        session.add(member)
        self._told(session, member.person_id)

    def _leave_or_return(self, session: Session) -> None:
        member = self._a_member(session)
        member.left = not member.left
        self._told(session, member.person_id)

    def _promote(self, session: Session) -> None:
        member = self._a_member(session)
        member.role = self.random.choice("ABC")
        self._told(session, member.person_id)

    def _remove(self, session: Session) -> None:
        member = self._a_member(session)
        session.delete(member)
        self._told(session, member.person_id)

    def _upsert_member(self, session: Session) -> None:
        person = self._pick(PEOPLE)
        new = upsert(Member).values(club_id=self._pick(CLUBS), person_id=person, role="U")
        session.execute(
            new.on_conflict_do_update(
                index_elements=["club_id", "person_id"], set_={"role": new.excluded.role}
            )
        )
        self._told(session, person)

    def _promote_club(self, session: Session) -> None:
        club = self._pick(CLUBS)
        role = self.random.choice("ABC")
        session.execute(update(Member).where(Member.club_id == club).values(role=role))
        self.world.scope(session, "memberships", club_id=club)

    def _archive(self, session: Session) -> None:
        club = session.get_one(Club, self._pick(CLUBS))
        club.archived = not club.archived
        self.world.changed(session, "clubs", club.id)
        self.world.scope(session, "memberships", club_id=club.id)

    def _new_club(self, session: Session) -> None:
        club = self._pick(CLUBS)
        session.execute(upsert(Company).values(id=club).on_conflict_do_nothing())
        session.add(Club(id=club, company_id=club))
        self.world.changed(session, "clubs", club)

    def _delete_club(self, session: Session) -> None:
        club = self._pick(CLUBS)
        session.execute(delete(Club).where(Club.id == club))
        self.world.changed(session, "clubs", club)

    def _rename(self, session: Session) -> None:
        club = session.get_one(Club, self._pick(CLUBS))
        club.name = self.random.choice(["one", "two"])
        self.world.changed(session, "clubs", club.id)

    def _sign_in(self, session: Session) -> None:
        person = session.get_one(Person, self._pick(PEOPLE), with_for_update=True)
        for auth_id in (person.auth_id, new := self.random.choice([None, *AUTH_IDS])):
            if auth_id is not None:
                self.world.changed(session, "people", auth_id)
        person.auth_id = new
        self._told(session, person.id)

    def _new_person(self, session: Session) -> None:
        person = Person(id=self._pick(PEOPLE), auth_id=self.random.choice([None, *AUTH_IDS]))
        session.add(person)
        if person.auth_id is not None:
            self.world.changed(session, "people", person.auth_id)

    def _delete_person(self, session: Session) -> None:
        person = session.get_one(Person, self._pick(PEOPLE), with_for_update=True)
        session.delete(person)
        if person.auth_id is not None:
            self.world.changed(session, "people", person.auth_id)
        self._told(session, person.id)

    def _delete_company(self, session: Session) -> None:
        session.execute(text("delete from companies where id = :id"), {"id": self._pick(CLUBS)})

    def _by_hand(self, session: Session) -> None:
        session.execute(
            text("update members set person_id = :to where person_id = :from"),
            {"from": self._pick(PEOPLE), "to": self._pick(PEOPLE)},
        )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("everyone", [("hooks", "orm"), ("hooks", "orm", "triggers")], ids="+".join)
def test_whatever_writers_do_the_target_ends_up_right(
    everyone: tuple[str, ...],
    seed: int,
    make_world: Callable[..., CapturedBackend],
    make_drain: Callable[..., Drain],
) -> None:
    """One writer for each way, and two workers."""
    worlds = [make_world(way) for way in everyone]
    worlds[0].populate()
    writers = [Writer(world, seed * 10 + number) for number, world in enumerate(worlds)]
    over = threading.Event()

    def work(batch_size: int) -> int:
        drain, events = make_drain(batch_size=batch_size), 0
        while not over.is_set():
            events += drain.run(seconds=1).events
        return events

    workers = [Running(lambda size=size: work(size)) for size in (3, 50)]  # type: ignore[misc]
    writing = [Running(lambda writer=writer: writer.run(60)) for writer in writers]  # type: ignore[misc]
    for each in writing:
        each.wait()
    over.set()
    mirrored = sum(worker.wait() for worker in workers)
    worlds[0].mirror()
    assert mirrored > 0
    assert all(writer.committed > 20 for writer in writers), [
        writer.committed for writer in writers
    ]
