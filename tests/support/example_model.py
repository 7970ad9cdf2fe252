"""A permission model between a primary and a project, as its example installs it."""

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
    """Both sides, and everybody who acts on them."""

    stage: Sandbox
    primary: TestDatabase
    target: TestDatabase
    people: dict[str, UUID] = field(default_factory=dict)
    """Those with an account, by what the tests call them."""
    values: dict[str, Any] = field(default_factory=dict)
    """What statements may name, beside people; `%(me)s` is the caller."""

    def outcome(self, person: str, statement: str) -> Outcome:
        """Return how many rows a person's statement reads or writes, or DENIED; it is undone."""
        return self.outcomes(statement, [person])[person]

    def outcomes(self, statement: str, people: Iterable[str]) -> dict[str, Outcome]:
        """Return what each of these people gets."""
        here = self.people | self.values
        users = {person: self.people.get(person) for person in people}
        return attempts(
            self.target,
            statement,
            {who: (user, here | {"me": user}) for who, user in users.items()},
        )

    def explain(self, person: str, noun: str, resource: object) -> Explanation:
        """Follow what a person may do with a resource."""
        question = question_about(self.stage.drain.registry, noun)
        user = str(self.people[person])
        return explain_resource(self.stage.drain, question, user, str(resource))

    def reconcile(self, **options: Any) -> Report:
        """Compare and repair."""
        throttle = Throttle(self.stage.drain.queue.notes, backlog=10**9, latency_seconds=60)
        chosen = Options(grace_seconds=0.0, keys=1000, **options)
        return reconcile(self.stage.drain, chosen, throttle)


@contextmanager
def model(
    primary: PostgresCluster, target: PostgresCluster, project: str, registry: Registry
) -> Iterator[InstalledModel]:
    """Yield two databases with a model of `mappings`, as the example of its name installs it.

    `project` is the template of a project.
    """
    name = f"model_{registry.name}"
    primary.create_database(name)
    target.create_database(name, template=project, owner="postgres")
    prepare_services(target, name)
    here, there = primary.url(name), target.url(name, user="postgres")
    with open_sandbox(here, there, registry, EXAMPLES / registry.name) as stage:
        yield InstalledModel(stage, TestDatabase(here), TestDatabase(there))
    primary.drop_database(name)
    target.drop_database(name)
