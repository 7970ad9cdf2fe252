"""The Celery app of the workers: each dies at the step that the file CHAOS_STEP names.

The first worker process that reaches the step takes the file away and kills itself.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mirror.sync.claims import Claim, Queue
from mirror.sync.snapshot import Source
from mirror.sync.targets.postgres import PostgresTarget
from mirror.sync.targets.rest import RestTarget
from mirror.worker import app

__all__ = ["STEPS", "app"]

STEPS = ("claim", "read", "apply", "settle")
"""After the claim, after a read of the primary, after a call to the target, before the settling."""


def _die_at(step: str) -> None:
    order = Path(os.environ["CHAOS_STEP"])
    try:
        if order.read_text() != step:
            return
        order.unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _deadly(owner: type, name: str, step: str, *, before: bool = False) -> None:
    call: Callable[..., Any] = getattr(owner, name)

    def deadly(*arguments: Any, **options: Any) -> Any:
        if before:
            _die_at(step)
        answer = call(*arguments, **options)
        if not before and answer is not None:
            _die_at(step)
        return answer

    setattr(owner, name, deadly)


# The command that starts workers sets it; a test that imports STEPS does not.
if "CHAOS_STEP" in os.environ:
    _deadly(Queue, "claim", "claim")
    _deadly(Source, "_begin", "read")
    _deadly(PostgresTarget, "_call", "apply")
    _deadly(RestTarget, "_call", "apply")
    _deadly(Claim, "acknowledge", "settle", before=True)
