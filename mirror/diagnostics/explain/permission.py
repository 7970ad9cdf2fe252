"""Permission: explains whether a user has access to a resource, or may read one mirrored row."""

from collections.abc import Iterable, Sequence
from collections.abc import Mapping as MappingABC
from dataclasses import replace

from mirror.access.questions import AccessQuestion, Given, HeldLevels, Values, access_questions
from mirror.diagnostics.explain.decision import ask_question, ask_row
from mirror.diagnostics.explain.explanation import Explanation, Step, StepStatus
from mirror.diagnostics.explain.found_paths import (
    FoundPath,
    PrimaryRowReader,
    TargetRowReader,
    combined_grant,
    find_paths,
)
from mirror.diagnostics.explain.freshness import (
    freshness_step,
    needed_for_question,
    stale_mappings,
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
    withheld_step,
)
from mirror.errors import UsageError
from mirror.model.keys import Key, KeyColumn
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.schema.freshness import readable_must_be_fresh
from mirror.sync.drain import Drain
from mirror.sync.targets.asking import Trace


def question_about(registry: Registry, noun: str) -> AccessQuestion:
    """Return the access question for resources of this kind.

    Raises:
        UsageError: there is none; the message lists the known kinds.
    """
    questions = access_questions(registry)
    if noun not in questions:
        raise UsageError(
            f"registry {registry.name!r} has no access declaration for {noun!r}, only for "
            f"{', '.join(sorted(questions)) or 'nothing'}."
        )
    return questions[noun]


def explain_resource(
    drain: Drain, question: AccessQuestion, user: str, resource: str, *, show_values: bool = False
) -> Explanation:
    """Explain whether a user has access to a resource.

    Raises:
        InvalidKey: the user or the resource is not a valid id of its type.
        MirrorError: a side does not answer, or the login may not act as a user.
    """
    registry = drain.registry
    user, resource = canonical_ids(registry, question, user, resource)
    with drain.source.snapshot() as snapshot:
        primary_reader = PrimaryRowReader(registry, snapshot, with_expired=True)
        primary_paths = find_paths(registry, question, primary_reader, user, resource)
    target_reader = TargetRowReader(drain.target)
    target_paths = find_paths(registry, question, target_reader, user, resource)
    primary_grant, target_grant = combined_grant(primary_paths), combined_grant(target_paths)
    # An over-grant is explained by the target's rows; everything else by the primary's.
    over_grant = target_grant.levels and not primary_grant.levels
    path = target_paths[0] if over_grant else primary_paths[0]

    states = [read_key_state(drain, mapping, key, user) for mapping, key in path.keys]
    trace = states[0].trace if states else drain.target.trace(user, [])
    needed = needed_for_question(registry, question, [mapping for mapping, _ in path.keys])
    stale = stale_mappings(registry, trace, needed)
    allowed, decisions = ask_question(
        drain, question, user, resource, target_grant, path.keys, stale
    )
    # The helpers do not ask how old their rows are; the policies that call them do.
    closed = bool(stale) and all(step.status is not StepStatus.BROKEN for step in decisions)
    fresh = freshness_step(registry, trace, needed, denied=closed)
    return Explanation(
        question=f"Does {user} have access to {question.noun} {resource}?",
        primary_grants=bool(primary_grant.levels),
        allowed=allowed and not closed,
        steps=(
            _user_step(drain, path, states, trace, user),
            *_path_steps(drain, question, path, states, primary_paths, show_values=show_values),
            *filter(None, [fresh]),
            *decisions,
        ),
    )


def explain_key(
    drain: Drain, mapping: Mapping, key: Key, user: str, *, show_values: bool = False
) -> Explanation:
    """Explain one mirrored row, and whether a user may read it.

    If the row alone decides about this user's access to a resource, explain that access instead.
    `user` is the text of a UUID, as the database prints it.

    Raises:
        MirrorError: a side does not answer, or the login may not act as a user.
    """
    values = dict(zip(mapping.key, key, strict=True))
    for question in access_questions(drain.registry).values():
        for path in question.paths:
            columns = {source: name for name, source in path.rows[0].by.items()}
            if path.rows[0].mapping == mapping.name and set(columns.values()) == set(values):
                given = {place: values.get(columns.get(place, "")) for place in Given}
                resource = given[Given.RESOURCE]
                if len(path.rows) == 1 and given[Given.USER] == user and resource is not None:
                    return explain_resource(
                        drain, question, user, resource, show_values=show_values
                    )
    state = read_key_state(drain, mapping, key, user)
    needed = readable_must_be_fresh(drain.registry, mapping)
    step, allowed = ask_row(drain, mapping, key, user)
    fresh = freshness_step(drain.registry, state.trace, needed, denied=not allowed)
    return Explanation(
        question=f"May {user} read {state.name}?",
        primary_grants=state.primary_values is not None,
        allowed=allowed,
        steps=(
            *_row_steps(drain, [state], [None], show_values=show_values),
            *filter(None, [fresh]),
            step,
        ),
    )


def canonical_ids(
    registry: Registry, question: AccessQuestion, user: str, resource: str
) -> tuple[str, str]:
    """Return the ids of user and resource as the database prints them.

    Raises:
        InvalidKey: one is not a valid id of its type.
    """
    ids = canonical_given(registry, [question], {Given.USER: user, Given.RESOURCE: resource})
    return ids[Given.USER], ids[Given.RESOURCE]


def canonical_given(
    registry: Registry, questions: Iterable[AccessQuestion], given: MappingABC[Given, str]
) -> dict[Given, str]:
    """Return the given ids as the database prints them.

    Raises:
        InvalidKey: one is not a valid id of its type.
    """
    ids = dict(given)
    for lookup in (row for question in questions for path in question.paths for row in path.rows):
        mapping = registry[lookup.mapping]
        for name, source in lookup.by.items():
            if isinstance(source, Given) and source in ids:
                column = KeyColumn(name, mapping.types[name])
                ids[source] = column.canonical(ids[source], owner=mapping.name)
    return ids


def _user_step(
    drain: Drain, path: FoundPath, states: Sequence[KeyState], trace: Trace, user: str
) -> Step:
    """Return the step about the user, from the first row that is found by the user's id."""
    database = drain.source.database
    for state, lookup in zip(states, path.path.rows, strict=False):
        for column, source in lookup.by.items():
            if source is Given.USER:
                return user_step(trace, user, state, column, drain.registry, database)
    return user_step(trace, user, None, "", drain.registry, database)


def _path_steps(
    drain: Drain,
    question: AccessQuestion,
    path: FoundPath,
    states: Sequence[KeyState],
    primary_paths: Sequence[FoundPath],
    *,
    show_values: bool,
) -> list[Step]:
    """Return the steps of all rows of a found path, from the primary to the target.

    `primary_paths` are all found paths in the primary. If none of them grants access, the first
    step with NO also says why the others do not.
    """

    def grant(position: int, values: Values | None) -> HeldLevels:
        if values is None:
            return HeldLevels(reason="there is no row")
        return question.grant(path.path, position, states[position].mapping, values)

    grants = [
        (grant(position, state.primary_values), grant(position, state.target_values))
        for position, state in enumerate(states)
    ]
    steps = _row_steps(drain, states, grants, show_values=show_values)
    unexplained = all(step.status is not StepStatus.NO for step in steps)
    if path.missing is not None and (unexplained or len(states) == len(path.rows)):
        says = absence_reason(*path.missing, drain.source.database)
        steps.append(Step("primary", StepStatus.NO, says, CHANGE))
    elif not path.grant.levels and unexplained:
        # A value to search by is NULL, so there is no key whose state could be read.
        steps.append(Step("primary", StepStatus.NO, f"{path.grant.reason}.", CHANGE))
    if not any(one.grant.levels for one in primary_paths):
        others = tuple(
            f"nor by {' and '.join(lookup.mapping for lookup in one.path.rows)}: "
            + (
                one.grant.reason or ""
                if one.missing is None
                else absence_reason(*one.missing, drain.source.database)
            )
            for one in primary_paths
            if one.path != path.path
        )
        stop = next((step for step in steps if step.status is StepStatus.NO), steps[0])
        steps[steps.index(stop)] = replace(stop, details=(*stop.details, *others))
    return steps


def _row_steps(
    drain: Drain,
    states: Sequence[KeyState],
    grants: Sequence[tuple[HeldLevels, HeldLevels] | None],
    *,
    show_values: bool,
) -> list[Step]:
    """Return the steps of all rows: `primary` of each row first, then `events`, and so on.

    `grants` has for each state the grant of its row in the primary and in the target; None: the
    explanation is not about a grant.
    """
    by_row = []
    for state, pair in zip(states, grants, strict=True):
        primary_grant, target_grant = pair or (None, None)
        first = primary_step(state, primary_grant, drain.registry, drain.source.database)
        last = target_step(state, target_grant)
        if show_values:
            first = replace(first, values=dict(state.primary_values or {}))
            last = replace(last, values=dict(state.target_values or {}))
        ledger = withheld_step(state) or ledger_step(state)
        by_row.append((first, events_step(state), ledger, last))
    if len(states) == 1:
        return list(by_row[0])
    return [
        replace(step, says=f"{state.mapping.name}: {step.says}")
        for steps in zip(*by_row, strict=True)
        for state, step in zip(states, steps, strict=True)
    ]
