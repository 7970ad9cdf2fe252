"""A real Celery worker, with beat, in a process of its own."""

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
    """`celery worker` of an app of ours; as a context manager it stops it on leaving.

    Args:
        settings: environment variables that the worker gets on top of this process's.
        log: the file that receives its output.
        app: the Celery app's module.
        concurrency: how many processes drain.
        beat: whether it rings by the clock, too.
    """

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
        self._process = ServerProcess(
            [sys.executable, "-m", "celery", "-A", app, "worker", f"--concurrency={concurrency}"]
            # Neither gossip nor mingling: it need not know of other workers to start.
            + ["--without-gossip", "--without-mingle", "--without-heartbeat"]
            + (["--beat"] if beat else []),
            log=log,
            options={"env": {**os.environ, **settings}},
            orphaned=signal.SIGTERM,
        )

    @property
    def pid(self) -> int:
        """The parent process; its children drain."""
        return self._process.pid

    def wait_until_ready(self) -> Self:
        """Return once it answers the doorbell.

        Raises:
            Unreachable: it ended, or did not within a minute; with the end of its log.
        """
        doorbell = Doorbell(DoorbellSettings(redis_url=self._redis_url, mode="inline"))
        doorbell.ring()
        with redis.Redis.from_url(self._redis_url) as client:
            self._process.wait_until(lambda: not client.exists(KEY))
        return self

    def stop(self) -> None:
        """Let it finish what it does, then end it."""
        self._process.end(signal.SIGTERM)

    def kill(self) -> None:
        """End it and its children at once, in the middle of whatever they do."""
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
