"""Worker: runs a real Celery worker, with beat, in a separate process."""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from mirror.capture.doorbell import KEY, Doorbell, DoorbellSettings
from mirror.devstack.process import ServerProcess


class WorkerProcess:
    """A running `celery worker`; leaving the context manager stops it.

    Args:
        settings: environment variables for the worker, in addition to this process's.
        log: the file that receives its output.
        app: the module of the Celery app.
        concurrency: number of worker processes.
        beat: whether it also runs beat.
    """

    # Tests have one that starts sooner.
    _process_class = ServerProcess

    def __init__(
        self,
        settings: Mapping[str, str],
        *,
        log: Path,
        app: str = "mirror.worker",
        concurrency: int = 1,
        beat: bool = True,
    ) -> None:
        self._redis_url = settings["REDIS_URL"]
        self._process = self._process_class(
            [sys.executable, "-m", "celery", "-A", app, "worker", f"--concurrency={concurrency}"]
            # Without gossip and mingling it starts at once, and does not wait for other workers.
            + ["--without-gossip", "--without-mingle", "--without-heartbeat"]
            + (["--beat"] if beat else []),
            log=log,
            options={"env": {**os.environ, **settings}},
            orphaned=signal.SIGTERM,
        )

    @property
    def pid(self) -> int:
        """The id of the parent process; its children process the events."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the parent process runs."""
        return self._process.alive

    def wait_until_ready(self) -> Self:
        """Return when the worker has answered a doorbell message.

        Raises:
            Unreachable: the worker ended, or has not answered within a minute; the message has the
                end of its log.
        """
        doorbell = Doorbell(DoorbellSettings(redis_url=self._redis_url, mode="inline"))
        doorbell.ring()
        with redis.Redis.from_url(self._redis_url) as client:
            self._process.wait_until(lambda: not client.exists(KEY))
        return self

    def stop(self) -> None:
        """Let the worker finish its current task, then end it."""
        self._process.end(signal.SIGTERM)

    def kill(self) -> None:
        """End the worker and its child processes at once, in the middle of their work."""
        if self._process.alive:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.end(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
