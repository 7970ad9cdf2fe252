"""Worker: the processes that keep the target up to date.

They are a Celery app's worker and beat, or `mirror run`, which does all in one process and needs no
Redis. Run Celery in your own repository; MIRROR_MAPPINGS names your mappings module::

    celery -A mirror.worker worker
    celery -A mirror.worker beat
"""

from mirror.errors.extras import require_worker_extra

require_worker_extra("a worker")

from mirror.worker.celery_app import app, create_app
from mirror.worker.chores import Worker
from mirror.worker.single import SingleProcess

__all__ = ["SingleProcess", "Worker", "app", "create_app"]
