"""The access review of a model, compared with what row-level security answers each person."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from mirror.access.questions import AccessQuestion, Given, Helper, access_questions
from mirror.diagnostics.access_review import review
from mirror.diagnostics.explain.audit_checks import checks, statement_checks
from mirror.model.registry import Registry
from mirror.schema.quoting import identifier, literal
from mirror.sync.targets.asking import AskRows
from mirror.sync.targets.base import Target
from tests.support.databases import TestDatabase


@dataclass(frozen=True)
class Reviewed:
    """A model in a target, and the people whose access is reviewed."""

    registry: Registry
    target: Target
    database: TestDatabase
    people: Mapping[str, UUID]

    def check(self) -> int:
        """Assert that reviews say what row-level security answers; return the number of answers."""
        return sum(map(self._check, access_questions(self.registry).values()))

    def _check(self, question: AccessQuestion) -> int:
        levels: dict[tuple[str, str], str] = {}
        for person, user in self.people.items():
            found = review(self.registry, self.target, [question], {Given.USER: str(user)})
            levels |= {(person, one.resource): one.level for one in found.access if one.level}
        resources = self._resources(question)
        assert resources >= {resource for _, resource in levels}
        by_resource: dict[tuple[str, str], str] = {}
        names = {str(user): person for person, user in self.people.items()}
        for resource in resources:
            found = review(self.registry, self.target, [question], {Given.RESOURCE: resource})
            by_resource |= {
                (names[one.user], resource): one.level
                for one in found.access
                if one.level and one.user in names
            }
        assert by_resource == levels
        return sum(
            self._check_helpers(question, person, levels, resources)
            + self._check_tables(question, person, levels, resources)
            for person in self.people
        )

    def _held(
        self,
        question: AccessQuestion,
        person: str,
        levels: Mapping[tuple[str, str], str],
        needed: str,
    ) -> set[str]:
        """Return the resources on which the review gives a person at least a level."""
        order = question.levels.index
        return {
            resource
            for (name, resource), level in levels.items()
            if name == person and order(level) >= order(needed)
        }

    def _check_helpers(
        self,
        question: AccessQuestion,
        person: str,
        levels: Mapping[tuple[str, str], str],
        resources: set[str],
    ) -> int:
        """Compare with the helpers, called as the person."""
        with self.database.acting_as(self.people[person]) as connection:
            for helper in question.helpers:
                found = connection.execute(_call(helper, resources).encode()).fetchall()
                held = self._held(question, person, levels, helper.level)
                assert {resource for (resource,) in found} == held, (person, helper)
        return len(question.helpers) * len(resources)

    def _check_tables(
        self,
        question: AccessQuestion,
        person: str,
        levels: Mapping[tuple[str, str], str],
        resources: set[str],
    ) -> int:
        """Compare with the rows that the person sees, and with the policies of each statement."""
        user, cells = self.people[person], 0
        for check in checks(self.registry, question):
            if isinstance(check.ask, AskRows) and check.ask.through is None:
                held = self._held(question, person, levels, check.level)
                table = identifier(check.ask.schema, check.ask.table)
                rows = f"select distinct {identifier(check.ask.column)}::text from {table}".encode()
                with self.database.acting_as(user) as connection:
                    seen = {resource for (resource,) in connection.execute(rows)}
                assert seen <= held, (person, check)
                if check.ask.expires is None and check.ask.deleted is None:
                    existing = {resource for (resource,) in self.database.query(rows.decode())}
                    assert seen == held & existing, (person, check)
                cells += len(resources)
        statements = list(statement_checks(self.registry, question))
        for resource in resources:
            held_levels = {
                one
                for one in question.levels
                if resource in self._held(question, person, levels, one)
            }
            asks = [one.ask(str(user), resource) for one in statements]
            results = self.target.ask(asks, [(str(user), [])])[0] if asks else []
            for one, ask, result in zip(statements, asks, results, strict=True):
                expected = one.expected(held_levels)
                assert expected in {None, result.passes(ask.verb)}, (person, one.by, resource)
                cells += expected is not None
        return cells

    def _resources(self, question: AccessQuestion) -> set[str]:
        """Return all resources that mirrored rows name."""
        found: set[str] = set()
        for path in question.paths:
            for lookup in path.rows:
                mapping = self.registry[lookup.mapping]
                table = identifier(mapping.schema, mapping.table)
                for column, source in lookup.by.items():
                    if source is Given.RESOURCE:
                        rows = f"select distinct {identifier(column)}::text from {table}"
                        found |= {one for (one,) in self.database.query(rows) if one}
        return found


def _call(helper: Helper, resources: set[str]) -> str:
    """Return the query for the resources that a helper answers."""
    if not helper.each:
        return f"select distinct unnest({helper.call('')})::text"
    values = ", ".join(f"({literal(resource)})" for resource in sorted(resources))
    arguments = "".join(f", {literal(one)}" for one in helper.arguments)
    name = f"mirror.{identifier(helper.function)}"
    return f"select r from (values {values}) as v (r) where {name}(r{arguments})"
