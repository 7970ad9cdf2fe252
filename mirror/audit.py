"""Audit: whether row-level security lets people do what the primary says, drawn at random.

Members, people who were removed lately, and strangers, each asked about the resources of others
too. What the primary says follows from its rows, by the registry's `access`; what the target lets
through is asked as each user. What differs is looked at again, so that a change on its way between
the two is not taken for a hole.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from mirror.access import Guard, Own
from mirror.drain import Drain
from mirror.errors import MappingError
from mirror.grants import Deciding, Grant
from mirror.keys import Key
from mirror.mapping import Mapping
from mirror.reconcile import draw
from mirror.reconcile.drift import Direction
from mirror.reconcile.judge import Judge, missing_ancestors
from mirror.registry import Registry
from mirror.targets.asking import Ask, AskHelper, AskRows, Told

_OTHERS: Final = 5
"""How many resources of somebody else each user is asked about."""
_BATCH: Final = 100
_LOOKS: Final = 3

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


def audit(drain: Drain, access: Deciding, count: int, chance: random.Random) -> Audit:
    """Compare about `count` pairs that are or were of a mapping, and others at random.

    Raises:
        MappingError: rows cannot be told by user and resource.
        MirrorError: a side does not answer, or what is connected may not act as a user.
    """
    mapping = drain.registry[access.mapping]
    if set(mapping.key) != set(access.seat):
        raise MappingError(
            f"mapping {mapping.name!r}: its key is not ({', '.join(access.seat)}), so that people "
            f"and what they are members of cannot be drawn from it."
        )
    checks = list(_checks(drain.registry, access))
    pairs = _draw(drain, access, mapping, count, chance)
    found = Audit(pairs=len(pairs))
    suspects = list(pairs)
    for look in range(_LOOKS):
        wrong: dict[Pair, list[Mismatch]] = {}
        for place in range(0, len(suspects), _BATCH):
            batch = suspects[place : place + _BATCH]
            wanted = _wanted(drain, access, mapping, batch)
            if look == 0:
                found.granted += sum(bool(grant.levels) for grant in wanted.values())
            wrong |= _compare(drain, access, checks, wanted)
        settled = _settled(drain, mapping, access, list(wrong))
        found.under_way = len(wrong) - len(settled)
        suspects = settled
        found.mismatches = sorted(one for pair in settled for one in wrong[pair])
        if not suspects:
            break
    # By their names, over-grants come before under-grants.
    return found


def _draw(
    drain: Drain, access: Deciding, mapping: Mapping, count: int, chance: random.Random
) -> list[Pair]:
    """Return pairs: those of keys on either side, some that were removed, and others."""
    places = [mapping.key.index(name) for name in access.seat]
    keys = [
        *draw(drain, mapping, count, chance),
        *drain.target.removed(mapping, max(1, count // 4)),
    ]
    known = [(key[places[0]], key[places[1]]) for key in keys]
    resources = sorted({resource for _, resource in known})
    pairs = set(known)
    for user in sorted({user for user, _ in known}):
        few = chance.sample(resources, min(_OTHERS, len(resources)))
        pairs |= {(user, resource) for resource in few}
    return sorted(pairs)


def _checks(registry: Registry, access: Deciding) -> Iterator[_Check]:
    """Yield what to ask of whom: helpers, and tables where only a level decides who may read."""
    for helper in access.helpers:
        call = f"mirror.{helper.function}({', '.join(map(repr, helper.arguments))})"
        yield _Check(AskHelper(helper.function, helper.arguments, helper.each), helper.level, call)
    for mapping in registry:
        reads = access.reads(mapping)
        if reads is not None:
            ask = AskRows(mapping.schema, mapping.table, reads[0])
            yield _Check(ask, reads[1], f"reading {mapping.table}")
    order = [helper.level for helper in access.helpers]
    for guard in registry.guards:
        if not isinstance(guard, Guard) or guard.via != access.mapping or guard.expires:
            continue
        rules = guard.verbs["read"].rules if "read" in guard.verbs else ()
        levels = [rule for rule in rules if not isinstance(rule, Own)]
        if levels and len(levels) == len(rules):
            ask = AskRows(*guard.relation, guard.on)
            yield _Check(ask, min(levels, key=order.index), f"reading {guard.table}")


def _wanted(
    drain: Drain, access: Deciding, mapping: Mapping, pairs: Sequence[Pair]
) -> dict[Pair, Grant]:
    """Return what the primary grants each pair."""
    keys = {pair: _key(mapping, access, pair) for pair in pairs}
    names = [column.name for column in mapping.columns]
    with drain.source.snapshot() as snapshot:
        rows = snapshot.rows(mapping, list(keys.values()))
        lacking = missing_ancestors(drain.registry, snapshot, mapping, rows, (), defaultdict(set))
    return {
        pair: access.grant(mapping, dict(zip(names, rows[key], strict=False)))
        if key in rows and key not in lacking
        else Grant(reason="there is no row")
        for pair, key in keys.items()
    }


def _compare(
    drain: Drain, access: Deciding, checks: Sequence[_Check], wanted: dict[Pair, Grant]
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
                    Mismatch(direction, user, access.noun, resource, by)
                    for direction, by in differing
                ]
    return wrong


def _differing(
    resource: str, grant: Grant, checks: Sequence[_Check], told: Iterable[Told]
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


def _settled(drain: Drain, mapping: Mapping, access: Deciding, pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs about which nothing is under way."""
    judge = Judge(drain.registry, drain.source, drain.target)
    keys = {_key(mapping, access, pair): pair for pair in pairs}
    moving: set[Key] = set()
    names = list(keys)
    for place in range(0, len(names), _BATCH):
        moving.update(judge.judge(mapping, names[place : place + _BATCH]).in_flight)
    return [pair for key, pair in keys.items() if key not in moving]


def _key(mapping: Mapping, access: Deciding, pair: Pair) -> Key:
    named = dict(zip(access.seat, pair, strict=True))
    return tuple(named[name] for name in mapping.key)
