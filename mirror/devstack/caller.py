"""Caller: opens connections with the rights of a signed-in user, as PostgREST does."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql


@contextmanager
def acting_as(
    url: str, user: UUID | str | None, *, role: str = "authenticated"
) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Yield a connection in a transaction with this user's JWT claims and role.

    The transaction is rolled back at the end, unless the block commits it. None as the user means
    a token without a subject; `role` may also be `anon` or `service_role`.
    """
    claims = {"role": role} | ({} if user is None else {"sub": str(user)})
    with psycopg.connect(url) as connection:
        connection.execute(
            "select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)]
        )
        connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
        try:
            yield connection
        finally:
            connection.rollback()
