"""Sample: finds out whether a few keys, given or drawn at random, have drifted."""

import random
from collections.abc import Iterable
from uuid import UUID

from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.reconcile.clauses import lowest_key
from mirror.reconcile.judge import Judge, Verdict
from mirror.reconcile.primary_reader import PrimaryReader
from mirror.reconcile.spool import batched
from mirror.sync.drain import Drain
from mirror.sync.sync_pass import PendingKeys
from mirror.sync.targets.reading import Hashing, KeyRange

_BATCH = 200
_FEW = 1000
_OUTSIDE = 0.1
"""The share of drawn numbers outside of the primary's range, where only the target has keys."""
_BITS = {"smallint": 16, "integer": 32, "bigint": 64}


def sync(drain: Drain, mapping: Mapping, keys: Iterable[Key]) -> Verdict:
    """Bring the given keys up to date now; return how they differed before.

    Parents whose absence made a row drift are brought up to date, too.

    Raises:
        Transient: a database does not answer, or other workers were faster every time.
        Permanent: a database refuses the rows, runs into a limit or is not migrated, or nothing may
            be written until a person acts.
    """
    given = list(keys)
    verdict = Judge(drain.registry, drain.source, drain.target).judge(mapping, given)
    pending = PendingKeys(keys={mapping.name: set(given)})
    for drift in verdict.drifts:
        for name, key in drift.parents:
            pending.keys.setdefault(name, set()).add(key)
    drain.sync_keys(pending)
    return verdict


def draw_keys(drain: Drain, mapping: Mapping, count: int, rng: random.Random) -> list[Key]:
    """Return about `count` keys per key column, drawn at random from both sides, in key order.

    If both sides have fewer keys than `count` and than 1,000, all of them are returned. If the
    target has more, but the primary has no row, none is. Otherwise, random keys are made up, and
    the existing key that follows each of them on either side is drawn, which reads few rows. A key
    after a gap is drawn more often.

    If the key has several columns, there is a round for each of them. The first round makes up all
    columns; each later one takes one more of the first columns from a key that was drawn before.
    With the first round alone, nearly every drawn key would be the first one of some value of the
    first column.
    """
    primary = PrimaryReader(drain.registry, drain.source)
    few = min(count, _FEW)
    start = KeyRange(lowest_key(mapping))
    primary_keys = primary.first_keys(mapping, few)
    (page,) = drain.target.listing(mapping, Hashing(0), [start], limit=few)
    if len(primary_keys) < few and page.range.end is None:
        return sorted(primary_keys.union(page.hashes))
    lowest, highest = primary.first_and_last_key(mapping)
    if not lowest:
        return []
    drawn: set[Key] = set()
    for fixed in range(len(mapping.key)):
        known = sorted(drawn)
        prefixes = [rng.choice(known)[:fixed] if known else () for _ in range(count)]
        starts = [
            prefix + _random_position(mapping, lowest, highest, rng)[len(prefix) :]
            for prefix in prefixes
        ]
        for some in batched(starts, _BATCH):
            ranges = [KeyRange(start) for start in some]
            drawn |= primary.first_key_in_each(mapping, ranges)
            for page in drain.target.listing(mapping, Hashing(0), ranges, limit=1):
                drawn.update(page.hashes)
    return sorted(drawn)


def sample(
    drain: Drain, mapping: Mapping, count: int, rng: random.Random | None = None
) -> tuple[int, Verdict]:
    """Draw about `count` keys per key column at random from both sides, and judge them.

    Returns the number of drawn keys, and the verdict on them: those that have drifted, and those
    that differ because a change is under way. `draw_keys` says when fewer are drawn, or none.
    Writes nothing.
    """
    total = Verdict()
    judge = Judge(drain.registry, drain.source, drain.target)
    keys = draw_keys(drain, mapping, count, rng or random.Random())  # noqa: S311 - no secret
    for some in batched(keys, _BATCH):
        verdict = judge.judge(mapping, some)
        total.drifts += verdict.drifts
        total.in_flight += verdict.in_flight
    return len(keys), total


def _random_position(mapping: Mapping, lowest: Key, highest: Key, rng: random.Random) -> Key:
    """Return a random key, which need not exist.

    Most integers in it lie between the primary's `lowest` and `highest` key, the others outside.
    """
    chosen = []
    for column, low, high in zip(mapping.key_columns, lowest, highest, strict=True):
        if column.type == "uuid":
            chosen.append(str(UUID(int=rng.getrandbits(128))))
        elif column.type in _BITS:
            first, last = sorted((int(low), int(high)))
            bound = 1 << (_BITS[column.type] - 1)
            outside = rng.choice((-bound, min(last + 1, bound - 1)))
            inside = rng.randint(first, last)
            chosen.append(str(outside if rng.random() < _OUTSIDE else inside))
        else:
            chosen.append("".join(rng.choices("0123456789abcdefghijklmnopqrstuvwxyz", k=6)))
    return tuple(chosen)
