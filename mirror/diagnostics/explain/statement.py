"""Statement: the page of one statement on a table: it is run as the user, and undone."""

from collections.abc import Mapping as MappingABC
from dataclasses import replace

from mirror.access import Guard
from mirror.access.questions import AccessQuestion, access_questions
from mirror.access.rules import VERBS
from mirror.diagnostics.explain.decision import MIGRATE, policy_lines, statement_step
from mirror.diagnostics.explain.explanation import Explanation, Step, StepStatus
from mirror.diagnostics.explain.permission import explain_key, explain_resource
from mirror.errors import UsageError
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.sync.drain import Drain
from mirror.sync.targets.asking import AskResult, AskStatement


def explain_table(
    drain: Drain,
    table: str,
    verb: str,
    row: MappingABC[str, str],
    user: str,
    *,
    show_values: bool = False,
) -> Explanation:
    """Follow one statement of a user on a guarded or mirrored table.

    `row` is what an insert brings, or values that find the row.

    Raises:
        UsageError: the registry knows no such table, or the row does not fit it.
        MirrorError: a side does not answer, or what is connected may not act as a user.
    """
    relation = _relation(drain.registry, table)
    if isinstance(relation, Mapping):
        if verb != "select" or set(row) != set(relation.key):
            raise UsageError(
                f"{table} is mirrored: ask for --verb select, with --row for each of "
                f"{', '.join(relation.key)}."
            )
        key = relation.canonical([row[name] for name in relation.key])
        return explain_key(drain, relation, key, user, show_values=show_values)

    told = drain.target.ask([AskStatement(*relation.relation, verb, row)], [(user, [])])[0][0]
    step = statement_step(relation.table, verb, told)
    allowed = told.accepted
    if verb not in {VERBS[name] for name in relation.verbs}:
        step = _undeclared(relation, verb, told)
    asked = f"May {user} {verb} this row of {relation.table}?"
    question, resource = _behind(drain, relation, user, {**told.row, **row})
    if question is None or resource is None:
        return Explanation(question=asked, primary_grants=None, allowed=allowed, steps=(step,))
    page = explain_resource(drain, question, user, resource, show_values=show_values)
    # Of the helpers and the other tables it is enough to know that they are not what is wrong.
    others = (
        one for one in page.steps if one.name != "decision" or one.status is StepStatus.BROKEN
    )
    return replace(page, question=asked, allowed=allowed, steps=(*others, step))


def _undeclared(guard: Guard, verb: str, told: AskResult) -> Step:
    """Say what became of a statement that is nobody's to make."""
    lines = policy_lines(told)
    if told.exists and told.privilege and told.passes(verb):
        said = f"{guard.table}: the guard lets nobody {verb}, but the target does."
        return Step("decision", StepStatus.BROKEN, said, MIGRATE, details=lines)
    said = f"{guard.table}: {verb} is refused; the guard declares it for nobody."
    return Step("decision", StepStatus.NO, said, "If that is wrong, declare it.", details=lines)


def _relation(registry: Registry, table: str) -> Guard | Mapping:
    """Return what is declared of a table."""
    declared: list[Guard | Mapping] = [g for g in registry.guards if isinstance(g, Guard)]
    declared += list(registry)
    for one in declared:
        if table in {one.table, f"{one.schema}.{one.table}"}:
            return one
    raise UsageError(
        f"registry {registry.name!r} has neither a mapping nor a guard of table {table!r}; it has "
        f"{', '.join(one.table for one in declared)}."
    )


def _behind(
    drain: Drain, guard: Guard, user: str, row: MappingABC[str, object]
) -> tuple[AccessQuestion | None, str | None]:
    """Return what decides about a row, and about which resource, as far as the row tells."""
    parent = guard.parent(drain.registry)
    value = row.get(guard.on)
    if value is None:
        return None, None
    if parent is not None:
        ask = AskStatement(*parent.relation, "select", {guard.key: str(value)})
        told = drain.target.ask([ask], [(user, [])])[0][0]
        return _behind(drain, parent, user, told.row)
    for question in access_questions(drain.registry).values():
        if question.via == guard.via:
            return question, str(value)
    return None, None
