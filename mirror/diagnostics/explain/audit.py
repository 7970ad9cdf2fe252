"""Audit: whether row-level security lets people do what the primary says, drawn at random.

People who have something, who lost it lately, and strangers, each asked about the resources of
others too. What the primary says follows from its rows, by the registry's `access`; what the target
lets through is asked as each user. What differs is looked at again, so that a change on its way
between the two is not taken for a hole.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Mapping as MappingABC
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from mirror.access import Guard
from mirror.access.questions import AccessQuestion, Given, Grant
from mirror.diagnostics.explain.chains import (
    Chain,
    InPrimary,
    InTarget,
    all_of,
    chains,
    key_of,
    resolve,
)
from mirror.diagnostics.explain.facts import values
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.reconcile import draw_keys
from mirror.reconcile.drift import Direction
from mirror.reconcile.judge import Judge
from mirror.sync.drain import Drain
from mirror.sync.targets.asking import Ask, AskHelper, AskResult, AskRows

_OTHERS: Final = 5
"""How many resources of somebody else each user is asked about."""
_BATCH: Final = 100
_LOOKS: Final = 2

Pair = tuple[str, str]
"""A user and a resource."""


@dataclass(frozen=True, order=True)
class Mismatch:
    """Somebody who is let in, or kept out, against what the primary says."""

    direction: Direction
    user: str
    noun: str
    resource: str
    by: str
    """What lets in or keeps out: a helper, or the policies of a table."""


@dataclass
class Audit:
    """What an audit found."""

    pairs: int = 0
    """How many pairs of user and resource were compared."""
    granted: int = 0
    """Of those, how many the primary grants something."""
    under_way: int = 0
    """How many differed, and had a change on its way."""
    mismatches: list[Mismatch] = field(default_factory=list)
    """Over-grants first."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Check:
    """One thing to ask, and the level that it takes to be let through."""

    ask: Ask
    level: str
    by: str


def audit(drain: Drain, question: AccessQuestion, count: int, chance: random.Random) -> Audit:
    """Compare about `count` pairs that a question is or was about, and others at random.

    Raises:
        MirrorError: a side does not answer, or what is connected may not act as a user.
    """
    checks = list(_checks(drain.registry, question))
    pairs = _draw(drain, question, count, chance)
    found = Audit(pairs=len(pairs))
    suspects = pairs
    for look in range(_LOOKS):
        wrong: dict[Pair, list[Mismatch]] = {}
        for place in range(0, len(suspects), _BATCH):
            wanted = _wanted(drain, question, suspects[place : place + _BATCH])
            if look == 0:
                found.granted += sum(bool(grant.levels) for grant in wanted.values())
            wrong |= _compare(drain, question, checks, wanted)
        suspects = _settled(drain, question, list(wrong))
        found.under_way = len(wrong) - len(suspects)
        # By name, over-grants come before under-grants.
        found.mismatches = sorted(one for pair in suspects for one in wrong[pair])
        if not suspects:
            break
    return found


def _draw(drain: Drain, question: AccessQuestion, count: int, chance: random.Random) -> list[Pair]:
    """Return pairs that rows on either side name, or named before they were deleted; and others."""
    pairs: set[Pair] = set()
    users: set[str] = set()
    resources: set[str] = set()
    for way in question.ways:
        for look in way.rows:
            places = {value: name for name, value in look.by.items() if isinstance(value, Given)}
            if not places:
                continue
            for row in _rows(drain, drain.registry[look.mapping], count, chance):
                user, resource = (row.get(places.get(place, "")) for place in Given)
                users.update(filter(None, [user]))
                resources.update(filter(None, [resource]))
                if user and resource:
                    pairs.add((user, resource))
    several = sorted(resources)
    for user in sorted(users):
        few = chance.sample(several, min(_OTHERS, len(several)))
        pairs |= {(user, resource) for resource in few}
    return sorted(pairs)


def _rows(
    drain: Drain, mapping: Mapping, count: int, chance: random.Random
) -> Iterator[MappingABC[str, str | None]]:
    """Yield rows of both sides, and what the keys tell of those that were deleted last."""
    keys = draw_keys(drain, mapping, count, chance)
    for place in range(0, len(keys), _BATCH):
        batch = keys[place : place + _BATCH]
        with drain.source.snapshot() as snapshot:
            rows = list(snapshot.rows(mapping, batch).values())
        rows += [one.row for one in drain.target.rows(mapping, batch).values() if one.row]
        yield from filter(None, (values(mapping, row) for row in rows))
    for key in drain.target.keys(mapping, None, most=max(1, count // 4)):
        yield dict(zip(mapping.key, key, strict=True))


def _checks(registry: Registry, question: AccessQuestion) -> Iterator[_Check]:
    """Yield what to ask of whom: helpers, and tables where only a level decides who may read."""
    for helper in question.helpers:
        ask: Ask = AskHelper(helper.function, helper.arguments, helper.each)
        yield _Check(ask, helper.level, helper.call("…"))
    for mapping in registry:
        reads = question.reads(mapping)
        if reads is not None:
            ask = AskRows(mapping.schema, mapping.table, reads[0])
            yield _Check(ask, reads[1], f"reading {mapping.table}")
    for guard in registry.guards:
        if not isinstance(guard, Guard) or guard.via != question.via or guard.expires:
            continue
        rules: Sequence[object] = guard.verbs["read"].rules if "read" in guard.verbs else ()
        levels = [rule for rule in rules if isinstance(rule, str)]
        if levels and len(levels) == len(rules):
            ask = AskRows(*guard.relation, guard.on)
            yield _Check(ask, min(levels, key=question.levels.index), f"reading {guard.table}")


def _wanted(drain: Drain, question: AccessQuestion, pairs: Sequence[Pair]) -> dict[Pair, Grant]:
    """Return what the primary grants each pair."""
    with _primary(drain, question, pairs) as side:
        return {pair: all_of(chains(drain.registry, question, side, *pair)) for pair in pairs}


@contextmanager
def _primary(drain: Drain, question: AccessQuestion, pairs: Sequence[Pair]) -> Iterator[InPrimary]:
    """Yield one moment of the primary, with the rows read at once that most pairs begin with."""
    with drain.source.snapshot() as snapshot:
        side = InPrimary(drain.registry, snapshot)
        for way in question.ways:
            given = [{Given.USER: user, Given.RESOURCE: resource} for user, resource in pairs]
            several = (resolve(way.rows[0], one, ()) for one in given)
            mapping = drain.registry[way.rows[0].mapping]
            side.fetch(mapping, [one for one in several if one is not None])
        yield side


def _compare(
    drain: Drain, question: AccessQuestion, checks: Sequence[_Check], wanted: dict[Pair, Grant]
) -> dict[Pair, list[Mismatch]]:
    """Ask as each user, and return what is not as wanted."""
    by_user: dict[str, list[str]] = defaultdict(list)
    for user, resource in wanted:
        by_user[user].append(resource)
    answers = drain.target.ask([check.ask for check in checks], list(by_user.items()))
    wrong: dict[Pair, list[Mismatch]] = {}
    for (user, resources), told in zip(by_user.items(), answers, strict=True):
        for resource in resources:
            differing = _differing(resource, wanted[user, resource], checks, told)
            if differing:
                wrong[user, resource] = [
                    Mismatch(direction, user, question.noun, resource, by)
                    for direction, by in differing
                ]
    return wrong


def _differing(
    resource: str, grant: Grant, checks: Sequence[_Check], told: Iterable[AskResult]
) -> list[tuple[Direction, str]]:
    found = []
    for check, answer in zip(checks, told, strict=True):
        should, let = check.level in grant.levels, resource in answer.values
        # Where there is no row, nothing could be seen.
        if isinstance(check.ask, AskRows) and resource not in answer.there:
            continue
        by = check.by + (f" [{answer.state}]" if answer.state else "")
        if let != should:
            found.append((Direction.OVER if let else Direction.UNDER, by))
    return found


def _settled(drain: Drain, question: AccessQuestion, pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs for which no change is on its way, of any row that grants or granted."""
    judge = Judge(drain.registry, drain.source, drain.target)
    about: dict[str, dict[Key, set[Pair]]] = defaultdict(lambda: defaultdict(set))
    for pair, chain in _chains(drain, question, pairs):
        for mapping, key in chain.keys:
            about[mapping.name][key].add(pair)
    moving: set[Pair] = set()
    for name, by_key in about.items():
        keys = sorted(by_key)
        for place in range(0, len(keys), _BATCH):
            verdict = judge.judge(drain.registry[name], keys[place : place + _BATCH])
            moving.update(pair for key in verdict.in_flight for pair in by_key[key])
    return [pair for pair in pairs if pair not in moving]


def _chains(
    drain: Drain, question: AccessQuestion, pairs: Sequence[Pair]
) -> Iterator[tuple[Pair, Chain]]:
    """Yield what leads from user to resource in the primary, and in the target if it may differ."""
    there = InTarget(drain.target)
    for place in range(0, len(pairs), _BATCH):
        batch = pairs[place : place + _BATCH]
        with _primary(drain, question, batch) as here:
            found = {pair: chains(drain.registry, question, here, *pair) for pair in batch}
        for pair, known in found.items():
            unknown = (chain.missing and key_of(*chain.missing) is None for chain in known)
            more = chains(drain.registry, question, there, *pair) if any(unknown) else []
            yield from ((pair, chain) for chain in [*known, *more])
