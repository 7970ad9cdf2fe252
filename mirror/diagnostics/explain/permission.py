"""Run: the pages that can be asked for: a resource, and a key."""

from collections.abc import Sequence
from dataclasses import replace

from mirror.access.questions import AccessQuestion, Given, Grant, Values, access_questions
from mirror.diagnostics.explain.decision import ask_question, ask_row
from mirror.diagnostics.explain.explanation import Explanation, Step, StepStatus
from mirror.diagnostics.explain.found_paths import (
    FoundPath,
    PrimaryRows,
    TargetRows,
    combined_grant,
    find_paths,
)
from mirror.diagnostics.explain.key_state import KeyState, read_key_state
from mirror.diagnostics.explain.steps import (
    CHANGE,
    absence_reason,
    events_step,
    ledger_step,
    primary_step,
    target_step,
    user_step,
)
from mirror.errors import UsageError
from mirror.model.keys import Key, KeyColumn
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.sync.drain import Drain


def question_about(registry: Registry, noun: str) -> AccessQuestion:
    """Return what decides about resources that are called so.

    Raises:
        UsageError: nothing does; names what is decided about.
    """
    known = access_questions(registry)
    if noun not in known:
        raise UsageError(
            f"registry {registry.name!r} decides about no {noun!r}, only about "
            f"{', '.join(sorted(known)) or 'nothing'}."
        )
    return known[noun]


def explain_resource(
    drain: Drain, question: AccessQuestion, user: str, resource: str, *, show_values: bool = False
) -> Explanation:
    """Follow what a user may do with a resource.

    Raises:
        InvalidKey: the user or the resource is no id of its kind.
        MirrorError: a side does not answer, or what is connected may not act as a user.
    """
    registry = drain.registry
    user, resource = canonical(registry, question, user, resource)
    with drain.source.snapshot() as snapshot:
        there = find_paths(
            registry, question, PrimaryRows(registry, snapshot.with_expired()), user, resource
        )
    here = find_paths(registry, question, TargetRows(drain.target), user, resource)
    wanted, held = combined_grant(there), combined_grant(here)
    # The way by which it is granted; else the one that gets farthest.
    chosen = here[0] if held.levels and not wanted.levels else there[0]

    facts = [read_key_state(drain, mapping, key, user) for mapping, key in chosen.keys]
    allowed, decided = ask_question(drain, question, user, resource, held, chosen.keys)
    return Explanation(
        question=f"Does {user} have access to {question.noun} {resource}?",
        primary_grants=bool(wanted.levels),
        allowed=allowed,
        steps=(
            _user(drain, chosen, facts, user),
            *_chain(drain, question, chosen, facts, there, show_values=show_values),
            *decided,
        ),
    )


def explain_key(
    drain: Drain, mapping: Mapping, key: Key, user: str, *, show_values: bool = False
) -> Explanation:
    """Follow one mirrored row, and whether a user may read it.

    Where that row decides what this user may do with a resource, that is followed.

    Raises:
        InvalidKey: the user is no id of Auth's kind.
        MirrorError: a side does not answer, or what is connected may not act as a user.
    """
    named = dict(zip(mapping.key, key, strict=True))
    for question in access_questions(drain.registry).values():
        for way in question.ways:
            by = {value: name for name, value in way.rows[0].by.items()}
            if way.rows[0].mapping == mapping.name and set(by.values()) == set(named):
                given = {place: named.get(by.get(place, "")) for place in Given}
                resource = given[Given.RESOURCE]
                if len(way.rows) == 1 and given[Given.USER] == user and resource is not None:
                    return explain_resource(
                        drain, question, user, resource, show_values=show_values
                    )
    facts = read_key_state(drain, mapping, key, user)
    step, allowed = ask_row(drain, mapping, key, user)
    return Explanation(
        question=f"May {user} read {facts.name}?",
        primary_grants=facts.wanted is not None,
        allowed=allowed,
        steps=(*_rows(drain, [facts], [None], show_values=show_values), step),
    )


def canonical(
    registry: Registry, question: AccessQuestion, user: str, resource: str
) -> tuple[str, str]:
    """Return both as the database prints them.

    Raises:
        InvalidKey: one is no id of its kind.
    """
    texts = {Given.USER: user, Given.RESOURCE: resource}
    for way in question.ways:
        for look in way.rows:
            mapping = registry[look.mapping]
            types = {column.name: column.type for column in mapping.columns}
            for name, value in look.by.items():
                if isinstance(value, Given):
                    column = KeyColumn(name, types[name])
                    texts[value] = column.canonical(texts[value], owner=mapping.name)
    return texts[Given.USER], texts[Given.RESOURCE]


def _user(drain: Drain, chosen: FoundPath, facts: Sequence[KeyState], user: str) -> Step:
    """Return the step about the user, from the row by which the way knows the user."""
    trace = facts[0].trace if facts else drain.target.trace(user, [])
    for one, look in zip(facts, chosen.way.rows, strict=False):
        for column, value in look.by.items():
            if value is Given.USER:
                database = drain.source.database
                return user_step(trace, user, one, column, drain.registry, database)
    return user_step(trace, user, None, "", drain.registry, drain.source.database)


def _chain(
    drain: Drain,
    question: AccessQuestion,
    chosen: FoundPath,
    facts: Sequence[KeyState],
    there: Sequence[FoundPath],
    *,
    show_values: bool,
) -> list[Step]:
    """Return the steps from the primary's rows to the target's."""

    def grant(place: int, row: Values | None) -> Grant:
        if row is None:
            return Grant(reason="there is no row")
        return question.grant(chosen.way, place, facts[place].mapping, row)

    granted = [
        (grant(place, one.wanted), grant(place, one.held)) for place, one in enumerate(facts)
    ]
    steps = _rows(drain, facts, granted, show_values=show_values)
    if chosen.missing is not None and len(facts) == len(chosen.links):
        said = absence_reason(*chosen.missing, drain.source.database)
        steps.append(Step("primary", StepStatus.NO, said, CHANGE))
    elif not chosen.grant.levels and all(step.status is not StepStatus.NO for step in steps):
        # A row that cannot be looked for at all.
        steps.append(Step("primary", StepStatus.NO, f"{chosen.grant.reason}.", CHANGE))
    if not any(chain.grant.levels for chain in there):
        others = tuple(
            f"nor by {' and '.join(look.mapping for look in chain.way.rows)}: {chain.grant.reason}"
            for chain in there
            if chain.way != chosen.way
        )
        ends = next((step for step in steps if step.status is StepStatus.NO), steps[0])
        place = steps.index(ends)
        steps[place] = replace(ends, details=(*ends.details, *others))
    return steps


def _rows(
    drain: Drain,
    facts: Sequence[KeyState],
    grants: Sequence[tuple[Grant, Grant] | None],
    *,
    show_values: bool,
) -> list[Step]:
    """Return the steps of each row: first what the primary says of all of them, and so on."""
    primary, events, ledger, target = [], [], [], []
    for one, pair in zip(facts, grants, strict=True):
        wanted, held = pair or (None, None)
        first = primary_step(one, wanted, drain.registry, drain.source.database)
        last = target_step(one, held)
        if show_values:
            first = replace(first, values=dict(one.wanted or {}))
            last = replace(last, values=dict(one.held or {}))
        primary.append(first)
        events.append(events_step(one))
        ledger.append(ledger_step(one))
        target.append(last)
    stages = (primary, events, ledger, target)
    if len(facts) == 1:
        return [steps[0] for steps in stages]
    return [
        replace(step, says=f"{one.mapping.name}: {step.says}")
        for steps in stages
        for one, step in zip(facts, steps, strict=True)
    ]
