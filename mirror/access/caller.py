"""Caller: the signed-in user, by whose id helpers and policies decide.

Users of Supabase Auth have uuids. Third-party auth (Clerk, Auth0, Firebase, WorkOS) has subjects
such as `user_2abc` or `auth0|123`, on which `auth.uid()` fails. The columns of users' ids in the
access declarations tell which of them a registry means: uuid or text.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from mirror.errors import MappingError
from mirror.model.registry import Registry


@dataclass(frozen=True)
class Caller:
    """The signed-in user in SQL."""

    type: str
    """The PostgreSQL type of the user's id."""
    id: str
    """The user's id: a subquery, so that PostgreSQL computes it once per statement."""


_CALLERS: Final = {
    "uuid": Caller("uuid", "(select auth.uid())"),
    # An empty subject is none.
    "text": Caller("text", "(select nullif(auth.jwt() ->> 'sub', ''))"),
}


@runtime_checkable
class HasUsers(Protocol):
    """An access declaration that compares columns with the caller's id."""

    def user_columns(self) -> Iterable[tuple[str, str]]:
        """Return the mapping and the column of each."""
        ...


def caller(registry: Registry) -> Caller:
    """Return the caller of a registry: by a text if its access declarations have users by text.

    Raises:
        MappingError: a user's column has another type, or some have uuids and others texts.
    """
    types: dict[str, str] = {}
    for access in registry.access:
        for name, column in access.user_columns() if isinstance(access, HasUsers) else ():
            type_ = registry[name].types.get(column)
            if type_ is not None:
                types.setdefault(type_, f"{column!r} of mapping {name!r}")
    for type_, where in types.items():
        if type_ not in _CALLERS:
            raise MappingError(
                f"access: {where} is {type_}, which no token has; mirror the id that tokens carry: "
                f"the uuid of Supabase Auth, or the text of third-party auth."
            )
    if len(types) > 1:
        raise MappingError(
            f"access: {types['uuid']} is uuid and {types['text']} is text; users have ids of one "
            f"kind: the uuid of Supabase Auth, or the text of third-party auth."
        )
    return _CALLERS[next(iter(types), "uuid")]
