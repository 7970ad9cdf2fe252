"""The two databases of a permission model, set up as the example of the model does it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from examples.sandbox import Sandbox, open_sandbox
from mirror.devstack import PostgresCluster, prepare_services
from mirror.diagnostics.explain import Explanation, explain_resource, question_about
from mirror.model.registry import Registry
from mirror.reconcile import Options, Report, Throttle, reconcile
from tests.support.databases import EXAMPLES, TestDatabase
from tests.support.policy_matrix import Outcome, attempts


@dataclass(frozen=True)
class InstalledModel:
    """A model's primary and target, and the people that its tests try statements as."""

    stage: Sandbox
    primary: TestDatabase
    target: TestDatabase
    people: dict[str, UUID] = field(default_factory=dict)
    """The people with an account, by their name in the tests."""
    values: dict[str, Any] = field(default_factory=dict)
    """More parameters of statements, beside people; `%(me)s` is the caller."""

    def outcome(self, person: str, statement: str) -> Outcome:
        """Return how many rows a statement reads or writes, or DENIED; it is rolled back."""
        return self.outcomes(statement, [person])[person]

    def outcomes(self, statement: str, people: Iterable[str]) -> dict[str, Outcome]:
        """Return the outcome of a statement for each of these people."""
        parameters = self.people | self.values
        users = {person: self.people.get(person) for person in people}
        return attempts(
            self.target,
            statement,
            {person: (user, parameters | {"me": user}) for person, user in users.items()},
        )

    def explain(self, person: str, noun: str, resource: object) -> Explanation:
        """Return the explanation of a person's access to a resource of kind `noun`."""
        question = question_about(self.stage.drain.registry, noun)
        user = str(self.people[person])
        return explain_resource(self.stage.drain, question, user, str(resource))

    def reconcile(self, **options: Any) -> Report:
        """Compare both sides, repair the differences, and return the report."""
        throttle = Throttle(self.stage.drain.queue.notes, backlog=10**9, latency_seconds=60)
        chosen = Options(grace_seconds=0.0, keys=1000, **options)
        return reconcile(self.stage.drain, chosen, throttle)


@contextmanager
def model(
    primary: PostgresCluster,
    target: PostgresCluster,
    project: str,
    registry: Registry,
    *,
    example: str | None = None,
) -> Iterator[InstalledModel]:
    """Yield two databases with a model of `mappings`, as its example installs it.

    `project` is the name of the template database of a project. `example` is the example's folder;
    None: it is called like the model.
    """
    name = f"model_{registry.name}"
    folder = EXAMPLES / (example or registry.name)
    primary.create_database(name)
    target.create_database(name, template=project, owner="postgres")
    prepare_services(target, name)
    primary_url, target_url = primary.url(name), target.url(name, user="postgres")
    with open_sandbox(primary_url, target_url, registry, folder) as stage:
        yield InstalledModel(stage, TestDatabase(primary_url), TestDatabase(target_url))
    primary.drop_database(name)
    target.drop_database(name)
