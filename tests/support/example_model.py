"""The two databases of a permission model, set up as the example of the model does it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from examples.stage import Stage, example
from mirror.diagnostics.explain import Explanation
from mirror.model.registry import Registry
from mirror.reconcile import Options, Report, Throttle, reconcile
from mirror.sync.drain import Drain
from mirror.testing import Result, Sandboxes
from tests.support.databases import EXAMPLES, TestDatabase
from tests.support.policy_matrix import OTHER_ROLES


@dataclass(frozen=True)
class InstalledModel:
    """A model's primary and target, and the people that its tests try statements as."""

    stage: Stage
    primary: TestDatabase
    target: TestDatabase
    people: dict[str, UUID] = field(default_factory=dict)
    """The people with an account, by their name in the tests."""
    values: dict[str, Any] = field(default_factory=dict)
    """More parameters of statements, beside people; `%(me)s` is the caller."""

    @property
    def drain(self) -> Drain:
        """A worker between the two."""
        return self.stage.sandbox.drain

    def outcome(self, person: str, statement: str) -> Result:
        """Return how many rows a statement reads or writes, or DENIED; it is rolled back."""
        role = OTHER_ROLES.get(person, "authenticated")
        actor = self.stage.sandbox.as_user(self.people.get(person), role=role)
        return actor.result(statement, **self.people, **self.values)

    def outcomes(self, statement: str, people: Iterable[str]) -> dict[str, Result]:
        """Return the outcome of a statement for each of these people."""
        return {person: self.outcome(person, statement) for person in people}

    def explain(self, person: str, noun: str, resource: object) -> Explanation:
        """Return the explanation of a person's access to a resource of kind `noun`."""
        return self.stage.sandbox.explain(self.people[person], noun, resource)

    def reconcile(self, **options: Any) -> Report:
        """Compare both sides, repair the differences, and return the report."""
        throttle = Throttle(self.drain.queue.beside, backlog=10**9, latency_seconds=60)
        chosen = Options(grace_seconds=0.0, keys=1000, **options)
        return reconcile(self.drain, chosen, throttle)


@contextmanager
def model(
    sandboxes: Sandboxes, registry: Registry, *, folder: str | None = None
) -> Iterator[InstalledModel]:
    """Yield two databases with a model of `mappings`, as its example installs it.

    `folder` is the example's; None: it is called like the model.
    """
    with sandboxes.open(example(registry, EXAMPLES / (folder or registry.name))) as sandbox:
        yield InstalledModel(
            Stage(sandbox), TestDatabase(sandbox.primary_url), TestDatabase(sandbox.target_url)
        )
