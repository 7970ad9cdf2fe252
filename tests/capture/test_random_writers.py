"""Random transactions by several writers, each captured in another way, while drains run.

At the end the target equals the rows of the mappings' queries, and the order in which the changes
were mirrored does not matter.
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

# Few of each, so that writers collide.
CLUBS, PEOPLE = range(1, 5), range(10, 15)
AUTH_IDS = [UUID(int=number) for number in range(1, 8)]


class Writer:
    """Makes random changes in one backend, and calls the hooks that a careful author would call."""

    def __init__(self, backend: CapturedBackend, seed: int) -> None:
        self.backend = backend
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
        if "triggers" in backend.ways:
            changes += [self._delete_company, self._reassign_memberships]
        self.changes = changes

    def run(self, transactions: int) -> None:
        """Run so many transactions; some of them are rolled back."""
        for _ in range(transactions):
            with self.backend.session() as session:
                try:
                    for _ in range(self.random.randint(1, 4)):
                        self._step(session)
                    if self.random.random() < 0.15:
                        session.rollback()
                    else:
                        session.commit()
                        self.committed += 1
                except OperationalError:
                    session.rollback()  # A deadlock of two writers.

    def _step(self, session: Session) -> None:
        """Make one change in a savepoint; roll it back if it fails, and sometimes at random."""
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

    def _random_member(self, session: Session) -> Member:
        member = session.scalars(select(Member).order_by(text("random()")).limit(1)).first()
        if member is None:
            raise NoResultFound
        return member

    def _call_hooks(self, session: Session, person: int, *clubs: int) -> None:
        """Call the hooks for a person's memberships, and for clubs that changed."""
        self.backend.scope(session, "memberships", person_id=person)
        for club in clubs:
            self.backend.changed(session, "clubs", club)

    def _join(self, session: Session) -> None:
        member = Member(club_id=self._pick(CLUBS), person_id=self._pick(PEOPLE))
        session.add(member)
        self._call_hooks(session, member.person_id)

    def _leave_or_return(self, session: Session) -> None:
        member = self._random_member(session)
        member.left = not member.left
        self._call_hooks(session, member.person_id)

    def _promote(self, session: Session) -> None:
        member = self._random_member(session)
        member.role = self.random.choice("ABC")
        self._call_hooks(session, member.person_id)

    def _remove(self, session: Session) -> None:
        member = self._random_member(session)
        session.delete(member)
        self._call_hooks(session, member.person_id)

    def _upsert_member(self, session: Session) -> None:
        person = self._pick(PEOPLE)
        new = upsert(Member).values(club_id=self._pick(CLUBS), person_id=person, role="U")
        session.execute(
            new.on_conflict_do_update(
                index_elements=["club_id", "person_id"], set_={"role": new.excluded.role}
            )
        )
        self._call_hooks(session, person)

    def _promote_club(self, session: Session) -> None:
        club = self._pick(CLUBS)
        role = self.random.choice("ABC")
        session.execute(update(Member).where(Member.club_id == club).values(role=role))
        self.backend.scope(session, "memberships", club_id=club)

    def _archive(self, session: Session) -> None:
        club = session.get_one(Club, self._pick(CLUBS))
        club.archived = not club.archived
        self.backend.changed(session, "clubs", club.id)
        self.backend.scope(session, "memberships", club_id=club.id)

    def _new_club(self, session: Session) -> None:
        club = self._pick(CLUBS)
        session.execute(upsert(Company).values(id=club).on_conflict_do_nothing())
        session.add(Club(id=club, company_id=club))
        self.backend.changed(session, "clubs", club)

    def _delete_club(self, session: Session) -> None:
        club = self._pick(CLUBS)
        session.execute(delete(Club).where(Club.id == club))
        self.backend.changed(session, "clubs", club)

    def _rename(self, session: Session) -> None:
        club = session.get_one(Club, self._pick(CLUBS))
        club.name = self.random.choice(["one", "two"])
        self.backend.changed(session, "clubs", club.id)

    def _sign_in(self, session: Session) -> None:
        person = session.get_one(Person, self._pick(PEOPLE), with_for_update=True)
        for auth_id in (person.auth_id, new := self.random.choice([None, *AUTH_IDS])):
            if auth_id is not None:
                self.backend.changed(session, "people", auth_id)
        person.auth_id = new
        self._call_hooks(session, person.id)

    def _new_person(self, session: Session) -> None:
        person = Person(id=self._pick(PEOPLE), auth_id=self.random.choice([None, *AUTH_IDS]))
        session.add(person)
        if person.auth_id is not None:
            self.backend.changed(session, "people", person.auth_id)

    def _delete_person(self, session: Session) -> None:
        person = session.get_one(Person, self._pick(PEOPLE), with_for_update=True)
        session.delete(person)
        if person.auth_id is not None:
            self.backend.changed(session, "people", person.auth_id)
        self._call_hooks(session, person.id)

    def _delete_company(self, session: Session) -> None:
        session.execute(text("delete from companies where id = :id"), {"id": self._pick(CLUBS)})

    def _reassign_memberships(self, session: Session) -> None:
        session.execute(
            text("update members set person_id = :to where person_id = :from"),
            {"from": self._pick(PEOPLE), "to": self._pick(PEOPLE)},
        )


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("ways", [("hooks", "orm"), ("hooks", "orm", "triggers")], ids="+".join)
def test_the_target_is_right_after_random_transactions(
    ways: tuple[str, ...],
    seed: int,
    make_backend: Callable[..., CapturedBackend],
    make_drain: Callable[..., Drain],
) -> None:
    """Each way has one writer; two workers run."""
    backends = [make_backend(way) for way in ways]
    backends[0].populate()
    writers = [Writer(backend, seed * 10 + number) for number, backend in enumerate(backends)]
    finished = threading.Event()

    def work(batch_size: int) -> int:
        drain, events = make_drain(batch_size=batch_size), 0
        while not finished.is_set():
            events += drain.run(seconds=1).events
        return events

    workers = [Running(lambda size=size: work(size)) for size in (3, 50)]  # type: ignore[misc]
    writing = [Running(lambda writer=writer: writer.run(60)) for writer in writers]  # type: ignore[misc]
    try:
        for writing_thread in writing:
            writing_thread.wait()
    finally:
        # Also after a failure: the threads would go on draining the database of the tests after it.
        finished.set()
    mirrored = sum(worker.wait() for worker in workers)
    backends[0].mirror()
    assert mirrored > 0
    assert all(writer.committed > 20 for writer in writers), [
        writer.committed for writer in writers
    ]
