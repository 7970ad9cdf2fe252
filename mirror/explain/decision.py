"""Decision: what the target itself answers, asked as the user.

What it should answer follows from the row that it has: whether that row is the right one is what
the steps before this one say.
"""

from mirror.access import Allow, Guard, Own
from mirror.explain.page import Step, Word
from mirror.grants import Deciding, Grant
from mirror.mapping import Mapping
from mirror.registry import Registry
from mirror.targets.asking import Ask, AskHelper, AskStatement, Told
from mirror.targets.base import Target

_MIGRATE = "Run `mirror migrate supabase --guards`."


def ask_access(
    registry: Registry, access: Deciding, target: Target, user: str, resource: str, grant: Grant
) -> tuple[bool, list[Step]]:
    """Ask the helpers, the mirrored table, and each guarded one about rows of the resource.

    `grant` is what the target's row grants. Returns whether the user is let in, and the steps.
    """
    mapping = registry[access.mapping]
    helpers: list[Ask] = [AskHelper(h.function, h.arguments, h.each) for h in access.helpers]
    own = _own_row(mapping, access, user, resource)
    guarded = [
        (guard, verb, _sample(guard, user, resource))
        for guard in registry.guards
        if isinstance(guard, Guard) and guard.via == access.mapping
        for verb in guard.verbs
    ]
    statements: list[Ask] = [own]
    statements += [
        AskStatement(*guard.relation, _SQL[verb], row, attempt=False)
        for guard, verb, row in guarded
    ]
    told = target.ask([*helpers, *statements], [(user, [resource])])[0]
    answers, mine, others = told[: len(helpers)], told[len(helpers)], told[len(helpers) + 1 :]
    steps = [_helpers_step(access, resource, grant, answers)]
    if mapping.readable is not None:
        reads = access.reads(mapping)
        should = None if reads is None else reads[1] in grant.levels
        steps.append(_own_step(mapping, mine, should=should))
    by_guard: dict[Guard, list[tuple[str, Told]]] = {}
    for (guard, verb, _), answer in zip(guarded, others, strict=True):
        by_guard.setdefault(guard, []).append((verb, answer))
    steps += [_guard_step(guard, grant, verbs) for guard, verbs in by_guard.items()]
    return resource in answers[0].values, steps


_SQL = {"read": "select", "insert": "insert", "update": "update", "delete": "delete"}


def _own_row(mapping: Mapping, access: Deciding, user: str, resource: str) -> AskStatement:
    row = dict(zip(access.seat, (user, resource), strict=True))
    return AskStatement(mapping.schema, mapping.table, "select", row)


def _sample(guard: Guard, user: str, resource: str) -> dict[str, str]:
    """Return a row of the resource, the user's own where that matters."""
    owned = any(isinstance(rule, Own) for verb in guard.verbs.values() for rule in verb.rules)
    return {guard.on: resource} | ({guard.owner: user} if owned else {})


def _helpers_step(access: Deciding, resource: str, grant: Grant, answers: list[Told]) -> Step:
    lines = []
    wrong = []
    for helper, told in zip(access.helpers, answers, strict=True):
        call = f"mirror.{helper.function}({', '.join(map(repr, helper.arguments))})"
        let = resource in told.values
        lines.append(f"{call} {'has' if let else 'does not have'} it" + _failed(told))
        if told.state is not None or let != (helper.level in grant.levels):
            wrong.append(call)
    if wrong:
        return Step(
            "decision",
            Word.BROKEN,
            f"{', '.join(wrong)} does not answer what the row in the target says.",
            _MIGRATE,
            details=tuple(lines),
        )
    let = resource in answers[0].values
    said = f"The policies' helpers {'let the user in' if let else 'do not let the user in'}."
    return Step("decision", Word.YES if let else Word.NO, said, details=tuple(lines))


def _own_step(mapping: Mapping, told: Told, *, should: bool | None) -> Step:
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
        return Step("decision", Word.BROKEN, said, _MIGRATE, details=lines)
    word = Word.YES if let else Word.NO if should is False else Word.UNKNOWN
    return Step("decision", word, f"{said}.", details=lines)


def _guard_step(guard: Guard, grant: Grant, verbs: list[tuple[str, Told]]) -> Step:
    """Say what the user may do with rows of the resource in a guarded table."""
    lines = []
    for verb, told in verbs:
        broken = broken_step(guard.table, _SQL[verb], told)
        if broken is not None:
            return broken
        let, should = told.passes(_SQL[verb]), admits(guard.verbs[verb], grant)
        if let != should:
            return Step(
                "decision",
                Word.BROKEN,
                f"{guard.table}: its policies {'allow' if let else 'refuse'} to {_SQL[verb]}, "
                f"though what is declared {'allows' if should else 'refuses'} it.",
                _MIGRATE,
                details=policy_lines(told),
            )
        lines.append(f"{_SQL[verb]}: {'allowed' if let else 'refused'}, {_by(told, _SQL[verb])}")
    said = f"{guard.table}: as declared, for rows of this resource that are the user's own."
    return Step("decision", Word.YES if grant.levels else Word.NO, said, details=tuple(lines))


def admits(allow: Allow, grant: Grant) -> bool:
    """Return whether one of the rules admits somebody with these levels to a row of their own."""
    needed = [rule.role if isinstance(rule, Own) else rule for rule in allow.rules]
    return any(role is None or role in grant.levels for role in needed)


def broken_step(table: str, verb: str, told: Told) -> Step | None:
    """Return what keeps policies from deciding at all, or None."""
    if not told.exists:
        said, remedy = f"{table}: there is no such table.", "Create it, or drop its declaration."
    elif not told.active:
        said = (
            f"{table}: row-level security is off, so everybody with a grant may {verb} every row."
        )
        remedy = _MIGRATE
    elif not told.privilege:
        said = f"{table}: {verb} is not granted to authenticated, whatever its policies say."
        remedy = _MIGRATE
    elif not any(policy.verb in {verb, "all"} for policy in told.policies):
        said = f"{table}: no policy for {verb} is there, so nobody may."
        remedy = _MIGRATE
    else:
        return None
    return Step("decision", Word.BROKEN, said, remedy, details=policy_lines(told))


def policy_lines(told: Told) -> tuple[str, ...]:
    """Return a line for each policy."""
    states = {True: "holds", False: "does not hold", None: "failed"}
    return tuple(
        f"policy {policy.name} ({'permissive' if policy.permissive else 'restrictive'}, for "
        f"{policy.verb}) {states[policy.holds]}"
        for policy in told.policies
    )


def _by(told: Told, verb: str) -> str:
    """Return by which policies."""
    let = told.passes(verb)
    names = [p.name for p in told.policies if bool(p.holds) == let and p.permissive == let]
    names = names or [p.name for p in told.policies if not p.holds]
    return f"by {', '.join(names)}"


def _failed(told: Told) -> str:
    return f": it failed [{told.state}]" if told.state is not None else ""
