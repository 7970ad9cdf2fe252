"""Sample: finds out whether a few keys, given or drawn at random, have drifted."""

import random
from collections.abc import Iterable
from dataclasses import replace

from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.reconcile.buckets import read_members
from mirror.reconcile.clauses import lowest_key
from mirror.reconcile.judge import Judge, Verdict
from mirror.reconcile.primary_reader import PrimaryReader
from mirror.reconcile.run import Progress
from mirror.reconcile.spool import batched
from mirror.reconcile.survey import CALL_ROWS, bitmap
from mirror.sync.drain import Drain
from mirror.sync.sync_pass import PendingKeys
from mirror.sync.targets.reading import Hashing, KeyRange, SurveyRequest

_BATCH = 200
_FEW = 1000
# A bucket has the keys whose hashes have the same lowest bits. So many bits, attempt by attempt;
# with none, one bucket has all keys.
_BUCKET_BITS = (17, 14, 11, 8, 5, 0)


def sync(drain: Drain, mapping: Mapping, keys: Iterable[Key]) -> Verdict:
    """Bring the given keys up to date now; return how they differed before.

    Parents whose absence made a row drift are brought up to date, too. Work that is too much for
    one call, such as the children of a large parent that is gone, is left to workers; then
    `drain.announced` is True.

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
    rest = drain.sync_keys(pending)
    drain.queue.announce(rest)
    drain.announced = drain.announced or bool(rest)
    return verdict


def draw_keys(drain: Drain, mapping: Mapping, count: int, rng: random.Random) -> list[Key]:
    """Return about `count` keys of rows that exist on either side, in key order.

    Every row has the same chance, however close together the keys lie: the keys are those whose
    hashes fall into buckets drawn at random. Both sides read all rows for it. If both sides have
    fewer keys than `count` and than 1,000, all of them are returned. The result is empty only if
    both sides are.

    Raises:
        Unreadable, TooSlow: as `PrimaryReader.read`.
    """
    primary = PrimaryReader(drain.registry, drain.source)
    few = min(count, _FEW)
    primary_keys = primary.first_keys(mapping, few)
    (page,) = drain.target.listing(mapping, Hashing(0), [KeyRange(lowest_key(mapping))], limit=few)
    if len(primary_keys) < few and page.range.end is None:
        return sorted(primary_keys.union(page.hashes))
    hashing = Hashing(rng.getrandbits(62))
    # From small buckets to larger ones: the number of rows is not known, and may be huge.
    for bits in _BUCKET_BITS:
        wanted = rng.sample(range(1 << bits), min(count, 1 << bits))
        request = SurveyRequest(bits, bitmap(wanted, bits) if bits else None)
        drawn = set(read_members(primary, mapping, hashing, request))
        drawn |= _target_keys(drain, mapping, hashing, request, primary.estimate(mapping))
        if len(drawn) >= count / 2:
            break
    return sorted(rng.sample(sorted(drawn), min(len(drawn), 2 * count)))


def _target_keys(
    drain: Drain, mapping: Mapping, hashing: Hashing, request: SurveyRequest, rows: int
) -> set[Key]:
    """Return the keys that the target has in some buckets; it has about `rows` rows."""
    parts = max(1, round(rows / CALL_ROWS))
    requests = [replace(request, part=part, parts=parts) for part in range(parts)]
    return {key for each in requests for key in drain.target.members(mapping, hashing, each)}


def sample(
    drain: Drain,
    mapping: Mapping,
    count: int,
    rng: random.Random | None = None,
    progress: Progress = lambda *_: None,
) -> tuple[int, Verdict]:
    """Draw about `count` keys at random from both sides, and judge them.

    Returns the number of drawn keys, and the verdict on them. Writes nothing.
    """
    total = Verdict()
    judge = Judge(drain.registry, drain.source, drain.target)
    keys = draw_keys(drain, mapping, count, rng or random.Random())  # noqa: S311 - no secret
    for some in batched(keys, _BATCH):
        verdict = judge.judge(mapping, some)
        total.drifts += verdict.drifts
        total.in_flight += verdict.in_flight
        total.withheld += verdict.withheld
        progress("compare", mapping.name, len(some), len(keys))
    return len(keys), total
