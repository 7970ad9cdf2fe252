"""Stack: starts all servers that the mirror connects: primary, target, Redis, optionally an API."""

import atexit
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from mirror.devstack import supabase
from mirror.devstack.account import Account, remove_tree
from mirror.devstack.lite import SupabaseLite
from mirror.devstack.postgres import PostgresCluster
from mirror.devstack.redis import RedisServer


class DevStack:
    """A primary (PostgreSQL 16), a stand-in for Supabase (18) and Redis; create it with `start`.

    The API in front of the stand-in is optional: call its `serve` with the database "postgres" once
    that is migrated.

    Leaving the context manager, or `stop`, stops all servers and deletes their data. If neither
    happens, the end of the Python process does the same. After SIGKILL the servers end, too, but
    their files remain.
    """

    def __init__(
        self,
        primary: PostgresCluster,
        target: PostgresCluster,
        redis: RedisServer,
        cleanup: ExitStack,
        api: SupabaseLite | None = None,
    ) -> None:
        self.primary = primary
        self.target = target
        self.redis = redis
        self.api = api
        self._cleanup = cleanup

    @classmethod
    def start(
        cls,
        directory: Path | None = None,
        *,
        durable: bool = True,
        api: Path | None = None,
        target_version: int = 18,
        target_programs: Path | None = None,
    ) -> Self:
        """Start the servers in parallel.

        Args:
            directory: the directory for their data, in the subdirectories `primary`, `target` and
                `redis`, which must be empty or new. It is deleted at the end if this call has
                created it. None: a temporary directory.
            durable: False trades crash safety of the databases for speed.
            api: the npm package that pins @supabase/lite; None: start no API.
            target_version: the major version of the target's PostgreSQL.
            target_programs: the `bin` directory of that version; None: the installed one.

        Raises:
            ConfigError: the embedded servers are not installed, or a directory is not empty.
            Unreachable: a server does not start; the message has the end of its log.
        """
        # If a server fails to start, this stops the others.
        with ExitStack() as cleanup:
            home = _temporary_directory(cleanup) if directory is None else directory
            if not home.exists():
                home.mkdir(parents=True)
                cleanup.callback(remove_tree, home)
            with ThreadPoolExecutor(3) as pool:
                primary = pool.submit(
                    PostgresCluster.start, home / "primary", version=16, durable=durable
                )
                target = pool.submit(
                    _start_target, home / "target", target_version, target_programs, durable=durable
                )
                redis = pool.submit(RedisServer.start, home / "redis")
                # The end of this block waits for all three, even after Ctrl-C.
                for server in (primary, target, redis):
                    cleanup.callback(_discard, server)
            lite = None
            if api is not None:
                log = home / "api.log"
                lite = SupabaseLite.start(target.result(), package=api, log=log)
                cleanup.callback(lite.stop)
            servers = (primary.result(), target.result(), redis.result())
            stack = cls(*servers, cleanup.pop_all(), lite)
        atexit.register(stack.stop)
        return stack

    @property
    def primary_url(self) -> str:
        """The URL of the primary's database, for its superuser `postgres`."""
        return self.primary.url()

    @property
    def supabase_db_url(self) -> str:
        """The URL of the target's database, for `postgres`, which is not a superuser there."""
        return self.target.url(user=supabase.OWNER)

    @property
    def redis_url(self) -> str:
        """The URL of Redis, database 0."""
        return self.redis.url

    def environment(self) -> dict[str, str]:
        """Return the environment variables that connect the mirror to this stack."""
        api = {}
        if self.api is not None:
            api = {
                "SUPABASE_URL": self.api.url,
                "SUPABASE_SECRET_KEY": self.api.secret_key,
                "SUPABASE_PUBLISHABLE_KEY": self.api.publishable_key,
                "MIRROR_TARGET": "rest",
            }
        return {
            "PRIMARY_DATABASE_URL": self.primary_url,
            "SUPABASE_DB_URL": self.supabase_db_url,
            "REDIS_URL": self.redis_url,
            **api,
        }

    def stop(self) -> None:
        """Stop all servers and delete their data; idempotent."""
        atexit.unregister(self.stop)
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _start_target(
    directory: Path, version: int, programs: Path | None, *, durable: bool
) -> PostgresCluster:
    """Start and prepare the stand-in for a Supabase project."""
    target = PostgresCluster.start(
        directory,
        version=version,
        programs=programs,
        superuser=supabase.SUPERUSER,
        durable=durable,
    )
    try:
        supabase.prepare_cluster(target)
        supabase.prepare_database(target, "postgres")
    except BaseException:
        target.discard()
        raise
    return target


def _discard(server: Future[PostgresCluster] | Future[RedisServer]) -> None:
    if server.exception() is None:
        server.result().discard()


def _temporary_directory(cleanup: ExitStack) -> Path:
    """Create a directory that the servers' account can traverse; `cleanup` deletes it."""
    account = Account.for_servers()
    path = Path(tempfile.mkdtemp(prefix="permission-mirror-", dir=account.temp_directory()))
    cleanup.callback(remove_tree, path)
    if account.switched:
        # Others may traverse it but not list it; each server's directory has mode 0700.
        path.chmod(0o711)
    return path
