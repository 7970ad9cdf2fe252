"""Freshness: the step that says whether policies refuse because mirrored rows are too old."""

from collections.abc import Collection
from datetime import datetime, timedelta
from math import inf

from mirror.access import Guard
from mirror.access.questions import AccessQuestion
from mirror.access.rules import VERBS
from mirror.diagnostics.explain.explanation import Step, StepStatus
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.schema.freshness import readable_must_be_fresh
from mirror.sync.freshness import is_stale
from mirror.sync.targets.asking import Trace


def needed_for_question(
    registry: Registry, question: AccessQuestion, mappings: Collection[Mapping]
) -> set[str]:
    """Return the mappings that must be fresh for policies about resources of the question.

    They are those of the guards that refer to it, and those for reading the mirrored `mappings`.
    """
    needed = {name for one in mappings for name in readable_must_be_fresh(registry, one)}
    for guard in registry.guards:
        if isinstance(guard, Guard) and guard.via == question.via:
            needed.update(*(guard.must_be_fresh(registry, verb) for verb in guard.verbs))
    return needed


def needed_for_statement(registry: Registry, guard: Guard, statement: str) -> set[str]:
    """Return the mappings that must be fresh for a statement on a guarded table.

    An update or a delete also has to see the row.
    """
    statements = {statement} | ({"select"} if statement in {"update", "delete"} else set())
    verbs = [verb for verb in guard.verbs if VERBS[verb] in statements]
    return {name for verb in verbs for name in guard.must_be_fresh(registry, verb)}


def stale_mappings(registry: Registry, trace: Trace, names: Collection[str]) -> list[str]:
    """Return which of these mappings are older than the registry's bound, in its order."""
    ages = {name: (trace.clock - as_of).total_seconds() for name, as_of in trace.freshness.items()}
    return [
        mapping.name
        for mapping in registry
        if mapping.name in names and is_stale(ages.get(mapping.name), registry.max_staleness or 0.0)
    ]


def freshness_step(
    registry: Registry, trace: Trace, names: Collection[str], *, denied: bool
) -> Step | None:
    """Return the step about the age of the mappings that must be fresh; None: none must be.

    It is BROKEN if one is older than the registry's bound. `denied`: whether policies refuse the
    user then, as they should.
    """
    if not names or registry.max_staleness is None:
        return None
    bound = f"{registry.max_staleness:g} s"
    details = tuple(
        f"{mapping.name}: {_age(trace, mapping.name)}"
        for mapping in registry
        if mapping.name in names
    )
    stale = stale_mappings(registry, trace, names)
    if not stale:
        says = f"Every mapping that the policies read is younger than {bound}."
        return Step("freshness", StepStatus.YES, says, details=details)
    since = ""
    reports = [trace.freshness.get(name) for name in stale]
    if all(as_of is not None and as_of <= trace.clock for as_of in reports):
        ends = [as_of + timedelta(seconds=registry.max_staleness) for as_of in reports if as_of]
        since = f" since {_moment(trace, min(ends))}"
    names_text = f"{', '.join(stale)} {'is' if len(stale) == 1 else 'are'} stale"
    if denied:
        says = f"Denied{since} because {names_text}; the bound is {bound}."
        remedy = "Run workers with MIRROR_FRESH_SECONDS; `mirror status` shows what holds them up."
    else:
        says = f"{names_text}{since}, but a policy allows the user; the bound is {bound}."
        remedy = "Run `mirror migrate supabase --guards`, so that policies have the bound."
    return Step("freshness", StepStatus.BROKEN, says, remedy, details=details)


def _age(trace: Trace, name: str) -> str:
    as_of = trace.freshness.get(name)
    if as_of is None:
        return "no worker has ever reported how fresh it is"
    if is_stale((trace.clock - as_of).total_seconds(), inf):
        return f"reported for {_moment(trace, as_of)}, but the target's clock was set back"
    return f"every revocation recorded before {_moment(trace, as_of)} is in force"


def _moment(trace: Trace, moment: datetime) -> str:
    """Return a time in UTC, with its date unless it is today."""
    today = moment.date() == trace.clock.date()
    return f"{moment:%H:%M:%S} UTC" if today else f"{moment:%Y-%m-%d %H:%M:%S} UTC"
