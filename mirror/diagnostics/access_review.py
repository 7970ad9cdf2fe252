"""Access review: lists the users that may do something with a resource, or all that a user may do.

The target's mirrored rows name the candidates; the answer is that of the target's helpers, asked as
each of them, so it is what row-level security says.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from mirror.access.questions import (
    AccessPath,
    AccessQuestion,
    Constant,
    FromRow,
    Given,
    Values,
    decides_by_key,
    inactive_reason,
)
from mirror.diagnostics.explain.key_state import values_by_column
from mirror.diagnostics.explain.permission import canonical_given
from mirror.model.registry import Registry
from mirror.sync.targets.asking import AskHelper
from mirror.sync.targets.base import Target

MOST: Final = 10_000
"""How many rows of one lookup are followed."""
_PAGE: Final = 500
_ASKED_AT_ONCE: Final = 100


@dataclass(frozen=True)
class Access:
    """One user's access to one resource."""

    noun: str
    """The kind of resource."""
    resource: str
    user: str
    level: str | None
    """The strongest level that the target's helpers grant. None: rows name the user, and the
    helpers refuse: the rows are withheld, or their parents are missing."""
    since: datetime | None
    """The rows that give the level have been in the target, as they are, at least since then: it is
    the time of the newest write of one of them. The access may be older, because a write that
    changes nothing counts, too. None: no level, or no row that the target knows gives it."""
    by: tuple[str, ...]
    """The rows that name the user: mapping and key."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values; the time in ISO 8601, in UTC."""
        return {
            "noun": self.noun,
            "resource": self.resource,
            "user": self.user,
            "level": self.level,
            "since": self.since and self.since.isoformat(timespec="seconds"),
            "by": list(self.by),
        }


@dataclass(frozen=True)
class Review:
    """The access to which the rows with a given user or resource lead."""

    access: list[Access]
    """In order."""
    cut: list[str]
    """The mappings of which more rows match than were followed, so that users may be missing."""


@dataclass(frozen=True)
class _Found:
    """A row of the target that counts."""

    name: str
    """Mapping and key."""
    values: Values
    written: datetime | None
    """When the mirror last wrote it; None: another writer did."""


_Resolved = dict[int, _Found]
"""The rows that were found, by position in the access path."""


@dataclass(frozen=True)
class _Way:
    """Rows that together give a user access to a resource."""

    rows: tuple[_Found, ...]
    levels: frozenset[str]

    @property
    def since(self) -> datetime | None:
        """The newest write of one of the rows; None: that of one is unknown."""
        times = [row.written for row in self.rows if row.written is not None]
        return max(times) if len(times) == len(self.rows) else None


def review(
    registry: Registry,
    target: Target,
    questions: Sequence[AccessQuestion],
    given: MappingABC[Given, str],
) -> Review:
    """Return the access that rows with a given user or resource lead to.

    Raises:
        InvalidKey: the user or the resource is not a valid id of its type.
        MirrorError: the target does not answer, or the login may not act as a user.
    """
    given = canonical_given(registry, questions, given)
    reader = _Reader(registry, target)
    found: list[Access] = []
    for question in questions:
        ways: dict[tuple[str, str], list[_Way]] = defaultdict(list)
        for path in question.paths:
            for pair, way in _ways(reader, question, path, given):
                ways[pair].append(way)
        levels = _ask(target, question, list(ways))
        found += [
            Access(
                noun=question.noun,
                resource=resource,
                user=user,
                level=levels[user, resource],
                since=_since(named, levels[user, resource]),
                by=tuple(sorted({row.name for way in named for row in way.rows})),
            )
            for (user, resource), named in ways.items()
        ]
    ordered = sorted(found, key=lambda one: (one.noun, one.resource, one.user))
    return Review(ordered, sorted(reader.cut))


def _since(ways: Iterable[_Way], level: str | None) -> datetime | None:
    """Return since when, at least, one of these ways has given the level."""
    times = [way.since for way in ways if level in way.levels]
    return min((time for time in times if time is not None), default=None)


class _Reader:
    """Finds the target's rows that count, and notes of which mappings there are too many."""

    def __init__(self, registry: Registry, target: Target) -> None:
        self.registry = registry
        self._target = target
        self.cut: set[str] = set()

    def rows(
        self, name: str, wanted: MappingABC[str, str], compared: Collection[str]
    ) -> Iterator[_Found]:
        """Yield the rows of a mapping with these values that count.

        They are active and have not expired. `compared` are the columns that decide.
        """
        mapping = self.registry[name]
        keys = self._target.keys(mapping, wanted, limit=MOST + 1)
        if len(keys) > MOST:
            self.cut.add(name)
        for start in range(0, min(len(keys), MOST), _PAGE):
            page = keys[start : min(start + _PAGE, MOST)]
            for key, known in self._target.rows(mapping, page).items():
                if known.row is None or (decides_by_key(mapping, compared) and not known.present):
                    continue
                values = values_by_column(mapping, known.row)
                if not known.expired and inactive_reason(mapping, values) is None:
                    # Of a row that somebody else wrote, the mirror does not know the time.
                    own = known.present and not known.edited
                    written = known.applied_at if own else None
                    yield _Found(f"{name} {','.join(key)}", values, written)


def _ask(
    target: Target, question: AccessQuestion, pairs: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], str | None]:
    """Return the strongest level that the helpers grant each user on each resource; None: none."""
    resources: dict[str, list[str]] = defaultdict(list)
    for user, resource in pairs:
        resources[user].append(resource)
    users = list(resources.items())
    asks = [AskHelper(one.function, one.arguments, one.each) for one in question.helpers]
    found: dict[tuple[str, str], str | None] = {}
    for start in range(0, len(users), _ASKED_AT_ONCE):
        batch = users[start : start + _ASKED_AT_ONCE]
        for (user, wanted), results in zip(batch, target.ask(asks, batch), strict=True):
            for resource in wanted:
                granted = [
                    helper.level
                    for helper, result in zip(question.helpers, results, strict=True)
                    if resource in result.values
                ]
                found[user, resource] = max(granted, key=question.levels.index, default=None)
    return found


def _ways(
    reader: _Reader, question: AccessQuestion, path: AccessPath, given: MappingABC[Given, str]
) -> Iterator[tuple[tuple[str, str], _Way]]:
    """Yield each pair of a user and a resource to which rows of a path lead, with these rows."""
    last = len(path.rows) - 1
    for rows in _follow(reader, path, given, {}):
        ends = dict(given)
        for position, found in rows.items():
            for column, source in path.rows[position].by.items():
                value = found.values[column]
                if isinstance(source, Given) and value is not None:
                    ends[source] = value
        if len(ends) == len(Given):
            mapping = reader.registry[path.rows[last].mapping]
            held = question.grant(path, last, mapping, rows[last].values)
            yield (ends[Given.USER], ends[Given.RESOURCE]), _Way(tuple(rows.values()), held.levels)


def _follow(
    reader: _Reader, path: AccessPath, given: MappingABC[Given, str], before: _Resolved
) -> Iterator[_Resolved]:
    """Yield each way to find a row for all lookups of a path, from one whose columns are known."""
    if len(before) == len(path.rows):
        yield before
        return
    filters = {
        position: _known_columns(path, position, given, before)
        for position in range(len(path.rows))
        if position not in before
    }
    position = max(filters, key=lambda one: len(filters[one]))
    wanted = {name: value for name, value in filters[position].items() if value is not None}
    if len(wanted) < len(filters[position]):
        # No row equals NULL.
        return
    for found in reader.rows(path.rows[position].mapping, wanted, path.compared(position)):
        yield from _follow(reader, path, given, before | {position: found})


def _known_columns(
    path: AccessPath, position: int, given: MappingABC[Given, str], before: _Resolved
) -> dict[str, str | None]:
    """Return the values that a lookup's row must have, as far as the rows `before` tell them."""
    found: dict[str, str | None] = {}
    for column, source in path.rows[position].by.items():
        if isinstance(source, Given) and source in given:
            found[column] = given[source]
        elif isinstance(source, Constant):
            found[column] = source.value
        elif isinstance(source, FromRow) and source.row in before:
            found[column] = before[source.row].values[source.column]
    # A row that was found first may be compared with one that comes before it in the path.
    for other, row in before.items():
        for column, source in path.rows[other].by.items():
            if isinstance(source, FromRow) and source.row == position:
                found[source.column] = row.values[column]
    return found
