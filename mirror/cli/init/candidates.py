"""Candidates: the tables that seem to say which users belong to which resources."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mirror.cli.init.model import AnyColumn
from mirror.cli.init.tables import Tables, is_unique, target_of
from mirror.cli.init.words import BY, MEMBERS, ROLES, STATUSES, USER_COLUMNS, singular, snake


@dataclass(frozen=True)
class Candidate:
    """A table that seems to say which users belong to which resources."""

    score: int
    table: str
    resource: str
    on: AnyColumn
    user: AnyColumn


def find_candidates(tables: Tables, users: str | None) -> list[Candidate]:
    """Return the tables that seem to list users of resources, the likeliest first."""
    found = []
    for name, table in tables.by_name.items():
        if name == users:
            continue
        role = first(table.c, ROLES)
        status = first(table.c, STATUSES)
        for user in table.c:
            if not _names_user(user, tables, users):
                continue
            for on in table.c:
                resource = _target(on, tables)
                if on is user or resource in {None, users, name}:
                    continue
                unique = is_unique(table, {on.name, user.name}, gone=set(table.c.keys()))
                if not role and not unique:
                    continue
                named = bool(MEMBERS.search(snake(table.name)))
                score = 4 * bool(role) + 3 * unique + 2 * named + bool(status)
                found.append(Candidate(score, name, str(resource), on, user))
    return sorted(found, key=lambda candidate: -candidate.score)


def _names_user(column: AnyColumn, tables: Tables, users: str | None) -> bool:
    """Return whether a column says which user its row is about."""
    name = snake(column.name)
    if BY.search(name):
        return False
    if users is None:
        return name in USER_COLUMNS
    target = _target(column, tables)
    return target == users if target else name in USER_COLUMNS


def _target(column: AnyColumn, tables: Tables) -> str | None:
    """Return the table to which a column points, by a foreign key or by its name; None: to none."""
    target = target_of(column, tables)
    if target is not None:
        return target[0]
    name = snake(column.name)
    if not name.endswith("_id"):
        return None
    word = name.removesuffix("_id")
    named = (key for key, table in tables.by_name.items() if singular(snake(table.name)) == word)
    return next(named, None)


def first(names: Any, words: Sequence[str]) -> str | None:
    """Return the one of some names, or of columns, that comes first in a list of known words."""
    spelled = [name if isinstance(name, str) else name.name for name in names]
    found = (name for word in words for name in spelled if snake(name) == word)
    return next(found, None)
