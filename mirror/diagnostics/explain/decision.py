"""Decision: asks the target, as the user, and compares its answers with the rows that it has.

Whether these rows are right is the subject of the earlier steps.
"""

from collections.abc import Collection, Sequence

from mirror.access import Guard
from mirror.access.questions import AccessQuestion, HeldLevels
from mirror.access.rules import VERBS
from mirror.diagnostics.explain.declared_rules import guard_allows, has_owners
from mirror.diagnostics.explain.explanation import Step, StepStatus
from mirror.diagnostics.explain.freshness import needed_for_statement
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.schema.freshness import readable_must_be_fresh
from mirror.sync.drain import Drain
from mirror.sync.targets.asking import Ask, AskHelper, AskResult, AskStatement

MIGRATE = "Run `mirror migrate supabase --guards`."


def ask_question(
    drain: Drain,
    question: AccessQuestion,
    user: str,
    resource: str,
    grant: HeldLevels,
    rows: Sequence[tuple[Mapping, Key]],
    stale: Collection[str] = (),
) -> tuple[bool, list[Step]]:
    """Ask, as the user, the helpers and the policies of the mirrored rows and of guarded tables.

    `grant` has the levels that the target's rows grant; a step is BROKEN if it contradicts them.
    `stale` names the mappings that are too old for policies.
    Returns whether the first helper gives the user access to the resource, and the steps.
    """
    helpers: list[Ask] = [AskHelper(h.function, h.arguments, h.each) for h in question.helpers]
    readable = [(mapping, key) for mapping, key in rows if mapping.readable is not None]
    guarded = [
        (guard, verb, _sample_row(guard, user, resource))
        for guard in drain.registry.guards
        if isinstance(guard, Guard) and guard.via == question.via
        for verb in guard.verbs
    ]
    statements: list[Ask] = [_select(mapping, key) for mapping, key in readable]
    statements += [
        AskStatement(*guard.relation, VERBS[verb], row, attempt=False)
        for guard, verb, row in guarded
    ]
    results = iter(drain.target.ask([*helpers, *statements], [(user, [resource])])[0])
    helper_results = [next(results) for _ in helpers]
    steps = [_helpers_step(question, resource, grant, helper_results)]
    for mapping, key in readable:
        reads, values = question.reads(mapping), dict(zip(mapping.key, key, strict=True))
        about_resource = reads is not None and values.get(reads[0]) == resource
        expected = reads[1] in grant.levels if reads is not None and about_resource else None
        if set(stale).intersection(readable_must_be_fresh(drain.registry, mapping)):
            expected = False
        steps.append(_mirrored_row_step(mapping, next(results), expected=expected))
    by_guard: dict[Guard, list[tuple[str, AskResult]]] = {}
    for guard, verb, _ in guarded:
        by_guard.setdefault(guard, []).append((verb, next(results)))
    steps += [
        _guard_step(drain.registry, guard, grant, verbs, stale) for guard, verbs in by_guard.items()
    ]
    return resource in helper_results[0].values, steps


def ask_row(drain: Drain, mapping: Mapping, key: Key, user: str) -> tuple[Step, bool]:
    """Ask, as the user, for one mirrored row; return the step, and whether the user may read it."""
    result = drain.target.ask([_select(mapping, key)], [(user, [])])[0][0]
    if mapping.readable is None and result.exists and not result.rows:
        says = f"{mapping.table}: no user may read it, as declared: it has no `readable`."
        return Step("decision", StepStatus.NO, says), False
    return statement_step(mapping.table, "select", result), bool(result.rows)


def _select(mapping: Mapping, key: Key) -> AskStatement:
    values = dict(zip(mapping.key, key, strict=True))
    return AskStatement(mapping.schema, mapping.table, "select", values)


def _sample_row(guard: Guard, user: str, resource: str) -> dict[str, str]:
    """Return the values of a row of the guarded table that belongs to the resource, for a trial.

    It is the user's own row if the guard's rules depend on the owner.
    """
    return {guard.on: resource} | ({guard.owner: user} if has_owners(guard) else {})


def _helpers_step(
    question: AccessQuestion, resource: str, grant: HeldLevels, results: list[AskResult]
) -> Step:
    """Return the step about the helpers: each must answer as the target's rows say."""
    lines = []
    wrong = []
    for helper, result in zip(question.helpers, results, strict=True):
        call = helper.call(resource)
        allowed = resource in result.values
        error = f": it failed [{result.state}]" if result.state is not None else ""
        lines.append(f"{call} {'includes' if allowed else 'does not include'} it{error}")
        if result.state is not None or allowed != (helper.level in grant.levels):
            wrong.append(call)
    details = tuple(lines)
    if wrong:
        says = f"{', '.join(wrong)} does not answer as the row in the target says."
        return Step("decision", StepStatus.BROKEN, says, MIGRATE, details=details)
    if resource in results[0].values:
        return Step("decision", StepStatus.YES, "The helpers allow the user.", details=details)
    return Step("decision", StepStatus.NO, "The helpers refuse the user.", details=details)


def _mirrored_row_step(mapping: Mapping, result: AskResult, *, expected: bool | None) -> Step:
    """Return the step about reading the mirrored row itself.

    `expected`: whether the user's levels allow reading it; None: they alone do not decide that.
    """
    broken = broken_step(mapping.table, "select", result)
    if broken is not None:
        return broken
    allowed, details = bool(result.rows), policy_lines(result)
    says = f"{mapping.table}: the user {'can' if allowed else 'cannot'} read the mirrored row"
    if expected is not None and result.found and allowed != expected:
        says = f"{says}, but the declarations {'allow' if expected else 'refuse'} it."
        return Step("decision", StepStatus.BROKEN, says, MIGRATE, details=details)
    refused = StepStatus.NO if expected is False else StepStatus.UNKNOWN
    status = StepStatus.YES if allowed else refused
    return Step("decision", status, f"{says}.", details=details)


def _guard_step(
    registry: Registry,
    guard: Guard,
    grant: HeldLevels,
    verbs: list[tuple[str, AskResult]],
    stale: Collection[str],
) -> Step:
    """Return the step about a guarded table.

    It says for each statement whether the policies allow it on a row of the resource; it is BROKEN
    if they contradict the declarations.
    """
    lines = []
    for verb, result in verbs:
        statement = VERBS[verb]
        broken = broken_step(guard.table, statement, result)
        if broken is not None:
            return broken
        allowed = result.passes(statement)
        expected = guard_allows(guard, verb, grant.levels, own=True)
        too_old = needed_for_statement(registry, guard, statement).intersection(stale)
        if too_old:
            expected = False
        if expected is not None and allowed != expected:
            return Step(
                "decision",
                StepStatus.BROKEN,
                f"{guard.table}: its policies {'allow' if allowed else 'refuse'} {statement}, but "
                f"the declarations {'allow' if expected else 'refuse'} it.",
                MIGRATE,
                details=policy_lines(result),
            )
        deciding = f"by {deciding_policies(result, statement)}"
        if too_old:
            deciding = f"because {', '.join(sorted(too_old))} is stale"
        lines.append(f"{statement}: {'allowed' if allowed else 'refused'}, {deciding}")
    says = f"{guard.table}: as declared, for rows of this resource that belong to the user."
    status = StepStatus.YES if grant.levels else StepStatus.NO
    return Step("decision", status, says, details=tuple(lines))


def broken_step(table: str, verb: str, result: AskResult) -> Step | None:
    """Return a BROKEN step if the table's policies cannot decide about a statement; None: they can.

    They cannot without the table, row-level security, the privilege, or a policy for the statement.
    """
    remedy = MIGRATE
    if not result.exists:
        says = f"{table}: the table does not exist."
        remedy = f"Create table {table}, or remove its guard from the registry."
    elif not result.active:
        says = (
            f"{table}: row-level security is off, so every user with the privilege may {verb} "
            f"every row."
        )
    elif not result.privilege:
        says = f"{table}: {verb} is not granted to authenticated, so no policy can allow it."
    elif not any(policy.verb in {verb, "all"} for policy in result.policies):
        says = f"{table}: it has no policy for {verb}, so every user is refused."
    else:
        return None
    return Step("decision", StepStatus.BROKEN, says, remedy, details=policy_lines(result))


def policy_lines(result: AskResult) -> tuple[str, ...]:
    """Return a line for each policy that applies: its name, and whether it holds for the row."""
    states = {True: "holds", False: "does not hold", None: "failed"}
    return tuple(
        f"policy {policy.name} ({'permissive' if policy.permissive else 'restrictive'}, for "
        f"{policy.verb}) {states[policy.holds]}"
        for policy in result.policies
    )


def deciding_policies(result: AskResult, verb: str) -> str:
    """Return the names of the policies that decided that the statement is allowed, or refused."""
    allowed = result.passes(verb)
    names = [
        p.name for p in result.policies if bool(p.holds) == allowed and p.permissive == allowed
    ]
    names = names or [p.name for p in result.policies if not p.holds]
    return ", ".join(names)


def statement_step(table: str, verb: str, result: AskResult) -> Step:
    """Return the step about a statement that was run as the user."""
    broken = broken_step(table, verb, result)
    details = policy_lines(result)
    if broken is not None:
        return broken
    if result.found == 0:
        says = f"{table}: there is no such row."
        return Step("decision", StepStatus.NO, says, "Check the values of --row.", details=details)
    if result.accepted:
        constraint = (
            f" (but a constraint refuses this row [{result.state}])" if result.state else ""
        )
        holding = [policy.name for policy in result.policies if policy.permissive and policy.holds]
        says = f"{table}: {verb} is allowed, by {', '.join(holding)}{constraint}."
        return Step("decision", StepStatus.YES, says, details=details)
    if result.passes(verb):
        error = result.state or "no row"
        says = f"{table}: the policies allow the row, but {verb} fails [{error}]."
        remedy = "Check the columns that are granted, and the triggers of the table."
        return Step("decision", StepStatus.BROKEN, says, remedy, details=details)
    failing = [policy.name for policy in result.policies if not policy.holds]
    says = f"{table}: {verb} is refused, by {', '.join(failing)}."
    return Step("decision", StepStatus.NO, says, details=details)
