"""A message from the broker is a ring and nothing else: it carries no code and no data."""

import pickle
from typing import Any

import pytest
from celery import Celery
from kombu import serialization
from kombu.exceptions import ContentDisallowed

from mirror.worker import app
from mirror.worker.celery_app import create_app


def test_a_message_with_an_object_of_python_is_not_read() -> None:
    """Unpickling runs code of the sender's choice, who may be anyone with the broker's password."""
    prepare: Any = serialization.prepare_accept_content
    accepted = prepare(app.conf.accept_content)
    loads: Any = serialization.loads
    with pytest.raises(ContentDisallowed):
        loads(pickle.dumps([]), "application/x-python-serialize", "binary", accept=accepted)
    assert loads("[]", "application/json", "utf-8", accept=accepted) == []


def test_a_worker_has_no_tasks_but_the_mirrors_and_celerys_own() -> None:
    """A message names a task, and a worker runs no other."""
    tasks = {name for name in app.tasks if not name.startswith("celery.")}
    assert tasks == {"mirror.drain", "mirror.purge", "mirror.reconcile"}


def test_another_app_of_the_process_gets_none_of_these_tasks() -> None:
    """A backend has an app of its own, whose messages must not start a drain."""
    own = Celery("backend")
    create_app()
    assert not [name for name in own.tasks if name.startswith("mirror.")]
