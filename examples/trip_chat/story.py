"""Story: runs the trip chat on real servers and checks every expectation: `mirror demo`.

Primary, Supabase stand-in, Redis and a Celery worker run on this machine. The backend's services
change the primary. Users read and write the chat through row-level security: with SQL, or over
REST, where the worker, too, uses only the target's API. Only the network between the servers is
simulated.
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
from mirror.diagnostics.figures import known, read_figures
from mirror.diagnostics.status import exit_code
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
    """One expectation of the demo, and whether it held."""

    text: str
    held: bool
    seconds: float
    """Seconds until the expectation held; for the effect of a change, since the change's commit."""


class TripChatApp:
    """The running application: migrated databases, the users of the chat, and a worker."""

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
        """Yield a session for one request of the backend; it commits at the end."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session


@contextmanager
def running_app(*, rest: bool = False) -> Iterator[TripChatApp]:
    """Start the application and yield it; stop it at the end, also after an error.

    With `rest`, users and worker reach the target only through its REST API.

    Raises:
        ConfigError: the embedded servers, or with `rest` Node, are not installed.
    """
    with DevStack.start(api=_LITE if rest else None) as stack:
        environment = stack.environment() | {
            "MIRROR_MAPPINGS": "mappings.trips",
            "MIRROR_SWEEP_SECONDS": "1",
            "MIRROR_LOG_FORMAT": "json",
            "PYTHONPATH": str(_HOME),
        }
        # The example's hooks read their settings from the environment, as in every backend.
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
            # Only migrations need the database's URL; worker and story use the API from here on.
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
    """Run the story; yield each step when it is done."""
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
    yield _checked("… and may not write", lambda: people.write(guest, trip) == -1)

    trip_chat.stack.redis.kill()
    started = time.monotonic()
    with trip_chat.backend() as session:
        services.invite(session, trip, newcomer := _sign_up_another(trip_chat, session))
        services.accept_invitation(session, trip, newcomer)
    yield Step("Redis killed: the backend still commits", held=True, seconds=_since(started))
    yield _checked("… and nothing reaches the chat yet", lambda: people.read(newcomer, trip) == 0)
    trip_chat.stack.redis.restart()
    yield _awaited("Redis restarted: nothing was lost", lambda: people.read(newcomer, trip) == 1)

    with trip_chat.backend() as session:
        services.delete_trip(session, trip)
    yield _awaited("trip_deleted: the owner reads nothing", lambda: people.read(owner, trip) == 0)
    with trip_chat.backend() as session:
        services.restore_trip(session, trip)
    yield _awaited("… restored: its members read again", lambda: people.read(newcomer, trip) == 1)
    yield _awaited("no event waits, none failed", lambda: _is_idle(trip_chat))
    yield _checked("both sides are equal, row by row", lambda: _is_equal(trip_chat))


def _sign_up_another(trip_chat: TripChatApp, session: Session) -> UUID:
    """Sign up one more user and return the id."""
    user = trip_chat.people.sign_up(f"{uuid4()}@example.com")
    services.sign_up(session, user, f"{user}@example.com", "another")
    session.flush()
    return user


def _checked(text: str, holds: Callable[[], bool]) -> Step:
    """Return the step for an expectation that must hold at once."""
    started = time.monotonic()
    return Step(text, holds(), _since(started))


def _awaited(text: str, holds: Callable[[], bool]) -> Step:
    """Return the step for an expectation that must come to hold within `_TIMEOUT`."""
    started = time.monotonic()
    while not (held := holds()) and _since(started) < _TIMEOUT:
        time.sleep(0.002)
    return Step(text, held, _since(started))


def _since(started: float) -> float:
    return time.monotonic() - started


def _is_idle(trip_chat: TripChatApp) -> bool:
    """Return whether every event is mirrored: none waits, is retried or was given up."""
    with (
        closing(build_source(trip_chat.settings)) as source,
        closing(build_target(trip_chat.settings)) as target,
    ):
        figures = read_figures(trip_chat.settings, registry, source, target)
    primary = known(figures.primary)
    idle = primary is not None and not (primary.waiting or primary.set_apart)
    return idle and exit_code(figures) == 0


def _is_equal(trip_chat: TripChatApp) -> bool:
    """Return whether, for each mapping, the primary's query and the target's table agree."""
    with (
        closing(build_source(trip_chat.settings)) as source,
        closing(Database(trip_chat.stack.supabase_db_url, role="target")) as target,
        source.snapshot() as snapshot,
    ):
        for mapping in registry:
            source_rows = snapshot.rows_in_scope(mapping, "*", [""], limit=1_000_000)
            target_rows = target.execute(_select_texts(mapping))
            if set(target_rows) != {row[: len(mapping.columns)] for row in source_rows.values()}:
                return False
    return True


def _select_texts(mapping: Mapping) -> sql.Composed:
    """Return a SELECT of the target table's rows as texts, like the primary's rows."""
    texts = [sql.SQL("{}::text").format(sql.Identifier(c.name)) for c in mapping.columns]
    table = sql.Identifier(mapping.schema, mapping.table)
    return sql.SQL("select {} from {}").format(sql.SQL(", ").join(texts), table)


def _engine(stack: DevStack) -> Engine:
    return create_engine(stack.primary_url.replace("postgresql://", "postgresql+psycopg://", 1))
