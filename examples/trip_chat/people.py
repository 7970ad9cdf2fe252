"""People: signs users up, and runs their actions in the chat under row-level security."""

from typing import Any, Protocol
from uuid import UUID, uuid4

import httpx
import psycopg
import supabase
from postgrest import APIError

from mirror.devstack.caller import acting_as
from mirror.devstack.lite import SupabaseLite

_MESSAGE = "Who is in?"


class People(Protocol):
    """The users of the chat and their actions, under row-level security.

    Each action returns the number of rows that it read or wrote; -1 if it is refused with an error.
    """

    def sign_up(self, email: str) -> UUID:
        """Sign a user up; return the id that policies see."""
        ...

    def read(self, user: UUID, trip: UUID) -> int:
        """Read a trip's messages; return their number."""
        ...

    def write(self, user: UUID, trip: UUID) -> int:
        """Write one message to a trip's chat."""
        ...

    def moderate(self, user: UUID, trip: UUID) -> int:
        """Delete a trip's messages; afterwards the chat has messages again."""
        ...


class PeopleInSql:
    """The users' actions in SQL, under the role and the claims that PostgREST sets."""

    def __init__(self, url: str) -> None:
        self._url = url

    def sign_up(self, email: str) -> UUID:  # noqa: ARG002 - there is no Auth here
        """Return a new id: here, a user exists without an account."""
        return uuid4()

    def read(self, user: UUID, trip: UUID) -> int:
        """Read a trip's messages; return their number."""
        return self._try(user, "select from chat_messages where trip_id = %s", trip)

    def write(self, user: UUID, trip: UUID) -> int:
        """Write one message to a trip's chat, and commit."""
        statement = "insert into chat_messages (trip_id, content) values (%s, %s)"
        return self._try(user, statement, trip, _MESSAGE, keep=True)

    def moderate(self, user: UUID, trip: UUID) -> int:
        """Try to delete a trip's messages, and roll that back; return how many could be deleted."""
        return self._try(user, "delete from chat_messages where trip_id = %s", trip)

    def _try(self, user: UUID, statement: str, *parameters: Any, keep: bool = False) -> int:
        """Run a statement as the user; commit only if `keep` is true; return the rows, or -1."""
        with acting_as(self._url, user) as connection:
            try:
                rows = connection.execute(statement, parameters).rowcount
            except psycopg.errors.InsufficientPrivilege:
                return -1
            if keep:
                connection.commit()
            return rows


class PeopleOverRest:
    """The users' actions through supabase-py, each with the token from the user's sign-up."""

    def __init__(self, api: SupabaseLite) -> None:
        self._api = api
        self._clients: dict[UUID, supabase.Client] = {}

    def close(self) -> None:
        """Close the connections of all users."""
        for client in self._clients.values():
            client.postgrest.aclose()

    def sign_up(self, email: str) -> UUID:
        """Sign a user up with a password; return the id that Auth assigned."""
        # supabase-py cannot parse Lite's answer to a sign-up.
        answer = httpx.post(
            f"{self._api.url}/auth/v1/signup",
            json={"email": email, "password": f"{uuid4()}"},
            headers={"apikey": self._api.publishable_key},
        )
        answer.raise_for_status()
        session = answer.json()
        user = UUID(session["user"]["id"])
        options = supabase.ClientOptions(
            headers={"Authorization": f"Bearer {session['access_token']}"},
            httpx_client=httpx.Client(),
        )
        key = self._api.publishable_key
        self._clients[user] = supabase.create_client(self._api.url, key, options)
        return user

    def read(self, user: UUID, trip: UUID) -> int:
        """Read a trip's messages; return their number."""
        return self._try(self._messages(user).select("id").eq("trip_id", str(trip)))

    def write(self, user: UUID, trip: UUID) -> int:
        """Write one message to a trip's chat."""
        message: Any = {"trip_id": str(trip), "content": _MESSAGE}
        return self._try(self._messages(user).insert(message))

    def moderate(self, user: UUID, trip: UUID) -> int:
        """Delete a trip's messages, then write a new one; return how many were deleted."""
        deleted = self._try(self._messages(user).delete().eq("trip_id", str(trip)))
        if deleted > 0:
            self.write(user, trip)
        return deleted

    def _messages(self, user: UUID) -> Any:
        return self._clients[user].table("chat_messages")

    @staticmethod
    def _try(query: Any) -> int:
        try:
            return len(query.execute().data)
        except APIError as error:
            if error.code == "42501":
                return -1
            raise
