"""This repository's deployment of the worker: `celery -A tasks worker`, `celery -A tasks beat`.

The app, its tasks and its schedule are defined in `mirror.worker`, which the wheel ships; a
deployment adds what is its own by changing `app.conf`.
"""

from mirror.worker import app

__all__ = ["app"]
