"""Caller: acts with the rights of a signed-in user, as PostgREST does."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql


def become(
    connection: psycopg.Connection[Any],
    user: UUID | str | int | None,
    *,
    role: str = "authenticated",
    claims: Mapping[str, object] | None = None,
) -> None:
    """Take a user's role and JWT claims until the end of the transaction.

    None as the user means a token without a subject; `role` may also be `anon` or `service_role`.
    `claims` are further claims of the token.
    """
    token = {"role": role} | ({} if user is None else {"sub": str(user)}) | dict(claims or {})
    connection.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(token)])
    connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))


@contextmanager
def acting_as(
    url: str, user: UUID | str | None, *, role: str = "authenticated"
) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Yield a new connection in a transaction with this user's role and claims, as `become` does.

    The transaction is rolled back at the end, unless the block commits it.
    """
    with psycopg.connect(url) as connection:
        become(connection, user, role=role)
        try:
            yield connection
        finally:
            connection.rollback()
