"""Schedule: the messages that Celery beat sends, and when.

Beat keeps no record. If it was down at a turn of the night, the first message after that makes a
worker notice, by the records in the primary, and the turn is made up.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from celery.schedules import ParseException, crontab
from celery.utils.time import remaining

from mirror.capture.doorbell import TASK
from mirror.capture.statements import statement
from mirror.errors import ConfigError
from mirror.settings import Settings
from mirror.sync.connections import Database

PURGE_TASK = "mirror.purge"
RECONCILE_TASK = "mirror.reconcile"
FROM_BEAT = "mirror_swept"
"""A header that marks beat's rings."""
MADE_UP = "mirror_made_up"
"""A header that marks the message of a missed turn."""
EXPIRES = 3600
"""Seconds after which a message of the night counts for nothing."""
MISSED = timedelta(seconds=EXPIRES)
"""Then its turn is missed."""


def beat_schedule(settings: Settings) -> dict[str, Any]:
    """Return Celery beat's schedule.

    Raises:
        ConfigError: the cron expression is not valid.
    """
    seconds = min(settings.sweep_seconds, settings.fresh_seconds or settings.sweep_seconds)
    schedule: dict[str, Any] = {
        "sweep": {
            "task": TASK,
            "schedule": timedelta(seconds=seconds),
            # Messages must not pile up while no worker runs.
            "options": {"expires": seconds, "headers": {FROM_BEAT: True}},
        },
        "purge": {
            "task": PURGE_TASK,
            "schedule": crontab(hour="4", minute="10"),
            "options": {"expires": EXPIRES},
        },
    }
    if settings.reconcile_cron != "off":
        schedule["reconcile"] = {
            "task": RECONCILE_TASK,
            "schedule": _cron(settings.reconcile_cron),
            "options": {"expires": EXPIRES},
        }
    return schedule


def missed_tasks(
    settings: Settings,
    database: Database,
    now: datetime | None = None,
    *,
    since: timedelta = MISSED,
) -> list[str]:
    """Return the tasks of the night whose last turn was `since` ago, or earlier, and not taken.

    Raises:
        MirrorError: the primary does not answer, or is not migrated.
    """
    now = now or datetime.now(UTC)
    reconciled, purged = database.call(statement("read_turns"), [])[0]
    schedule = beat_schedule(settings)
    missed = []
    for name, last in (("reconcile", reconciled), ("purge", purged)):
        if (entry := schedule.get(name)) is None:
            continue
        cron: crontab = entry["schedule"]
        cron.nowfun = lambda: now
        if remaining(*cron.remaining_delta(last, tz=UTC)) < -since:
            missed.append(entry["task"])
    return missed


def _cron(expression: str) -> crontab:
    try:
        return crontab.from_string(expression)
    except (ValueError, ParseException) as error:
        raise ConfigError(f"MIRROR_RECONCILE_CRON: {error}.") from None
