"""Tasks: the Celery app of this repository's deployment, for `celery -A tasks worker` (or `beat`).

The app, its tasks and its schedule are in `mirror.worker`, which is part of the wheel. A deployment
changes `app.conf` here for its own needs.
"""

from mirror.worker import app

__all__ = ["app"]
