"""The target over its project's REST API, with supabase-py (SUPABASE_URL and a key)."""

from contextlib import suppress
from typing import Any

import supabase
from postgrest import APIError

from mirror.errors import MirrorError, NotMigrated, StaleCache
from mirror.sync.targets.api_keys import check_secret_key, check_writer_token
from mirror.sync.targets.http import HttpClient
from mirror.sync.targets.rest_errors import MISSING, explain_answer, no_json
from mirror.sync.targets.rpc import RpcTarget


class RestTarget(RpcTarget):
    """Calls the target's functions by RPC, each call one request.

    Their answers are single JSON values, which no row limit of the API cuts.

    Args:
        url: the project's.
        key: a secret key; beside a token any key of the project, the publishable one is enough.
        token: a JWT of the role mirror_writer, if that is to call.
        line: how to reach it.

    Raises:
        ConfigError: the key or token is of the wrong kind, expired, or another project's.
    """

    def __init__(
        self, url: str, key: str, *, token: str | None = None, line: HttpClient | None = None
    ) -> None:
        if token is None:
            check_secret_key(key, url)
        else:
            check_writer_token(token, url)
        self.url = url
        self.line = line or HttpClient()
        self._key = key
        self._token = token
        self._client: supabase.Client | None = None

    def __repr__(self) -> str:
        return f"<RestTarget {self.url}>"

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.postgrest.aclose()
            self._client = None

    @property
    def client(self) -> supabase.Client:
        """The client, whose connections are opened when needed and used again."""
        if self._client is None:
            bearer = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
            options = supabase.ClientOptions(
                httpx_client=self.line.open(),
                headers=bearer,
                auto_refresh_token=False,
                persist_session=False,
            )
            self._client = supabase.create_client(self.url, self._key, options)
        return self._client

    def _call(self, door: str, *, timeout_factor: int = 1, **arguments: str) -> Any:
        try:
            answer = self.line.call(
                self.client.rpc(f"mirror_{door}", arguments).execute, timeout_factor=timeout_factor
            ).data
        except APIError as error:
            # Its details, and a traceback with it, hold the values of rows.
            code, message, hint = error.code, error.message, error.hint
        else:
            response = self.line.response
            # supabase-py hands over as text what is no JSON.
            if response is not None and response.content and isinstance(answer, str):
                raise no_json(response.status_code, response.headers.get("Content-Type", ""))
            return answer
        raise self._explain(door, code, message, hint)

    def _explain(
        self, door: str, code: str | None, message: str | None, hint: str | None
    ) -> MirrorError:
        status = self.line.response.status_code if self.line.response is not None else 0
        if code != MISSING:
            return explain_answer(status, code=code, message=message, hint=hint)
        if door == "describe":
            return NotMigrated(
                f"target: the project's API does not know our functions [{MISSING}]; run "
                "`mirror migrate supabase`, and if that has been done, let the API look again: "
                "`notify pgrst, 'reload schema'`"
            )
        with suppress(KeyError, TypeError):
            if f"mirror_{door}" in self._call("describe")["doors"]:
                return StaleCache(
                    f"target: mirror_{door} was migrated, but the project's API has not noticed; "
                    f"let it look again: `notify pgrst, 'reload schema'` [{MISSING}]"
                )
        return NotMigrated(
            f"target: it has no function mirror_{door} [{MISSING}]; run `mirror migrate supabase`"
        )
