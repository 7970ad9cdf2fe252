"""The servers of a run: two databases, Redis, an API, workers, and the network between them."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Literal, Self

from examples.trip_chat import models
from mappings.trips import registry
from mirror.devstack import DevStack
from mirror.devstack.worker import WorkerProcess
from mirror.schema.migrate import upgrade
from mirror.settings import Settings, load_settings
from tests.support.databases import TestDatabase
from tests.support.http_proxy import Proxy
from tests.support.rest import PACKAGE
from tests.support.tcp_proxy import TcpProxy

HOME = Path(__file__).parents[2]
Transport = Literal["postgres", "rest"]
_WORKERS = 2


class Servers:
    """Everything that runs; create it with `start`. Faults of the network reach only workers."""

    def __init__(self, stack: DevStack, transport: Transport, home: Path, owned: ExitStack) -> None:
        self.stack = stack
        self.home = home
        self.transport = transport
        self.primary = TestDatabase(stack.primary_url)
        self.target = TestDatabase(stack.supabase_db_url)
        self.gateway: Proxy | None = None
        """In front of the API; its script has odd answers."""
        target_url = stack.supabase_db_url
        if stack.api is not None:
            self.gateway = owned.enter_context(Proxy(stack.api.url))
            target_url = self.gateway.url
        self.links = {
            name: owned.enter_context(TcpProxy(url))
            for name, url in [
                ("primary", stack.primary_url),
                ("target", target_url),
                ("redis", stack.redis_url),
            ]
        }
        self.step = home / "step"
        """A worker dies at the step that this file names."""
        self.workers: list[WorkerProcess] = []
        self.outages = 0
        """How often the primary has gone down."""
        self.primary_is_down = threading.Event()

    @classmethod
    @contextmanager
    def start(cls, home: Path, transport: Transport) -> Iterator[Self]:
        """Start the databases, migrate them, and start workers."""
        with ExitStack() as owned:
            api = PACKAGE if transport == "rest" else None
            stack = owned.enter_context(DevStack.start(home / "stack", api=api))
            servers = cls(stack, transport, home, owned)
            with servers.primary.migrating() as connection:
                models.Base.metadata.create_all(connection)
                upgrade(connection)
            with servers.target.migrating() as connection:
                upgrade(connection, "supabase", registry)
            if stack.api is not None:
                stack.api.serve("postgres")
            owned.callback(servers.kill_workers)
            for _ in range(_WORKERS):
                servers.start_worker().wait_until_ready()
            yield servers

    def settings(self) -> Settings:
        """Return settings of a process that no fault of the network reaches."""
        return load_settings(
            primary_database_url=self.primary.url,
            supabase_db_url=self.target.url,
            target="postgres",
        )

    # Workers

    def start_worker(self) -> WorkerProcess:
        """Start another worker with beat; do not wait for it."""
        target = {"SUPABASE_DB_URL": self.links["target"].url}
        if self.stack.api is not None:
            target = {
                "SUPABASE_URL": self.links["target"].url,
                "SUPABASE_SECRET_KEY": self.stack.api.secret_key,
            }
        settings = {
            "PRIMARY_DATABASE_URL": self.links["primary"].url,
            "REDIS_URL": self.links["redis"].url,
            "PYTHONPATH": str(HOME),
            "CHAOS_STEP": str(self.step),
            "MIRROR_MAPPINGS": "mappings.trips",
            "MIRROR_LOG_FORMAT": "json",
            "MIRROR_SWEEP_SECONDS": "1",
            # Short, so that what a fault left behind is soon taken up.
            "MIRROR_STATEMENT_SECONDS": "2.5",
            "MIRROR_IDLE_SECONDS": "5",
            "MIRROR_CONNECT_SECONDS": "2",
            "MIRROR_RETRY_SECONDS": "0.2",
            "MIRROR_BATCH_SIZE": "20",
            # An event may meet many killed workers.
            "MIRROR_MAX_ATTEMPTS": "100",
        }
        log = self.home / "worker.log"
        worker = WorkerProcess(settings | target, log=log, app="tests.chaos.worker", concurrency=2)
        self.workers.append(worker)
        return worker

    def kill_worker(self, random: Random) -> None:
        """Kill a worker with its processes, and start another."""
        self.workers.pop(random.randrange(len(self.workers))).kill()
        self.start_worker()

    def replace_ended_workers(self) -> int:
        """Start a worker for each that has ended by itself, as a platform does; return how many.

        Celery's parent process ends if it cannot give its messages back to a Redis that is gone.
        """
        ended = [worker for worker in self.workers if not worker.alive]
        for worker in ended:
            self.workers.remove(worker)
            worker.kill()
            self.start_worker()
        return len(ended)

    def kill_workers(self) -> None:
        """Kill all workers."""
        while self.workers:
            self.workers.pop().kill()

    # Outages

    @contextmanager
    def no_primary(self) -> Iterator[None]:
        """Crash the primary; start it again at the end."""
        self.outages += 1
        self.primary_is_down.set()
        self.stack.primary.kill()
        try:
            yield
        finally:
            self.stack.primary.restart()
            self.primary_is_down.clear()

    @contextmanager
    def no_target(self) -> Iterator[None]:
        """Crash the target; start it again at the end."""
        self.stack.target.kill()
        try:
            yield
        finally:
            self.stack.target.restart()
            if self.stack.api is not None:
                # It may have ended when it lost its connections.
                self.stack.api.restart()
                self.stack.api.serve("postgres")

    @contextmanager
    def no_redis(self) -> Iterator[None]:
        """Crash Redis; start it again at the end."""
        self.stack.redis.kill()
        try:
            yield
        finally:
            self.stack.redis.restart()

    def heal(self) -> None:
        """End what a fault may have left: a stalled link, an order to die."""
        self.step.unlink(missing_ok=True)
        if self.gateway is not None:
            self.gateway.script.clear()
        for link in self.links.values():
            link.resume()
