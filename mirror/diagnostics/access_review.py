"""Access review: lists the users that may do something with a resource, or all that a user may do.

The target's mirrored rows name the candidates; the answer is that of the target's helpers, asked as
each of them, so it is what row-level security says.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as MappingABC
from dataclasses import asdict, dataclass
from typing import Any, Final

from mirror.access.questions import (
    AccessPath,
    AccessQuestion,
    Constant,
    FromRow,
    Given,
    Values,
    inactive_reason,
)
from mirror.diagnostics.explain.key_state import values_by_column
from mirror.diagnostics.explain.permission import canonical_given
from mirror.model.keys import Key
from mirror.model.registry import Registry
from mirror.sync.drain import Drain
from mirror.sync.targets.asking import AskHelper
from mirror.sync.targets.base import Target

MOST: Final = 10_000
"""How many rows of one lookup are followed."""
_PAGE: Final = 500
_ASKED_AT_ONCE: Final = 100

_Resolved = dict[int, tuple[Key, Values]]
"""By position in the access path: the key and the values of a row that was found."""


@dataclass(frozen=True, order=True)
class Access:
    """One user's access to one resource."""

    noun: str
    """The kind of resource."""
    resource: str
    user: str
    level: str | None
    """The strongest level that the target's helpers grant. None: rows name the user, and the
    helpers refuse: the rows are withheld, or their parents are missing."""
    by: tuple[str, ...]
    """The rows that name the user: mapping and key."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Review:
    """The access to which the rows with a given user or resource lead."""

    access: list[Access]
    """In order."""
    cut: list[str]
    """The mappings of which more rows match than were followed, so that users may be missing."""


def review(
    drain: Drain, questions: Sequence[AccessQuestion], given: MappingABC[Given, str]
) -> Review:
    """Return the access that rows with a given user or resource lead to.

    Raises:
        InvalidKey: the user or the resource is not a valid id of its type.
        MirrorError: the target does not answer, or the login may not act as a user.
    """
    given = canonical_given(drain.registry, questions, given)
    reader = _Reader(drain.registry, drain.target)
    found: list[Access] = []
    for question in questions:
        rows: dict[tuple[str, str], set[str]] = defaultdict(set)
        for path in question.paths:
            for pair, names in _named(reader, path, given):
                rows[pair].update(names)
        levels = _ask(drain.target, question, list(rows))
        found += [
            Access(question.noun, resource, user, levels[user, resource], tuple(sorted(names)))
            for (user, resource), names in rows.items()
        ]
    ordered = sorted(found, key=lambda one: (one.noun, one.resource, one.user))
    return Review(ordered, sorted(reader.cut))


class _Reader:
    """Finds the target's rows that count, and notes of which mappings there are too many."""

    def __init__(self, registry: Registry, target: Target) -> None:
        self._registry = registry
        self._target = target
        self.cut: set[str] = set()

    def rows(self, name: str, wanted: MappingABC[str, str]) -> Iterator[tuple[Key, Values]]:
        """Yield the rows of a mapping with these values that are active and have not expired."""
        mapping = self._registry[name]
        keys = self._target.keys(mapping, wanted, limit=MOST + 1)
        if len(keys) > MOST:
            self.cut.add(name)
        for start in range(0, min(len(keys), MOST), _PAGE):
            page = keys[start : min(start + _PAGE, MOST)]
            for key, known in self._target.rows(mapping, page).items():
                if known.row is None:
                    continue
                values = values_by_column(mapping, known.row)
                if inactive_reason(mapping, values) is None:
                    yield key, values


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


def _named(
    reader: _Reader, path: AccessPath, given: MappingABC[Given, str]
) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """Yield each pair of a user and a resource to which rows of a path lead, with their names."""
    for rows in _follow(reader, path, given, {}):
        ends = dict(given)
        for position, (_, values) in rows.items():
            for column, source in path.rows[position].by.items():
                value = values[column]
                if isinstance(source, Given) and value is not None:
                    ends[source] = value
        if len(ends) == len(Given):
            names = [f"{path.rows[i].mapping} {','.join(key)}" for i, (key, _) in rows.items()]
            yield (ends[Given.USER], ends[Given.RESOURCE]), names


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
    for found in reader.rows(path.rows[position].mapping, wanted):
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
            found[column] = before[source.row][1][source.column]
    # A row that was found first may be compared with one that comes before it in the path.
    for other, (_, values) in before.items():
        for column, source in path.rows[other].by.items():
            if isinstance(source, FromRow) and source.row == position:
                found[source.column] = values[column]
    return found
