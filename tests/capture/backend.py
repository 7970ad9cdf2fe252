"""A backend whose changes are captured in one or several ways, with a worker that mirrors them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.capture.orm.listeners import attach
from mirror.hooks import Hooks
from mirror.sync.drain import Drain
from tests.capture import clubs
from tests.capture.clubs import Club, Company, Member, Person
from tests.support.databases import TestDatabase

ANNA, BERT, CARL = (UUID(int=number) for number in (1, 2, 3))


class CapturedBackend:
    """The primary and the target of `clubs`, with sessions of the backend."""

    def __init__(
        self, primary: TestDatabase, target: TestDatabase, drain: Drain, ways: frozenset[str]
    ) -> None:
        self.primary = primary
        self.target = target
        self.drain = drain
        self.ways = ways
        self._hooks = Hooks(clubs.registry, Doorbell(DoorbellSettings(mode="off")))
        self._engine = primary.engine()
        self.session = sessionmaker(self._engine, expire_on_commit=False)
        self._capture = attach(self.session, hooks=self._hooks) if "orm" in ways else None

    def close(self) -> None:
        """Detach the listeners and disconnect."""
        if self._capture is not None:
            self._capture.detach()
        self._engine.dispose()

    @contextmanager
    def change(self) -> Iterator[Session]:
        """Yield a session whose transaction commits at the end."""
        with self.session.begin() as session:
            yield session

    def member(self, session: Session, club: int, person: int) -> Member:
        """Return the member with this club and person."""
        return session.get_one(Member, (club, person))

    def changed(self, session: Session, mapping: str, key: Any) -> None:
        """Call the hook for a key, if hooks are one of the ways."""
        if "hooks" in self.ways:
            self._hooks.changed(session, mapping, key)

    def scope(self, session: Session, mapping: str, **reference: Any) -> None:
        """Call the hook for a scope, if hooks are one of the ways."""
        if "hooks" in self.ways:
            self._hooks.scope_changed(session, mapping, **reference)

    def populate(self) -> None:
        """Create two clubs of two companies, with members, and mirror them.

        Anna and Bert are in both clubs. Carl is in the first one, and has no auth id yet.
        """
        with self.session.begin() as session:
            session.add_all([Company(id=1), Company(id=2)])
            session.flush()
            session.add_all([Club(id=1, company_id=1, name="One"), Club(id=2, company_id=2)])
            session.add_all([Person(id=10, auth_id=ANNA, name="Anna"), Person(id=20, auth_id=BERT)])
            session.add(Person(id=30))
            session.flush()
            session.add_all(Member(club_id=c, person_id=p) for c in (1, 2) for p in (10, 20))
            session.add(Member(club_id=1, person_id=30))
        self.primary.query("truncate mirror.outbox")
        for mapping in clubs.registry:
            self.primary.query(
                "insert into mirror.outbox (mapping, reference, key) values (%s, '*', '{}')",
                mapping.name,
            )
        self.mirror()

    def mirror(self) -> int:
        """Drain, check that both sides are equal, and return the number of events."""
        events = self.drain.run().events
        assert self.mirrored() == self.expected()
        assert self.primary.value("select count(*) from mirror.retries") == 0
        return events

    def mirrored(self) -> dict[str, set[tuple[str | None, ...]]]:
        """Return the target's rows, by mapping."""
        return {
            mapping.name: _rows(self.target, mapping.columns, f"public.{mapping.table}")
            for mapping in clubs.registry
        }

    def expected(self) -> dict[str, set[tuple[str | None, ...]]]:
        """Return the rows of the mappings' queries on the primary, by mapping."""
        return {
            mapping.name: _rows(self.primary, mapping.columns, f"({mapping.sql}) as q")
            for mapping in clubs.registry
        }

    def events(self) -> list[tuple[Any, ...]]:
        """Return the events of the outbox: lane, mapping, reference, key."""
        return self.primary.query(
            "select lane, mapping, reference, key from mirror.outbox order by lane, id"
        )


def _rows(database: TestDatabase, columns: Any, source: str) -> set[tuple[str | None, ...]]:
    values = ", ".join(f"{column.name}::text" for column in columns)
    return set(database.query(f"select {values} from {source}"))


def by_psql(session: Session, statement: str) -> None:
    """Run SQL that no ORM listener sees."""
    session.execute(text(statement))
