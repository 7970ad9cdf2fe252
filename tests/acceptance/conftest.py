"""Fixtures that run the real command and the real worker as a user would."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mirror.devstack import RedisServer
from mirror.devstack.worker import WorkerProcess
from tests.support.databases import TestDatabase
from tests.support.forking import HOME, ForkingCommand, Ran
from tests.support.services import Service, forked_workers

Command = Callable[..., Ran]


@pytest.fixture
def mirror(
    primary: TestDatabase, target: TestDatabase, tmp_path: Path, forking_command: ForkingCommand
) -> Command:
    """Return a function that runs `mirror` between the test's databases.

    Keyword arguments set further environment variables; None unsets one.
    """

    def run(*arguments: str, **variables: str | None) -> Ran:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(HOME),
            "PRIMARY_DATABASE_URL": primary.url,
            "SUPABASE_DB_URL": target.url,
        } | {name: value for name, value in variables.items() if value is not None}
        for name, value in variables.items():
            if value is None:
                environment.pop(name, None)
        done = forking_command.run(arguments, environment)
        assert "Traceback" not in done.err, done.err
        return done

    return run


StartService = Callable[[str, dict[str, str]], Service]


@pytest.fixture
def start_service(tmp_path: Path, forking_command: ForkingCommand) -> Iterator[StartService]:
    """Return a function that starts a command with some variables; each has a log of its own."""
    started: list[Service] = []

    def start(name: str, variables: dict[str, str]) -> Service:
        log = tmp_path / f"{name}{len(started)}.log"
        started.append(Service(forking_command, name, log, variables))
        return started[-1]

    yield start
    for service in started:
        service.kill()
        assert "Traceback" not in service.log.read_text()


StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def start_worker(
    primary: TestDatabase,
    target: TestDatabase,
    redis_server: RedisServer,
    tmp_path: Path,
    forking_command: ForkingCommand,
) -> Iterator[StartWorker]:
    """Return a function that starts a Celery worker between the test's databases."""
    started: list[WorkerProcess] = []

    def start(*, wait: bool = True, **variables: str) -> WorkerProcess:
        options = {
            name: variables.pop(name)
            for name in ("app", "concurrency", "beat")
            if name in variables
        }
        settings = {
            "PRIMARY_DATABASE_URL": primary.url,
            "SUPABASE_DB_URL": target.url,
            "REDIS_URL": redis_server.url,
            "MIRROR_LOG_FORMAT": "json",
            "PYTHONPATH": str(HOME),
        }
        worker = forked_workers(forking_command)(
            settings | variables,
            log=tmp_path / "worker.log",
            app=options.get("app", "mirror.worker"),
            concurrency=int(options.get("concurrency", "1")),
            beat=options.get("beat", "yes") == "yes",
        )
        started.append(worker)
        return worker.wait_until_ready() if wait else worker

    yield start
    for worker in started:
        # A graceful stop takes seconds, and the worker's databases are dropped anyway.
        worker.kill()


@pytest.fixture
def worker_log(tmp_path: Path) -> Path:
    """The file to which the workers of `start_worker` write their log."""
    return tmp_path / "worker.log"
