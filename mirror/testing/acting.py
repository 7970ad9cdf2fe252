"""Acting: statements in the target with a user's role and claims, under row-level security."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import errors

from mirror.devstack.caller import become

User = UUID | str | int | None
"""A user's id, as tokens carry it. None: the token has no subject."""

Result = int | str
"""How many rows a statement read or wrote; `DENIED`; or the name of the error of a constraint, such
as `ForeignKeyViolation`."""

DENIED: Final = "denied"
"""A privilege is missing, or a policy refuses the new row."""

Row = tuple[Any, ...]
Explain = Callable[[User, Mapping[str, object]], list[str]]


class Actor:
    """A user who is signed in, or a role of the API, in a sandbox's target; `as_user` makes it.

    A statement may contain `%(me)s` for the user's id, and `%(name)s` for the value that is given
    as `name=`. All that it changes is rolled back, except by `run`. Errors that have nothing to do
    with permissions, such as an unknown column, are raised as psycopg raises them.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Row]],
        user: User,
        *,
        role: str = "authenticated",
        claims: Mapping[str, object] | None = None,
        values: Mapping[str, object] | None = None,
        explain: Explain = lambda *_: [],
    ) -> None:
        self.user = user
        self.role = role
        self._connect = connect
        self._claims = claims
        self.values = values or {}
        self._explain = explain

    def __str__(self) -> str:
        return self.role if self.user is None else f"{self.role} {self.user}"

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Row]]:
        """Yield a connection in a transaction of this user; it is rolled back at the end."""
        connection = self._connect()
        become(connection, self.user, role=self.role, claims=self._claims)
        try:
            yield connection
        finally:
            connection.rollback()

    def read(self, query: str, **values: object) -> list[Row]:
        """Return the rows that the user gets."""
        with self.connection() as connection:
            return connection.execute(query.encode(), self._parameters(values)).fetchall()

    def run(self, statement: str, **values: object) -> int:
        """Run a statement and keep its changes; return how many rows it read or wrote."""
        with self.connection() as connection:
            rows = connection.execute(statement.encode(), self._parameters(values)).rowcount
            connection.commit()
            return rows

    def result(self, statement: str, **values: object) -> Result:
        """Try a statement."""
        return self._try(statement, values)[0]

    def allowed(self, statement: str, *, rows: int | None = None, **values: object) -> None:
        """Assert that a statement reads or writes `rows` rows; None: at least one.

        Raises:
            AssertionError: it does not. If a value has the name of a kind of resource (`trip=…`),
                the message says why, as `mirror explain` does.
        """
        __tracebackhide__ = True
        result, why = self._try(statement, values)
        if isinstance(result, str) or (result != rows if rows is not None else result == 0):
            expected = "at least one row" if rows is None else f"{rows} row(s)"
            raise AssertionError(self._message("is not allowed", statement, values, expected, why))

    def refused(self, statement: str, **values: object) -> None:
        """Assert that a statement is denied, or neither reads nor writes a row.

        Raises:
            AssertionError: it reads or writes rows, or a constraint fails, which only shows that
                the policies have allowed it. The message is as that of `allowed`.
        """
        __tracebackhide__ = True
        result, why = self._try(statement, values)
        if result not in {0, DENIED}:
            raise AssertionError(self._message("is not refused", statement, values, DENIED, why))

    def _try(self, statement: str, values: Mapping[str, object]) -> tuple[Result, str]:
        """Return a statement's result, also in words."""
        with self.connection() as connection:
            try:
                rows = connection.execute(statement.encode(), self._parameters(values)).rowcount
            except errors.InsufficientPrivilege as error:
                return DENIED, f"{DENIED}: {error.diag.message_primary}"
            except errors.IntegrityError as error:
                name = type(error).__name__
                return name, f"{name}: {error.diag.message_primary}"
        return rows, f"{rows} row(s)"

    def _parameters(self, values: Mapping[str, object]) -> dict[str, object]:
        return {"me": self.user, **self.values, **values}

    def _message(
        self, what: str, statement: str, values: Mapping[str, object], expected: str, result: str
    ) -> str:
        given = {**self.values, **values}
        lines = [
            f"{self} {what}:",
            f"  {' '.join(statement.split())}",
            *(f"    {name} = {value}" for name, value in given.items()),
            f"  expected {expected}",
            f"  got {result}",
            *(f"  {line}" for line in self._explain(self.user, given)),
        ]
        return "\n".join(lines)
