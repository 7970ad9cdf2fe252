"""Audit: compares the access that the primary grants with the access that the target allows.

It draws pairs of a user and a resource at random: pairs that a row names, pairs that a recently
deleted row named, and users with resources of others. The primary's rows and the registry's
`access` decide which access each pair is granted; the target is asked as each user. Pairs that
differ are compared a second time, and pairs with a change under way are dropped, so that a change
that is just being mirrored is not reported.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Mapping as MappingABC
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from mirror.access.questions import AccessQuestion, Given, HeldLevels
from mirror.diagnostics.explain.audit_checks import (
    Check,
    StatementCheck,
    checks,
    statement_checks,
)
from mirror.diagnostics.explain.found_paths import (
    FoundPath,
    PrimaryRowReader,
    TargetRowReader,
    combined_grant,
    find_paths,
    key_from,
    lookup_filter,
)
from mirror.diagnostics.explain.key_state import values_by_column
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.reconcile import draw_keys
from mirror.reconcile.drift import Direction
from mirror.reconcile.judge import Judge
from mirror.sync.drain import Drain
from mirror.sync.targets.asking import AskResult, AskRows

_OTHER_RESOURCES: Final = 5
"""How many resources, drawn at random, each user is also asked about."""
_BATCH: Final = 100
_ATTEMPTS: Final = 2

Pair = tuple[str, str]
"""A user and a resource."""


@dataclass(frozen=True, order=True)
class Mismatch:
    """A user who is allowed or refused access, contrary to the primary."""

    direction: Direction
    user: str
    noun: str
    resource: str
    by: str
    """The helper, or the table whose policies, that allowed or refused it."""


@dataclass
class Audit:
    """The result of an audit."""

    pairs: int = 0
    """Number of pairs of user and resource that were compared."""
    granted: int = 0
    """Number of these pairs to which the primary grants some level of access."""
    under_way: int = 0
    """Number of pairs that differed while a change was under way."""
    mismatches: list[Mismatch] = field(default_factory=list)
    """Over-grants first."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def audit(drain: Drain, question: AccessQuestion, count: int, rng: random.Random) -> Audit:
    """Compare the access that the primary grants with the access that the target allows.

    For each kind of row that the question reads, pairs of about `count` rows are compared, and each
    of their users with a few resources drawn at random.

    Raises:
        MirrorError: a side does not answer, or the login may not act as a user.
    """
    asked = list(checks(drain.registry, question))
    statements = list(statement_checks(drain.registry, question))
    pairs = _draw(drain, question, count, rng)
    result = Audit(pairs=len(pairs))
    tried: set[Pair] = set()
    suspects = pairs
    for attempt in range(_ATTEMPTS):
        wrong: dict[Pair, list[Mismatch]] = {}
        for start in range(0, len(suspects), _BATCH):
            grants = _primary_grants(drain, question, suspects[start : start + _BATCH])
            if attempt == 0:
                result.granted += sum(bool(grant.levels) for grant in grants.values())
                tried |= _one_of_each_kind(grants)
            found = [
                *_compare(drain, question, asked, grants),
                *_compare_statements(
                    drain, question, statements, {p: grants[p] for p in grants if p in tried}
                ),
            ]
            for one in found:
                wrong.setdefault((one.user, one.resource), []).append(one)
        suspects = _without_changes(drain, question, list(wrong))
        result.under_way = len(wrong) - len(suspects)
        # "over-grant" sorts before "under-grant".
        result.mismatches = sorted(one for pair in suspects for one in wrong[pair])
        if not suspects:
            break
    return result


def _draw(drain: Drain, question: AccessQuestion, count: int, rng: random.Random) -> list[Pair]:
    """Return pairs of a user and a resource that rows of either side or deleted keys name.

    For each of these users, pairs with a few of these resources, drawn at random, are added.
    """
    pairs: set[Pair] = set()
    users: set[str] = set()
    resources: set[str] = set()
    for path in question.paths:
        for lookup in path.rows:
            columns = {
                source: name for name, source in lookup.by.items() if isinstance(source, Given)
            }
            if not columns:
                continue
            for row in _sample_rows(drain, drain.registry[lookup.mapping], count, rng):
                user, resource = (row.get(columns.get(place, "")) for place in Given)
                users.update(filter(None, [user]))
                resources.update(filter(None, [resource]))
                if user and resource:
                    pairs.add((user, resource))
    candidates = sorted(resources)
    for user in sorted(users):
        sample = rng.sample(candidates, min(_OTHER_RESOURCES, len(candidates)))
        pairs |= {(user, resource) for resource in sample}
    return sorted(pairs)


def _sample_rows(
    drain: Drain, mapping: Mapping, count: int, rng: random.Random
) -> Iterator[MappingABC[str, str | None]]:
    """Yield the values, by column, of rows drawn at random from both sides.

    Of the rows that were deleted last, the values of the key columns follow.
    """
    keys = draw_keys(drain, mapping, count, rng)
    for start in range(0, len(keys), _BATCH):
        batch = keys[start : start + _BATCH]
        with drain.source.snapshot() as snapshot:
            rows = list(snapshot.rows(mapping, batch).values())
        rows += [known.row for known in drain.target.rows(mapping, batch).values() if known.row]
        yield from (values_by_column(mapping, row) for row in rows)
    for key in drain.target.keys(mapping, None, limit=max(1, count // 4)):
        yield dict(zip(mapping.key, key, strict=True))


def _primary_grants(
    drain: Drain, question: AccessQuestion, pairs: Sequence[Pair]
) -> dict[Pair, HeldLevels]:
    """Return, for each pair, the levels of access that the primary's rows grant."""
    with _primary_reader(drain, question, pairs) as reader:
        return {
            pair: combined_grant(find_paths(drain.registry, question, reader, *pair))
            for pair in pairs
        }


@contextmanager
def _primary_reader(
    drain: Drain, question: AccessQuestion, pairs: Sequence[Pair]
) -> Iterator[PrimaryRowReader]:
    """Yield a reader of one snapshot of the primary.

    It has already read the rows with which the access paths of these pairs begin, as far as the
    pairs contain the rows' whole keys.
    """
    given = [{Given.USER: user, Given.RESOURCE: resource} for user, resource in pairs]
    with drain.source.snapshot() as snapshot:
        reader = PrimaryRowReader(drain.registry, snapshot)
        for path in question.paths:
            lookup = path.rows[0]
            filters = (lookup_filter(lookup, one, ()) for one in given)
            reader.prefetch(
                drain.registry[lookup.mapping], [one for one in filters if one is not None]
            )
        yield reader


def _compare(
    drain: Drain, question: AccessQuestion, checks: Sequence[Check], grants: dict[Pair, HeldLevels]
) -> Iterator[Mismatch]:
    """Ask the target as each user; yield the answers that differ from the `grants`."""
    by_user: dict[str, list[str]] = defaultdict(list)
    for user, resource in grants:
        by_user[user].append(resource)
    results_by_user = drain.target.ask([check.ask for check in checks], list(by_user.items()))
    for (user, resources), results in zip(by_user.items(), results_by_user, strict=True):
        for resource in resources:
            for direction, by in _differences(resource, grants[user, resource], checks, results):
                yield Mismatch(direction, user, question.noun, resource, by)


def _one_of_each_kind(grants: MappingABC[Pair, HeldLevels]) -> set[Pair]:
    """Return, for each user, one pair that is granted something and one that is not."""
    kinds = {(pair[0], bool(grant.levels)): pair for pair, grant in grants.items()}
    return set(kinds.values())


def _compare_statements(
    drain: Drain,
    question: AccessQuestion,
    statements: Sequence[StatementCheck],
    grants: MappingABC[Pair, HeldLevels],
) -> Iterator[Mismatch]:
    """Evaluate the policies of guarded tables as each user; yield the answers that differ.

    Each row is of one user and one resource, so each pair is a request of its own.
    """
    for (user, resource), grant in grants.items():
        asks = [one.ask(user, resource) for one in statements]
        results = drain.target.ask(asks, [(user, [])])[0] if asks else []
        for one, ask, result in zip(statements, asks, results, strict=True):
            expected = one.expected(grant.levels)
            allowed = result.privilege and result.passes(ask.verb)
            if result.exists and expected is not None and allowed != expected:
                direction = Direction.OVER if allowed else Direction.UNDER
                yield Mismatch(direction, user, question.noun, resource, one.by)


def _differences(
    resource: str, grant: HeldLevels, checks: Sequence[Check], results: Iterable[AskResult]
) -> list[tuple[Direction, str]]:
    """Return direction and name of each check whose answer differs from the levels in `grant`."""
    found = []
    for check, result in zip(checks, results, strict=True):
        expected, allowed = check.level in grant.levels, resource in result.values
        # A table without rows of the resource shows nothing to any user.
        if isinstance(check.ask, AskRows) and resource not in result.existing and not allowed:
            continue
        by = check.by + (f" [{result.state}]" if result.state else "")
        if allowed != expected:
            found.append((Direction.OVER if allowed else Direction.UNDER, by))
    return found


def _without_changes(drain: Drain, question: AccessQuestion, pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs, without those that a change under way of one of their rows may explain."""
    judge = Judge(drain.registry, drain.source, drain.target)
    pairs_by_key: dict[str, dict[Key, set[Pair]]] = defaultdict(lambda: defaultdict(set))
    for pair, path in _paths(drain, question, pairs):
        for mapping, key in path.keys:
            pairs_by_key[mapping.name][key].add(pair)
    changing: set[Pair] = set()
    for name, by_key in pairs_by_key.items():
        keys = sorted(by_key)
        for start in range(0, len(keys), _BATCH):
            verdict = judge.judge(drain.registry[name], keys[start : start + _BATCH])
            under_way = (*verdict.in_flight, *verdict.withheld)
            changing.update(pair for key in under_way for pair in by_key[key])
    return [pair for pair in pairs if pair not in changing]


def _paths(
    drain: Drain, question: AccessQuestion, pairs: Sequence[Pair]
) -> Iterator[tuple[Pair, FoundPath]]:
    """Yield each pair with the found paths from its user to its resource, one at a time.

    They are those of the primary. If the key of a row that the primary lacks is unknown, those of
    the target follow.
    """
    target = TargetRowReader(drain.target)
    for start in range(0, len(pairs), _BATCH):
        batch = pairs[start : start + _BATCH]
        with _primary_reader(drain, question, batch) as primary:
            found = {pair: find_paths(drain.registry, question, primary, *pair) for pair in batch}
        for pair, paths in found.items():
            unknown = (path.missing and key_from(*path.missing) is None for path in paths)
            more = find_paths(drain.registry, question, target, *pair) if any(unknown) else []
            yield from ((pair, path) for path in [*paths, *more])
