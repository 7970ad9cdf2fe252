"""Schedule: what beat rings for, and when."""

from datetime import timedelta
from typing import Any

from celery.schedules import ParseException, crontab

from mirror.capture.doorbell import TASK
from mirror.errors import ConfigError
from mirror.settings import Settings

PURGE_TASK = "mirror.purge"
SWEPT = "mirror_swept"
"""The header of rings that are beat's."""
RECONCILE_TASK = "mirror.reconcile"


def beat_schedule(settings: Settings) -> dict[str, Any]:
    """Return Celery beat's schedule.

    Raises:
        ConfigError: the cron expression is none.
    """
    schedule: dict[str, Any] = {
        "sweep": {
            "task": TASK,
            "schedule": timedelta(seconds=settings.sweep_seconds),
            # A worker that was away must not find a heap of them.
            "options": {"expires": settings.sweep_seconds, "headers": {SWEPT: True}},
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
