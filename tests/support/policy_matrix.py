"""The people for whom policies are tried, and the expected outcome for each of them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from mirror.testing import DENIED, Actor, Result
from tests.support.databases import TestDatabase

MEMBERS = ("member", "admin", "owner")
MODERATORS = ("admin", "owner")
OUTSIDE = ("stranger", "invited", "inactive", "removed", "outsider")
USERS = MEMBERS + OUTSIDE
# "unsigned" has the role authenticated and a token without a subject.
EVERYBODY = ("anon", "unsigned", *USERS)
OTHER_ROLES = {"anon": "anon", "service_role": "service_role"}

Values = Mapping[str, Any]
Matrix = dict[str, dict[str, tuple[str, dict[str, Result]]]]
"""table → name of the action → (statement, expected outcome of each person)."""


def everybody(outcome: Result = 0, **others: Result) -> dict[str, Result]:
    """Return each person's outcome: `outcome`, DENIED for anon, and others by group or name."""
    expected: dict[str, Result] = dict.fromkeys(EVERYBODY, outcome)
    expected["anon"] = DENIED
    groups = {"members": MEMBERS, "moderators": MODERATORS, "outside": OUTSIDE}
    for name, value in others.items():
        for person in groups.get(name, (name,)):
            expected[person] = value
    return expected


NOBODY = everybody(DENIED)


def another_member(person: str) -> str:
    """Return another person who is a member: the owner, or the admin if the person is the owner."""
    return "admin" if person == "owner" else "owner"


@dataclass(frozen=True)
class ChatWithPeople:
    """The database of a chat, the ids of its people, and the ids of its rows."""

    database: TestDatabase
    users: dict[str, UUID]
    trip: UUID
    other_trip: UUID
    messages: dict[str, UUID]
    values: dict[str, Any] = field(default_factory=dict)
    """More parameters of statements."""

    def outcome(self, person: str, statement: str) -> Result:
        """Return how many rows a person's statement reads or writes, or DENIED."""
        return self.outcomes(statement, [person])[person]

    def outcomes(self, statement: str, people: Iterable[str]) -> dict[str, Result]:
        """Return each person's outcome; each attempt is rolled back."""
        return attempts(self.database, statement, {person: self._of(person) for person in people})

    def _of(self, person: str) -> tuple[UUID | None, dict[str, Any]]:
        user = self.users.get(person)
        other = another_member(person)
        values: dict[str, Any] = {
            "me": user or uuid4(),
            "other": self.users[other],
            "trip": self.trip,
            "other_trip": self.other_trip,
            "mine": self.messages.get(person) or uuid4(),
            "theirs": self.messages[other],
            "fresh": self.messages["nobody"],
        }
        return user, values | self.values


def attempts(
    database: TestDatabase, statement: str, people: Mapping[str, tuple[UUID | None, Values]]
) -> dict[str, Result]:
    """Try a statement for each person, with their id and values, and roll each attempt back.

    Return how many rows it reads or writes; DENIED, or the name of the constraint's error, if
    it is refused.
    """
    with database.connect(autocommit=False) as connection:
        return {
            person: Actor(
                lambda: connection, user, role=OTHER_ROLES.get(person, "authenticated")
            ).result(statement, **values)
            for person, (user, values) in people.items()
        }


def joins(database: TestDatabase, user: UUID, topic: str) -> set[str]:
    """Return the features that Realtime allows a client of this topic, asked in Realtime's way."""
    with database.connect(autocommit=False) as connection:
        for extension in ("broadcast", "presence"):
            connection.execute(
                "insert into realtime.messages (topic, extension) values (%s, %s)",
                [topic, extension],
            )
        connection.execute(
            "select set_config('role', 'authenticated', true),"
            " set_config('realtime.topic', %s, true), set_config('request.jwt.claims', %s, true)",
            [topic, json.dumps({"sub": str(user), "role": "authenticated"})],
        )
        found = connection.execute(
            "select extension from realtime.messages where topic = %s", [topic]
        ).fetchall()
        connection.rollback()
    return {extension for (extension,) in found}


def check_that_it_is_whole(matrix: Matrix, people: Iterable[str] = EVERYBODY) -> None:
    """Assert that each table has every kind of statement, with an outcome for each person."""
    for table, rows in matrix.items():
        kinds = {statement.split()[0] for statement, _ in rows.values()}
        assert kinds >= {"select", "insert", "update", "delete"}, table
        for action, (_, expected) in rows.items():
            assert set(expected) >= set(people), (table, action)
