"""The story of the trip chat on real servers, with every expectation checked: `mirror demo`.

Primary, Supabase stand-in, Redis and a Celery worker run on this machine. The backend's service
functions change the primary; the chat is read and written as its users, through row-level
security: with SQL, or over REST, where the worker too reaches the target by its API alone. Nothing
is simulated but the network in between.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
from psycopg import sql
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from examples.trip_chat import models, services
from examples.trip_chat.people import People, PeopleInSql, PeopleOverRest
from mappings.trips import registry
from mirror.devstack import DevStack
from mirror.devstack.worker import WorkerProcess
from mirror.diagnostics.status import read_status
from mirror.model.mapping import Mapping
from mirror.schema.connecting import migrating
from mirror.schema.migrate import upgrade
from mirror.settings import Settings, load_settings
from mirror.sync.connections import Database
from mirror.sync.wiring import build_source, build_target

_HOME = Path(__file__).parent.parent.parent
_LITE = _HOME / "tests" / "supabase"
_TIMEOUT = 30.0  # seconds that the demo waits for any one effect


@dataclass(frozen=True)
class Step:
    """One thing that the demo did or expected."""

    what: str
    held: bool
    seconds: float
    """How long it took: for an effect, from the commit on."""


class TripChatApp:
    """The stack, migrated, with the example's tables on both sides and a worker running."""

    def __init__(
        self, stack: DevStack, worker: WorkerProcess, settings: Settings, people: People
    ) -> None:
        self.stack = stack
        self.people = people
        self.worker = worker
        self.settings = settings
        self.engine: Engine = _engine(stack)

    @contextmanager
    def backend(self) -> Iterator[Session]:
        """One request of the backend: a session that commits at the end."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session


@contextmanager
def running_app(*, rest: bool = False) -> Iterator[TripChatApp]:
    """Start everything and stop it at the end, whatever happens in between.

    Raises:
        ConfigError: the embedded servers are not installed; for `rest`, Node.
    """
    with DevStack.start(api=_LITE if rest else None) as stack:
        environment = stack.environment() | {
            "MIRROR_MAPPINGS": "mappings.trips",
            "MIRROR_SWEEP_SECONDS": "1",
            "MIRROR_LOG_FORMAT": "json",
            "PYTHONPATH": str(_HOME),
        }
        # The hooks of the example read their settings from the environment, like any backend's.
        os.environ.update(environment)
        settings = load_settings()
        with migrating(settings, "primary") as connection:
            models.Base.metadata.create_all(connection)
            upgrade(connection)
        with migrating(settings, "supabase") as connection:
            upgrade(connection, "supabase", registry)
        with psycopg.connect(stack.supabase_db_url) as chat:
            chat.execute((Path(__file__).parent / "supabase.sql").read_text())
        with migrating(settings, "supabase") as connection:
            upgrade(connection, "supabase", registry, guards=True)
        log = stack.redis.directory.parent / "worker.log"
        if rest:
            # The database's URL is for migrating; neither worker nor story need it from here on.
            del environment["SUPABASE_DB_URL"], os.environ["SUPABASE_DB_URL"]
            settings = load_settings()
        with _people(stack) as people, WorkerProcess(environment, log=log) as worker:
            worker.wait_until_ready()
            yield TripChatApp(stack, worker, settings, people)


@contextmanager
def _people(stack: DevStack) -> Iterator[People]:
    if stack.api is None:
        yield PeopleInSql(stack.supabase_db_url)
        return
    stack.api.serve("postgres")
    with closing(PeopleOverRest(stack.api)) as people:
        yield people


def play_story(trip_chat: TripChatApp) -> Iterator[Step]:
    """Play the story; yield each step when it is done."""
    roles, people = models.Role, trip_chat.people
    owner, guest = people.sign_up("owner@example.com"), people.sign_up("guest@example.com")

    with trip_chat.backend() as session:
        services.sign_up(session, owner, "owner@example.com", "owner")
        services.sign_up(session, guest, "guest@example.com", "guest")
        session.flush()
        trip: UUID = services.create_trip(session, owner, "Lisbon").id
    yield _awaited(
        "the creator may write in the new trip's chat",
        lambda: people.write(owner, trip) == 1,
    )
    yield _checked("a stranger reads nothing", lambda: people.read(guest, trip) == 0)

    with trip_chat.backend() as session:
        services.invite(session, trip, guest)
        services.accept_invitation(session, trip, guest)
    yield _awaited("member_added: the guest reads the chat", lambda: people.read(guest, trip) == 1)
    yield _checked("a member may not moderate", lambda: people.moderate(guest, trip) == 0)

    with trip_chat.backend() as session:
        services.change_role(session, trip, guest, roles.ADMIN)
    yield _awaited(
        "member_updated: as ADMIN the guest may", lambda: people.moderate(guest, trip) == 1
    )

    with trip_chat.backend() as session:
        services.remove_member(session, trip, guest)
    yield _awaited("member_removed: the guest reads nothing", lambda: people.read(guest, trip) == 0)
    yield _checked("… and writing is refused outright", lambda: people.write(guest, trip) == -1)

    trip_chat.stack.redis.kill()
    started = time.monotonic()
    with trip_chat.backend() as session:
        services.invite(session, trip, guest_again := uuid4_user(trip_chat, session))
        services.accept_invitation(session, trip, guest_again)
    yield Step("Redis killed: the backend commits all the same", held=True, seconds=_since(started))
    yield _checked(
        "… and nothing reaches the chat yet", lambda: people.read(guest_again, trip) == 0
    )
    trip_chat.stack.redis.restart()
    yield _awaited("Redis restarted: nothing was lost", lambda: people.read(guest_again, trip) == 1)

    with trip_chat.backend() as session:
        services.delete_trip(session, trip)
    yield _awaited("trip_deleted: nobody reads", lambda: people.read(owner, trip) == 0)
    with trip_chat.backend() as session:
        services.restore_trip(session, trip)
    yield _awaited(
        "… restored: its members read again", lambda: people.read(guest_again, trip) == 1
    )
    yield _awaited("nothing waits, nothing failed", lambda: _quiet(trip_chat))
    yield _checked("both sides are equal, row by row", lambda: _equal(trip_chat))


def uuid4_user(trip_chat: TripChatApp, session: Session) -> UUID:
    """Sign up one more user and return the id."""
    user = trip_chat.people.sign_up(f"{uuid4()}@example.com")
    services.sign_up(session, user, f"{user}@example.com", "another")
    session.flush()
    return user


def _checked(what: str, holds: Callable[[], bool]) -> Step:
    started = time.monotonic()
    return Step(what, holds(), _since(started))


def _awaited(what: str, holds: Callable[[], bool]) -> Step:
    started = time.monotonic()
    while not (held := holds()) and _since(started) < _TIMEOUT:
        time.sleep(0.002)
    return Step(what, held, _since(started))


def _since(started: float) -> float:
    return time.monotonic() - started


def _quiet(trip_chat: TripChatApp) -> bool:
    with (
        closing(build_source(trip_chat.settings)) as source,
        closing(build_target(trip_chat.settings)) as target,
    ):
        found = read_status(registry, source, target)
    waiting = found.revocations + found.grants + found.retrying
    return found.healthy and waiting == 0


def _equal(trip_chat: TripChatApp) -> bool:
    """Compare what each mapping's query yields with its table in the target."""
    with (
        closing(build_source(trip_chat.settings)) as source,
        closing(Database(trip_chat.stack.supabase_db_url, role="target")) as target,
        source.snapshot() as snapshot,
    ):
        for mapping in registry:
            wanted = snapshot.rows_in_scope(mapping, "*", [""], limit=1_000_000)
            found = target.execute(_texts(mapping))
            if set(found) != {row[: len(mapping.columns)] for row in wanted.values()}:
                return False
    return True


def _texts(mapping: Mapping) -> sql.Composed:
    """Select a target table's rows as texts, as the source's rows are."""
    texts = [sql.SQL("{}::text").format(sql.Identifier(c.name)) for c in mapping.columns]
    table = sql.Identifier(mapping.schema, mapping.table)
    return sql.SQL("select {} from {}").format(sql.SQL(", ").join(texts), table)


def _engine(stack: DevStack) -> Engine:
    return create_engine(stack.primary_url.replace("postgresql://", "postgresql+psycopg://", 1))
