"""Decision: what the target itself answers, asked as the user.

What it should answer follows from the rows that it has: whether those are the right ones is what
the steps before this one say.
"""

from collections.abc import Sequence

from mirror.access import Guard, Own
from mirror.access.questions import AccessQuestion, Grant
from mirror.access.rules import VERBS
from mirror.diagnostics.explain.explanation import Step, StepStatus
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.sync.drain import Drain
from mirror.sync.targets.asking import Ask, AskHelper, AskResult, AskStatement

MIGRATE = "Run `mirror migrate supabase --guards`."


def ask_question(
    drain: Drain,
    question: AccessQuestion,
    user: str,
    resource: str,
    grant: Grant,
    rows: Sequence[tuple[Mapping, Key]],
) -> tuple[bool, list[Step]]:
    """Ask the helpers, for the mirrored rows, and each guarded table about rows of the resource.

    `grant` is what the target's rows grant. Returns whether the user is let in, and the steps.
    """
    helpers: list[Ask] = [AskHelper(h.function, h.arguments, h.each) for h in question.helpers]
    own = [(mapping, key) for mapping, key in rows if mapping.readable is not None]
    guarded = [
        (guard, verb, _sample(guard, user, resource))
        for guard in drain.registry.guards
        if isinstance(guard, Guard) and guard.via == question.via
        for verb in guard.verbs
    ]
    statements: list[Ask] = [_select(mapping, key) for mapping, key in own]
    statements += [
        AskStatement(*guard.relation, VERBS[verb], row, attempt=False)
        for guard, verb, row in guarded
    ]
    told = iter(drain.target.ask([*helpers, *statements], [(user, [resource])])[0])
    answers = [next(told) for _ in helpers]
    steps = [_helpers_step(question, resource, grant, answers)]
    for mapping, key in own:
        reads, row = question.reads(mapping), dict(zip(mapping.key, key, strict=True))
        ours = reads is not None and row.get(reads[0]) == resource
        should = reads[1] in grant.levels if reads is not None and ours else None
        steps.append(_own_step(mapping, next(told), should=should))
    by_guard: dict[Guard, list[tuple[str, AskResult]]] = {}
    for guard, verb, _ in guarded:
        by_guard.setdefault(guard, []).append((verb, next(told)))
    steps += [_guard_step(guard, grant, verbs) for guard, verbs in by_guard.items()]
    return resource in answers[0].values, steps


def ask_row(drain: Drain, mapping: Mapping, key: Key, user: str) -> tuple[Step, bool]:
    """Ask whether a user may read one mirrored row."""
    told = drain.target.ask([_select(mapping, key)], [(user, [])])[0][0]
    return statement_step(mapping.table, "select", told), bool(told.rows)


def _select(mapping: Mapping, key: Key) -> AskStatement:
    row = dict(zip(mapping.key, key, strict=True))
    return AskStatement(mapping.schema, mapping.table, "select", row)


def _sample(guard: Guard, user: str, resource: str) -> dict[str, str]:
    """Return a row of the resource, the user's own where that matters."""
    owned = any(isinstance(rule, Own) for verb in guard.verbs.values() for rule in verb.rules)
    return {guard.on: resource} | ({guard.owner: user} if owned else {})


def _helpers_step(
    question: AccessQuestion, resource: str, grant: Grant, answers: list[AskResult]
) -> Step:
    lines = []
    wrong = []
    for helper, told in zip(question.helpers, answers, strict=True):
        call = helper.call(resource)
        let = resource in told.values
        lines.append(f"{call} {'has' if let else 'does not have'} it" + _failed(told))
        if told.state is not None or let != (helper.level in grant.levels):
            wrong.append(call)
    if wrong:
        return Step(
            "decision",
            StepStatus.BROKEN,
            f"{', '.join(wrong)} does not answer what the row in the target says.",
            MIGRATE,
            details=tuple(lines),
        )
    let = resource in answers[0].values
    said = f"The policies' helpers {'let the user in' if let else 'do not let the user in'}."
    return Step("decision", StepStatus.YES if let else StepStatus.NO, said, details=tuple(lines))


def _own_step(mapping: Mapping, told: AskResult, *, should: bool | None) -> Step:
    """Say whether the user may read what says so: the mirrored row itself.

    `should`: whether that follows from the row; None where other rules decide.
    """
    broken = broken_step(mapping.table, "select", told)
    if broken is not None:
        return broken
    let, lines = bool(told.rows), policy_lines(told)
    said = f"{mapping.table}: the user {'reads' if let else 'does not read'} the mirrored row"
    if should is not None and told.found and let != should:
        said = f"{said}, though what is declared {'allows' if should else 'refuses'} it."
        return Step("decision", StepStatus.BROKEN, said, MIGRATE, details=lines)
    word = StepStatus.YES if let else StepStatus.NO if should is False else StepStatus.UNKNOWN
    return Step("decision", word, f"{said}.", details=lines)


def _guard_step(guard: Guard, grant: Grant, verbs: list[tuple[str, AskResult]]) -> Step:
    """Say what the user may do with rows of the resource in a guarded table."""
    lines = []
    for verb, told in verbs:
        broken = broken_step(guard.table, VERBS[verb], told)
        if broken is not None:
            return broken
        let, should = told.passes(VERBS[verb]), _admits(guard.verbs[verb].rules, grant)
        if should is not None and let != should:
            return Step(
                "decision",
                StepStatus.BROKEN,
                f"{guard.table}: its policies {'allow' if let else 'refuse'} to {VERBS[verb]}, "
                f"though what is declared {'allows' if should else 'refuses'} it.",
                MIGRATE,
                details=policy_lines(told),
            )
        lines.append(f"{VERBS[verb]}: {'allowed' if let else 'refused'}, {_by(told, VERBS[verb])}")
    said = f"{guard.table}: as declared, for rows of this resource that are the user's own."
    return Step(
        "decision", StepStatus.YES if grant.levels else StepStatus.NO, said, details=tuple(lines)
    )


def _admits(rules: Sequence[object], grant: Grant) -> bool | None:
    """Return whether a rule admits somebody with these levels to a row of their own.

    None: another kind of rule may.
    """
    needed = [rule.role if isinstance(rule, Own) else rule for rule in rules]
    if any(role is None or role in grant.levels for role in needed):
        return True
    return False if all(isinstance(role, str) for role in needed) else None


def broken_step(table: str, verb: str, told: AskResult) -> Step | None:
    """Return what keeps policies from deciding at all, or None."""
    if not told.exists:
        said, remedy = f"{table}: there is no such table.", "Create it, or drop its declaration."
    elif not told.active:
        said = (
            f"{table}: row-level security is off, so everybody with a grant may {verb} every row."
        )
        remedy = MIGRATE
    elif not told.privilege:
        said = f"{table}: {verb} is not granted to authenticated, whatever its policies say."
        remedy = MIGRATE
    elif not any(policy.verb in {verb, "all"} for policy in told.policies):
        said = f"{table}: no policy for {verb} is there, so nobody may."
        remedy = MIGRATE
    else:
        return None
    return Step("decision", StepStatus.BROKEN, said, remedy, details=policy_lines(told))


def policy_lines(told: AskResult) -> tuple[str, ...]:
    """Return a line for each policy."""
    states = {True: "holds", False: "does not hold", None: "failed"}
    return tuple(
        f"policy {policy.name} ({'permissive' if policy.permissive else 'restrictive'}, for "
        f"{policy.verb}) {states[policy.holds]}"
        for policy in told.policies
    )


def _by(told: AskResult, verb: str) -> str:
    """Return by which policies."""
    let = told.passes(verb)
    names = [p.name for p in told.policies if bool(p.holds) == let and p.permissive == let]
    names = names or [p.name for p in told.policies if not p.holds]
    return f"by {', '.join(names)}"


def _failed(told: AskResult) -> str:
    return f": it failed [{told.state}]" if told.state is not None else ""


def statement_step(table: str, verb: str, told: AskResult) -> Step:
    """Say what became of a statement."""
    broken = broken_step(table, verb, told)
    lines = policy_lines(told)
    if broken is not None:
        return broken
    if told.found == 0:
        said = f"{table}: there is no such row."
        return Step("decision", StepStatus.NO, said, "Check the values of --row.", details=lines)
    if told.accepted:
        also = (
            f" (a constraint refuses the row as it is given [{told.state}])" if told.state else ""
        )
        holding = [policy.name for policy in told.policies if policy.permissive and policy.holds]
        said = f"{table}: {verb} is allowed, by {', '.join(holding)}{also}."
        return Step("decision", StepStatus.YES, said, details=lines)
    if told.passes(verb):
        said = (
            f"{table}: policies let the row through, but {verb} fails [{told.state or 'no row'}]."
        )
        remedy = "Look at the columns that are granted, and at the table's triggers."
        return Step("decision", StepStatus.BROKEN, said, remedy, details=lines)
    failing = [policy.name for policy in told.policies if not policy.holds]
    return Step(
        "decision",
        StepStatus.NO,
        f"{table}: {verb} is refused, by {', '.join(failing)}.",
        details=lines,
    )
