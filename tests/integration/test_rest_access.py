"""Keys that may mirror over REST (secret, legacy, mirror_writer), and the errors of other keys."""

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mappings.trips import registry
from mirror.devstack import PostgresCluster, SupabaseLite
from mirror.errors import MirrorError, NotMigrated, StaleCache, Unreachable, WrongKey
from mirror.sync.targets.asking import AskHelper, AskResult
from mirror.sync.targets.reading import Hashing, KeyRange, SurveyRequest
from mirror.sync.targets.rest import RestTarget
from mirror.sync.targets.writing import Outcome, ScopePage, Section
from tests.support.databases import TestDatabase
from tests.support.rest import ServeApi, SignUp
from tests.support.stamps import stamp

PAGE = (Path(__file__).parent.parent.parent / "docs" / "target.md").read_text()
USER = "0d0cf4a2-7f3a-4f5e-9a43-6b8f5d0f7a01"


@pytest.fixture
def targets() -> Iterator[list[RestTarget]]:
    """A list of the targets that the test opens; they are closed after it."""
    made: list[RestTarget] = []
    yield made
    for target in made:
        target.close()


def everything(target: RestTarget) -> None:
    """Call every function of the API."""
    read = stamp(10)
    target.apply(read, [Section(registry["users"], with_children=[(USER, "a@example.com", "a")])])
    page = ScopePage(registry["trip_memberships"], "user_id", (USER,))
    target.open_scopes(read, [page], limit=10)
    users, hashing = registry["users"], Hashing(7)
    assert target.rows(users, [(USER,)])[USER,].present
    assert [each.rows for each in target.digest(users, hashing, [KeyRange((USER,))], limit=9)] == [
        1
    ]
    assert sum(rows for _, rows, _ in target.buckets(users, hashing, SurveyRequest(3))) == 1
    assert list(target.members(users, hashing, SurveyRequest(3, b"\xff"))) == [(USER,)]
    assert target.step(read, {"users": "2026-01-02 03:04:05+00"})
    assert target.withhold(read, users, (USER,), "x") is Outcome.NEWER
    assert target.trace(USER, [("users", "*", "")]).identity == "a primary"
    assert target.ask([AskHelper("my_trips", ("MEMBER",))], [(USER, [])]) == [[AskResult()]]
    target.purge(7)
    assert target.examine(["public.users"], [])["tables"]["public.users"]
    target.rebase("another primary", 1)
    assert target.describe().epoch == 1


def test_a_secret_key_may_mirror(
    api: SupabaseLite, target: TestDatabase, targets: list[RestTarget]
) -> None:
    """This key begins with sb_secret_."""
    targets.append(RestTarget(api.url, api.secret_key))
    everything(targets[0])
    assert target.query("select username from users") == [("a",)]


def test_a_legacy_service_role_key_may_mirror(
    api: SupabaseLite, target: TestDatabase, targets: list[RestTarget]
) -> None:
    """This key is a JWT, as older projects have."""
    targets.append(RestTarget(api.url, api.token(role="service_role")))
    everything(targets[0])


@pytest.fixture
def writer(api: SupabaseLite, target: TestDatabase, targets: list[RestTarget]) -> RestTarget:
    """A target with a token of mirror_writer."""
    token = api.token(role="mirror_writer")
    targets.append(RestTarget(api.url, api.publishable_key, token=token))
    return targets[-1]


def test_a_token_of_mirror_writer_may_mirror(writer: RestTarget) -> None:
    """It can call every function."""
    everything(writer)


def test_the_recipe_of_the_docs_signs_a_token_of_mirror_writer(
    api: SupabaseLite, target: TestDatabase, targets: list[RestTarget]
) -> None:
    """The recipe runs as written, with the project's secret."""
    (recipe,) = (b for b in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "jwt." in b)
    done = subprocess.run(
        [sys.executable, "-c", recipe],
        env={"SUPABASE_JWT_SECRET": api.jwt_secret},
        capture_output=True,
        text=True,
        check=True,
    )
    targets.append(RestTarget(api.url, api.publishable_key, token=done.stdout.strip()))
    everything(targets[0])


@pytest.mark.parametrize("verb", ["GET", "POST", "PATCH", "DELETE"])
@pytest.mark.parametrize("table", ["users", "trips", "chat_messages"])
def test_a_token_of_mirror_writer_may_do_nothing_else(
    api: SupabaseLite, writer: RestTarget, verb: str, table: str
) -> None:
    """It can neither read nor write any table, not even a mirrored one."""
    answer = httpx.request(
        verb,
        f"{api.url}/rest/v1/{table}",
        params={}
        if verb == "POST"
        else {"select": "*"}
        if verb == "GET"
        else {"id": "not.is.null"},
        json={"id": USER} if verb in {"POST", "PATCH"} else None,
        headers={
            "apikey": api.publishable_key,
            "Authorization": f"Bearer {api.token(role='mirror_writer')}",
        },
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "42501")


def test_mirror_writer_has_no_privilege_but_on_the_api_functions(target: TestDatabase) -> None:
    """The catalog has the privileges: tables, views and sequences of any schema; our functions."""
    rights = "select, insert, update, delete, truncate, references, trigger"
    assert (
        target.query(
            "select c.oid::regclass::text from pg_class as c"
            " join pg_namespace as n on n.oid = c.relnamespace"
            " where n.nspname in ('public', 'mirror', 'auth') and c.relkind in ('r', 'v', 'm')"
            " and has_table_privilege('mirror_writer', c.oid, %s)",
            rights,
        )
        == []
    )
    callable_ones = target.query(
        "select p.proname from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace"
        " where n.nspname in ('public', 'mirror')"
        " and has_schema_privilege('mirror_writer', n.oid, 'usage')"
        " and has_function_privilege('mirror_writer', p.oid, 'execute')"
        " and p.proname like any (array['mirror%%', 'my_%%', 'apply%%', 'is_%%', 'has_%%'])"
    )
    functions = ["apply", "ask", "describe", "digest", "examine", "expired", "flush", "open_scopes"]
    functions += ["purge", "rebase", "rows", "step", "survey", "trace", "withhold"]
    assert sorted(name for (name,) in callable_ones) == [
        f"mirror_{function}" for function in functions
    ]
    assert target.query(
        "select rolsuper, rolcanlogin, rolbypassrls, rolcreaterole from pg_roles"
        " where rolname = 'mirror_writer'"
    ) == [(False, False, False, False)]


def refusal(target: RestTarget) -> MirrorError:
    """Return the error of a call."""
    with pytest.raises(MirrorError) as raised:
        target.describe()
    return raised.value


def test_a_users_token_is_refused(
    api: SupabaseLite, sign_up: SignUp, targets: list[RestTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token whose role the client cannot read is refused by the database."""
    monkeypatch.setattr("mirror.sync.targets.rest.check_secret_key", lambda *_: None)
    monkeypatch.setattr("mirror.sync.targets.rest.check_writer_token", lambda *_: None)
    person = sign_up("ada@example.com")
    targets.append(RestTarget(api.url, api.secret_key, token=person.token))
    targets.append(RestTarget(api.url, api.publishable_key))
    for each in targets:
        error = refusal(each)
        assert isinstance(error, WrongKey)
        assert "publishable (anon) key or a user's token" in str(error)


def test_another_projects_key_is_refused(api: SupabaseLite, targets: list[RestTarget]) -> None:
    """Another project's key has the same form."""
    targets.append(RestTarget(api.url, "sb_secret_of_another_project"))
    error = refusal(targets[0])
    assert isinstance(error, WrongKey)
    assert "of the project in SUPABASE_URL" in str(error)


def test_a_token_that_the_project_did_not_sign_is_refused(
    api: SupabaseLite, targets: list[RestTarget]
) -> None:
    """Its signature is wrong."""
    token = api.token(role="mirror_writer")[:-4] + "AAAA"
    targets.append(RestTarget(api.url, api.publishable_key, token=token))
    assert isinstance(refusal(targets[0]), WrongKey)


def test_a_wrong_address_is_unreachable(targets: list[RestTarget]) -> None:
    """The error names the setting."""
    targets.append(RestTarget("http://127.0.0.1:9", "sb_secret_x"))
    targets[0].http.pause = lambda _: None
    error = refusal(targets[0])
    assert isinstance(error, Unreachable)
    assert "is SUPABASE_URL right?" in str(error)


def test_a_project_that_was_not_migrated_says_so(
    project: TestDatabase, serve_api: ServeApi, targets: list[RestTarget]
) -> None:
    """The functions are missing, but the role exists, because roles belong to the server."""
    api = serve_api(project)
    targets.append(RestTarget(api.url, api.secret_key))
    error = refusal(targets[0])
    assert isinstance(error, NotMigrated)
    assert "mirror migrate supabase" in str(error)


def test_a_role_that_does_not_exist_means_not_migrated(
    api: SupabaseLite, targets: list[RestTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token for mirror_writer arrives before the role exists."""
    monkeypatch.setattr("mirror.sync.targets.rest.check_writer_token", lambda *_: None)
    token = api.token(role="mirror_writer_to_be")
    targets.append(RestTarget(api.url, api.publishable_key, token=token))
    assert isinstance(refusal(targets[0]), NotMigrated)


def test_a_stale_schema_cache_is_told_from_a_missing_migration(
    target: TestDatabase, serve_api: ServeApi, targets: list[RestTarget]
) -> None:
    """The API gives the same answer to both; the database knows the difference."""
    target.query("alter function public.mirror_purge(text) rename to purge_away")
    api = serve_api(target)
    targets.append(RestTarget(api.url, api.secret_key))
    with pytest.raises(NotMigrated, match="no function mirror_purge"):
        targets[0].purge(7)
    target.query("alter function public.purge_away(text) rename to mirror_purge")
    with pytest.raises(StaleCache, match="reload schema"):
        targets[0].purge(7)
    serve_api(target)
    assert targets[0].purge(7) == 0


def test_a_function_that_only_the_cache_knows_means_not_migrated(
    target: TestDatabase, api: SupabaseLite, targets: list[RestTarget]
) -> None:
    """The function is in the API's cache, but not in the database."""
    targets.append(RestTarget(api.url, api.secret_key))
    target.query("drop function public.mirror_purge(text)")
    with pytest.raises(NotMigrated):
        targets[0].purge(7)


def test_keys_are_in_no_log_and_no_error(
    api: SupabaseLite,
    target: TestDatabase,
    targets: list[RestTarget],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every library that takes part in a call logs as much as it can."""
    caplog.set_level(logging.DEBUG)
    token = api.token(role="mirror_writer")
    targets.append(RestTarget(api.url, api.publishable_key, token=token))
    targets.append(RestTarget(api.url, api.secret_key))
    targets.append(RestTarget(api.url, "sb_secret_of_another_project"))
    targets[0].describe()
    targets[1].describe()
    texts = [repr(refusal(targets[2])), caplog.text]
    for key in (token, api.secret_key, api.publishable_key, "sb_secret_of_another_project"):
        assert not any(key in text for text in texts)


def test_the_stand_in_grants_nothing_that_a_project_would_not(
    api: SupabaseLite, target: TestDatabase, sign_up: SignUp
) -> None:
    """Without our adjustments it would grant everything on every table to every user."""
    before: Any = target.query("select relname, relacl::text from pg_class where relkind = 'r'")
    person = sign_up("ada@example.com")
    for table in ("trips", "chat_messages"):
        httpx.get(
            f"{api.url}/rest/v1/{table}",
            headers={"apikey": api.publishable_key, "Authorization": f"Bearer {person.token}"},
        ).raise_for_status()
    after = target.query("select relname, relacl::text from pg_class where relkind = 'r'")
    assert before == after
    with target.acting_as(person.id) as connection:
        assert connection.execute("select auth.uid()::text").fetchone() == (person.id,)


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("raise exception 'no' using errcode = 'MR002', hint = 'look'", "MR002"),
        ("raise exception 'no'", "P0001"),
        ("perform pg_sleep(9)", "57014"),
        ("raise exception 'no' using errcode = '40P01'", "40P01"),
    ],
)
def test_the_stand_in_passes_on_codes_as_postgrest_does(
    target_cluster: PostgresCluster,
    target: TestDatabase,
    serve_api: ServeApi,
    statement: str,
    code: str,
) -> None:
    """Without our adjustments it would not."""
    target.query(
        "create function public.fail() returns void language plpgsql"
        f" as $$ begin {statement}; end $$"
    )
    name = target.url.rpartition("/")[2]
    TestDatabase(target_cluster.url(name)).query(
        f"alter role authenticator in database {name} set statement_timeout = '1s'"
    )
    api = serve_api(target)
    answer = httpx.post(f"{api.url}/rest/v1/rpc/fail", headers={"apikey": api.secret_key})
    assert answer.json()["code"] == code
