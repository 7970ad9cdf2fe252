"""Sample: a few keys, named or drawn, judged like any suspect."""

import random
from collections.abc import Iterable
from uuid import UUID

from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.reconcile.clauses import lowest as lowest_key
from mirror.reconcile.judge import Judge, Verdict
from mirror.reconcile.primary import PrimaryReader
from mirror.sync.drain import Drain
from mirror.sync.sync_pass import PendingKeys
from mirror.sync.targets.reading import Hashing, KeyRange

_BATCH = 200
_FEW = 1000
_BEYOND = 0.1
"""How often a number is drawn that lies outside of the primary's: the target may have more."""
_BITS = {"smallint": 16, "integer": 32, "bigint": 64}


def sync(drain: Drain, mapping: Mapping, keys: Iterable[Key]) -> Verdict:
    """Bring named keys up to date now; return what had drifted.

    Raises:
        Transient: a database does not answer.
        Halted: nothing may be written until a person acts.
    """
    named = list(keys)
    verdict = Judge(drain.registry, drain.source, drain.target).judge(mapping, named)
    work = PendingKeys(keys={mapping.name: set(named)})
    for drift in verdict.drifts:
        for name, key in drift.parents:
            work.keys.setdefault(name, set()).add(key)
    drain.sync_keys(work)
    return verdict


def draw(drain: Drain, mapping: Mapping, count: int, chance: random.Random) -> list[Key]:
    """Return about `count` keys from either side, or as many for each key column, in order.

    All of them where they are few. Otherwise drawn by position in the key space, which reads no
    more than it needs; where keys lie unevenly, those after a gap come up more often. Of several
    columns, one after the other: else only the first key of each value of the first one would ever
    follow such a position.
    """
    primary = PrimaryReader(drain.registry, drain.source)
    few = min(count, _FEW)
    start = KeyRange(lowest_key(mapping))
    mine = primary.first(mapping, few)
    (theirs,) = drain.target.listing(mapping, Hashing(0), [start], limit=few)
    if len(mine) < few and theirs.range.end is None:
        return sorted(mine.union(theirs.hashes))
    lowest, highest = primary.ends(mapping)
    drawn: set[Key] = set()
    for fixed in range(len(mapping.key)):
        near = sorted(drawn)
        begun = [chance.choice(near)[:fixed] if near else () for _ in range(count if lowest else 0)]
        starts = [one + _between(mapping, lowest, highest, chance)[len(one) :] for one in begun]
        for place in range(0, len(starts), _BATCH):
            ranges = [KeyRange(start) for start in starts[place : place + _BATCH]]
            drawn |= primary.following(mapping, ranges)
            for page in drain.target.listing(mapping, Hashing(0), ranges, limit=1):
                drawn.update(page.hashes)
    return sorted(drawn)


def sample(
    drain: Drain, mapping: Mapping, count: int, chance: random.Random | None = None
) -> tuple[int, Verdict]:
    """Judge about `count` keys drawn at random from either side; return how many there were."""
    total = Verdict()
    judge = Judge(drain.registry, drain.source, drain.target)
    keys = draw(drain, mapping, count, chance or random.Random())  # noqa: S311 - no secret
    for place in range(0, len(keys), _BATCH):
        verdict = judge.judge(mapping, keys[place : place + _BATCH])
        total.drifts += verdict.drifts
        total.in_flight += verdict.in_flight
    return len(keys), total


def _between(mapping: Mapping, lowest: Key, highest: Key, chance: random.Random) -> Key:
    """Return a random position in the key space."""
    chosen = []
    for column, low, high in zip(mapping.key_columns, lowest, highest, strict=True):
        if column.type == "uuid":
            chosen.append(str(UUID(int=chance.getrandbits(128))))
        elif column.type in _BITS:
            first, last = sorted((int(low), int(high)))
            bound = 1 << (_BITS[column.type] - 1)
            beyond = chance.choice((-bound, min(last + 1, bound - 1)))
            within = chance.randint(first, last)
            chosen.append(str(beyond if chance.random() < _BEYOND else within))
        else:
            chosen.append("".join(chance.choices("0123456789abcdefghijklmnopqrstuvwxyz", k=6)))
    return tuple(chosen)
