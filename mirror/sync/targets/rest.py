"""The target over the REST API of its project, with supabase-py (SUPABASE_URL and a key)."""

from contextlib import suppress
from typing import Any

import httpx
import supabase
from postgrest import APIError

from mirror.errors import MirrorError, NotMigrated, StaleCache
from mirror.sync.targets.api_keys import check_secret_key, check_writer_token
from mirror.sync.targets.base import Target
from mirror.sync.targets.damage import undamaged
from mirror.sync.targets.http import HttpClient
from mirror.sync.targets.rest_errors import MISSING, explain_answer, no_json


class RestTarget(Target):
    """Calls the target's RPC functions through the project's API, one request for each call.

    Each function returns one JSON value, so that the API's row limit does not apply.

    Args:
        url: the project's URL.
        key: a secret key; with `token`, any key of the project (the publishable key is enough).
        token: a JWT of the role mirror_writer, if that role calls the functions.
        http: sends the requests.

    Raises:
        ConfigError: the key or token is of the wrong kind, expired, or of another project.
    """

    def __init__(
        self, url: str, key: str, *, token: str | None = None, http: HttpClient | None = None
    ) -> None:
        if token is None:
            check_secret_key(key, url)
        else:
            check_writer_token(token, url)
        self.url = url
        self.http = http or HttpClient()
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

    def twin(self) -> "RestTarget":
        """Return one with connections of its own."""
        return RestTarget(self.url, self._key, token=self._token, http=self.http.twin())

    @property
    def client(self) -> supabase.Client:
        """The client; it opens connections when needed and keeps them for later calls."""
        if self._client is None:
            bearer = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
            options = supabase.ClientOptions(
                httpx_client=self.http.open(),
                headers=bearer,
                auto_refresh_token=False,
                persist_session=False,
            )
            self._client = supabase.create_client(self.url, self._key, options)
        return self._client

    def _call(self, function: str, *, timeout_factor: int = 1, **arguments: str) -> Any:
        send = self.client.rpc(f"mirror_{function}", arguments).execute
        try:
            # Decoding fails for a corrupt body, a wrong character, or an odd header.
            with undamaged(httpx.DecodingError):
                answer = self.http.call(send, timeout_factor=timeout_factor).data
        except APIError as error:
            # Only these three: the error's details, also in a traceback, contain values of rows.
            code, message, hint = error.code, error.message, error.hint
        else:
            response = self.http.response
            if response is None or not response.content:
                # supabase-py returns an empty list, which could be an answer.
                return None
            # It returns a body that is not JSON as text.
            if isinstance(answer, str):
                raise no_json(response.status_code, response.headers.get("Content-Type", ""))
            return answer
        raise self._explain(function, code, message, hint)

    def _explain(
        self, function: str, code: str | None, message: str | None, hint: str | None
    ) -> MirrorError:
        status = self.http.response.status_code if self.http.response is not None else 0
        if code != MISSING:
            return explain_answer(status, code=code, message=message, hint=hint)
        if function == "describe":
            return NotMigrated(
                f"target: the project's API does not know our functions [{MISSING}]; run "
                "`mirror migrate supabase`. If that has been done, reload the API's schema cache: "
                "`notify pgrst, 'reload schema'`"
            )
        with suppress(KeyError, TypeError):
            if f"mirror_{function}" in self._call("describe")["doors"]:
                return StaleCache(
                    f"target: mirror_{function} was migrated, but the project's API does not know "
                    f"it yet; reload its schema cache: `notify pgrst, 'reload schema'` [{MISSING}]"
                )
        return NotMigrated(
            f"target: it has no function mirror_{function} [{MISSING}]; run "
            f"`mirror migrate supabase`"
        )
