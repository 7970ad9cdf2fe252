"""Schedule: the messages that Celery beat sends, and when."""

from datetime import timedelta
from typing import Any

from celery.schedules import ParseException, crontab

from mirror.capture.doorbell import TASK
from mirror.errors import ConfigError
from mirror.settings import Settings

PURGE_TASK = "mirror.purge"
RECONCILE_TASK = "mirror.reconcile"
FROM_BEAT = "mirror_swept"
"""A header that marks beat's rings."""


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
            "options": {"expires": 3600},
        },
    }
    if settings.reconcile_cron != "off":
        schedule["reconcile"] = {
            "task": RECONCILE_TASK,
            "schedule": _cron(settings.reconcile_cron),
            "options": {"expires": 3600},
        }
    return schedule


def _cron(expression: str) -> crontab:
    try:
        return crontab.from_string(expression)
    except (ValueError, ParseException) as error:
        raise ConfigError(f"MIRROR_RECONCILE_CRON: {error}.") from None
