"""Servers: starts a primary and a target with the example's model, and Redis.

PostgreSQL 16 and 18 with fsync, all on this machine.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psycopg
from sqlalchemy import Engine, create_engine

from examples.trip_chat import models
from mappings.trips import registry
from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.devstack import DevStack
from mirror.devstack.process import ServerProcess
from mirror.devstack.worker import WorkerProcess
from mirror.reconcile import Options, Report, Throttle, reconcile
from mirror.schema.connecting import migrating
from mirror.schema.migrate import upgrade
from mirror.settings import Settings, load_settings
from mirror.settings.logs import configure_logging
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain
from tests import matrix

HOME = Path(__file__).parent.parent
API = HOME / "tests" / "supabase"

Connection = psycopg.Connection[tuple[object, ...]]

# Every trip has a hundred members.
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
"""

_DRIFT = """
update trip_memberships set role = 'OWNER' where (trip_id, user_id) in (
  select trip_id, user_id from trip_memberships order by random() limit %s
)
"""


@dataclass
class Servers:
    """A migrated pair of databases, with connections of their owners in autocommit mode."""

    stack: DevStack
    settings: Settings
    primary: Connection
    target: Connection
    variables: dict[str, str] = field(default_factory=dict)
    """Further environment variables of workers."""

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a worker."""
        return {
            **os.environ,
            **self.stack.environment(),
            "MIRROR_MAPPINGS": "mappings.trips",
            "MIRROR_LOG_FORMAT": "json",
            "MIRROR_LOG_LEVEL": "warning",
            "PYTHONPATH": str(HOME),
            **self.variables,
        }

    def engine(self) -> Engine:
        """Return the backend's engine; the caller disposes of it."""
        return create_engine(
            self.stack.primary_url.replace("postgresql:", "postgresql+psycopg:", 1)
        )

    def fill(self, memberships: int, *, trips_per_user: int = 20) -> None:
        """Insert memberships into the primary, and their users and trips, of 100 members each."""
        sizes = {"users": memberships // trips_per_user, "trips": memberships // 100}
        self.primary.execute(_FILL.format(**sizes).encode())
        self.primary.execute("vacuum analyze")

    def drift(self, memberships: int) -> None:
        """Change so many memberships in the target without the mirror, so that they drift."""
        self.target.execute(_DRIFT, [memberships])

    def drain(self) -> Drain:
        """Return a new drain, to be run in this process; the caller closes it."""
        return build_drain(self.settings, registry)

    def load(self) -> Report:
        """Mirror all rows by a reconcile in this process, without a grace time."""
        with closing(self.drain()) as drain:
            report = reconcile_now(drain)
            # Mirrors the children of the parents that were repaired row by row.
            drain.run(seconds=3600)
        self.target.execute("vacuum analyze")
        return report

    @contextmanager
    def working(
        self, workers: int, *, rest: bool = False, history: bool = True, beat: bool = False
    ) -> Iterator[WorkerProcess]:
        """Run a Celery worker with `workers` processes; yield when each has worked once."""
        environment = self.environment | {"MIRROR_TARGET": "rest" if rest else "postgres"}
        if not history:
            environment["MIRROR_HISTORY"] = "0"
        log = self.stack.redis.directory.parent / f"worker-{uuid4()}.log"
        with WorkerProcess(environment, log=log, concurrency=workers, beat=beat) as worker:
            worker.wait_until_ready()
            # Each process of the pool opens its connections with its first task.
            for _ in range(2 * workers):
                self.ring()
                time.sleep(0.2)
            yield worker

    @contextmanager
    def running(self) -> Iterator[ServerProcess]:
        """Run `mirror run`; yield when it listens."""
        log = self.stack.redis.directory.parent / f"run-{uuid4()}.log"
        environment = self.environment | {"MIRROR_TARGET": "postgres"}
        del environment["REDIS_URL"]
        # An earlier run may have listened a moment ago.
        self.primary.execute("update mirror.state set listened_until = now()")
        process = ServerProcess(
            [str(Path(sys.executable).parent / "mirror"), "run"],
            log=log,
            options={"env": environment, "cwd": HOME},
            orphaned=signal.SIGTERM,
        )
        try:
            until(self.primary, "select listened_until > now() from mirror.state")
            yield process
        finally:
            process.end(signal.SIGTERM)

    def ring(self) -> None:
        """Ring the doorbell once, which wakes a worker."""
        bell = DoorbellSettings(redis_url=self.stack.redis_url, mode="inline")
        Doorbell(bell).ring()

    def wait_for_drain(self) -> None:
        """Wait until no event is left."""
        until(self.primary, "select not exists (select from mirror.outbox)")


def reconcile_now(drain: Drain, *, grace_seconds: float = 0.0, dry_run: bool = False) -> Report:
    """Reconcile without pauses and, unless `grace_seconds` says otherwise, without a grace time."""
    throttle = Throttle(drain.queue.beside, backlog=10_000_000, latency_seconds=60)
    return reconcile(drain, Options(grace_seconds=grace_seconds, dry_run=dry_run), throttle)


def until(connection: Connection, question: str, *parameters: object) -> None:
    """Repeat a query until it returns true."""
    while connection.execute(question.encode(), parameters).fetchone() != (True,):
        time.sleep(0.003)


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def milliseconds(action: Callable[[], object], times: int) -> list[float]:
    """Run an action `times` times; return the milliseconds of each run."""
    return [timed(action) * 1000 for _ in range(times)]


@contextmanager
def start_servers(*, api: bool = False, target: int = 18) -> Iterator[Servers]:
    """Yield a migrated pair of databases without rows; `api` starts the target's REST API, too.

    `target` is the major version of the target's PostgreSQL; `make test-postgres` installs those
    before 18.
    """
    configure_logging(style="json", level="error")
    programs = None if target == 18 else matrix.programs(target)  # noqa: PLR2004 - the installed one
    with DevStack.start(
        api=API if api else None, target_version=target, target_programs=programs
    ) as stack:
        settings = load_settings(
            primary_database_url=stack.primary_url,
            supabase_db_url=stack.supabase_db_url,
            redis_url=stack.redis_url,
            target="postgres",
        )
        with migrating(settings, "primary") as connection:
            models.Base.metadata.create_all(connection)
            upgrade(connection)
        with migrating(settings, "supabase") as connection:
            upgrade(connection, "supabase", registry)
        if stack.api is not None:
            stack.api.serve("postgres")
        with (
            psycopg.connect(stack.primary_url, autocommit=True) as primary,
            psycopg.connect(stack.supabase_db_url, autocommit=True) as owner,
        ):
            yield Servers(stack, settings, primary, owner)
