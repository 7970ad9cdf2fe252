"""Tasks: this repository's deployment of the worker, `celery -A tasks worker` (or `beat`).

The wheel has the app, its tasks and its schedule in `mirror.worker`. A deployment changes
`app.conf` for its own needs.
"""

from mirror.worker import app

__all__ = ["app"]
