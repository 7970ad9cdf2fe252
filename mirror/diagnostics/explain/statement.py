"""Statement: explains one statement on a table, which is run as the user and rolled back."""

from collections.abc import Mapping as MappingABC
from dataclasses import replace

from mirror.access import Guard
from mirror.access.questions import AccessQuestion, access_questions
from mirror.access.rules import VERBS
from mirror.diagnostics.explain.decision import MIGRATE, policy_lines, statement_step
from mirror.diagnostics.explain.explanation import Explanation, Step, StepStatus
from mirror.diagnostics.explain.freshness import freshness_step, needed_for_statement
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
    """Explain one statement of a user on a guarded or mirrored table.

    `row` contains the values to insert, or values that identify the row.

    Raises:
        UsageError: the registry does not declare the table, the row does not fit it, or the table
            is mirrored and `verb` is not `select`.
        MirrorError: a side does not answer, or the login may not act as a user.
    """
    declared = _declaration(drain.registry, table)
    if isinstance(declared, Mapping):
        if verb != "select" or set(row) != set(declared.key):
            raise UsageError(
                f"{table} is mirrored: use --verb select, with a --row for each of "
                f"{', '.join(declared.key)}."
            )
        key = declared.canonical([row[name] for name in declared.key])
        return explain_key(drain, declared, key, user, show_values=show_values)

    ask = AskStatement(*declared.relation, verb, row)
    result = drain.target.ask([ask], [(user, [])])[0][0]
    step = statement_step(declared.table, verb, result)
    if verb not in {VERBS[name] for name in declared.verbs}:
        step = _undeclared_step(declared, verb, result)
    needed = needed_for_statement(drain.registry, declared, verb)
    steps: tuple[Step, ...] = (step,)
    if needed:
        trace = drain.target.trace(user, [])
        fresh = freshness_step(drain.registry, trace, needed, denied=not result.accepted)
        steps = (*filter(None, [fresh]), step)
    title = f"May {user} {verb} this row of {declared.table}?"
    question, resource = _deciding_resource(drain, declared, user, {**result.row, **row})
    page = Explanation(question=title, primary_grants=None, allowed=result.accepted, steps=steps)
    if question is None or resource is None:
        return page
    return after_resource(drain, page, question, user, resource, show_values=show_values)


def after_resource(
    drain: Drain,
    page: Explanation,
    question: AccessQuestion,
    user: str,
    resource: str,
    *,
    show_values: bool,
) -> Explanation:
    """Return the explanation of a decision, with the steps of the resource's access before it."""
    explained = explain_resource(drain, question, user, resource, show_values=show_values)
    # Decisions about helpers and other tables matter here only if they are wrong.
    others = (
        other
        for other in explained.steps
        if other.name not in {"decision", "freshness"}
        or (other.name == "decision" and other.status is StepStatus.BROKEN)
    )
    return replace(
        explained, question=page.question, allowed=page.allowed, steps=(*others, *page.steps)
    )


def _undeclared_step(guard: Guard, verb: str, result: AskResult) -> Step:
    """Return the step about a statement that the guard does not declare."""
    details = policy_lines(result)
    if result.exists and result.privilege and result.passes(verb):
        says = f"{guard.table}: the target allows {verb}, but the guard does not declare it."
        return Step("decision", StepStatus.BROKEN, says, MIGRATE, details=details)
    says = f"{guard.table}: {verb} is refused; the guard does not declare it."
    remedy = "If users need it, declare it in the guard."
    return Step("decision", StepStatus.NO, says, remedy, details=details)


def _declaration(registry: Registry, table: str) -> Guard | Mapping:
    """Return the guard or the mapping that declares a table, named with or without its schema.

    Raises:
        UsageError: there is none; the message lists the declared tables.
    """
    declared: list[Guard | Mapping] = [g for g in registry.guards if isinstance(g, Guard)]
    declared += list(registry)
    for one in declared:
        if table in {one.table, f"{one.schema}.{one.table}"}:
            return one
    raise UsageError(
        f"registry {registry.name!r} has neither a mapping nor a guard of table {table!r}; its "
        f"tables are {', '.join(one.table for one in declared)}."
    )


def _deciding_resource(
    drain: Drain, guard: Guard, user: str, row: MappingABC[str, object]
) -> tuple[AccessQuestion | None, str | None]:
    """Return the access question and the resource that decide about a row of a guarded table.

    With `through`, the target is asked for the parent row. (None, None): they are unknown.
    """
    parent = guard.parent(drain.registry)
    value = row.get(guard.on)
    if value is None:
        return None, None
    if parent is not None:
        ask = AskStatement(*parent.relation, "select", {guard.key: str(value)})
        result = drain.target.ask([ask], [(user, [])])[0][0]
        return _deciding_resource(drain, parent, user, result.row)
    for question in access_questions(drain.registry).values():
        if question.via == guard.via:
            return question, str(value)
    return None, None
