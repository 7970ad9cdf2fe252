"""Sandboxes: copies of the databases of a model that is installed once."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from mirror.devstack import PostgresCluster, prepare_database, prepare_services
from mirror.devstack.supabase import OWNER
from mirror.testing.model import Model
from mirror.testing.sandbox import Sandbox


class Sandboxes:
    """Makes sandboxes on two servers: copies of databases that it sets up once for each model."""

    def __init__(self, primary: PostgresCluster, target: PostgresCluster) -> None:
        self._primary = primary
        self._target = target
        self._templates: dict[int, tuple[Model, str]] = {}
        self._numbers = itertools.count(1)

    @contextmanager
    def open(self, model: Model) -> Iterator[Sandbox]:
        """Yield a sandbox with a model; its databases are dropped at the end."""
        template = self._template(model)
        name = f"sandbox_{next(self._numbers)}"
        self._primary.create_database(name, template=template)
        self._target.create_database(name, template=template, owner=OWNER)
        sandbox = Sandbox(
            model.registry, self._primary.url(name), self._target.url(name, user=OWNER)
        )
        try:
            yield sandbox
        finally:
            sandbox.close()
            self._primary.drop_database(name)
            self._target.drop_database(name)

    def _template(self, model: Model) -> str:
        """Return the name of the two databases in which a model is installed."""
        # The model is kept, so that no other one gets its id.
        if id(model) not in self._templates:
            name = f"template_{model.registry.name}_{len(self._templates)}"
            self._primary.create_database(name)
            self._target.create_database(name)
            prepare_database(self._target, name)
            prepare_services(self._target, name)
            model.install(self._primary.url(name), self._target.url(name, user=OWNER))
            self._templates[id(model)] = model, name
        return self._templates[id(model)][1]
