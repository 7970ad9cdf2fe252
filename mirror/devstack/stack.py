"""Everything that the mirror connects, on this machine: primary, target and Redis."""

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
    """A primary (PostgreSQL 16), a stand-in for Supabase (18) and Redis; `start` makes one.

    With an API in front of the stand-in, if that is asked for: tell it to `serve` the database
    "postgres" once that is migrated.

    As a context manager it stops all of them and deletes their data on leaving. Where neither
    that nor `stop` happens, the end of the Python process does it; after SIGKILL the servers
    still go, and only files stay, among the temporary ones.
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
        cls, directory: Path | None = None, *, durable: bool = True, api: Path | None = None
    ) -> Self:
        """Start the servers side by side.

        Args:
            directory: where their data goes, in `primary`, `target` and `redis`, which must
                not hold files yet; removed at the end if it was made here. `None` for a
                temporary directory.
            durable: `False` trades crash safety of the databases for speed.
            api: the npm package that pins @supabase/lite, to start that too.

        Raises:
            ConfigError: the embedded servers are not installed, or a directory holds files.
            Unreachable: a server does not start; with the end of its log.
        """
        # Cleans up what has started when something else fails.
        with ExitStack() as cleanup:
            home = _temporary_directory(cleanup) if directory is None else directory
            if not home.exists():
                home.mkdir(parents=True)
                cleanup.callback(remove_tree, home)

            def start_primary() -> PostgresCluster:
                return PostgresCluster.start(home / "primary", version=16, durable=durable)

            def start_target() -> PostgresCluster:
                target = PostgresCluster.start(
                    home / "target", version=18, superuser=supabase.SUPERUSER, durable=durable
                )
                try:
                    supabase.prepare_cluster(target)
                    supabase.prepare_database(target, "postgres")
                except BaseException:
                    target.discard()
                    raise
                return target

            def start_redis() -> RedisServer:
                return RedisServer.start(home / "redis")

            def discard(server: Future[PostgresCluster] | Future[RedisServer]) -> None:
                if server.exception() is None:
                    server.result().discard()

            with ThreadPoolExecutor(3) as pool:
                primary = pool.submit(start_primary)
                target = pool.submit(start_target)
                redis = pool.submit(start_redis)
                # Leaving the pool waits for all three, also when Ctrl-C makes it leave.
                for server in (primary, target, redis):
                    cleanup.callback(discard, server)
            lite = None
            if api is not None:
                log = home / "api.log"
                lite = SupabaseLite.start(target.result(), package=api, log=log)
                cleanup.callback(lite.stop)
            parts = (primary.result(), target.result(), redis.result())
            stack = cls(*parts, cleanup.pop_all(), lite)
        atexit.register(stack.stop)
        return stack

    @property
    def primary_url(self) -> str:
        """The primary's database, as its superuser `postgres`."""
        return self.primary.url()

    @property
    def supabase_db_url(self) -> str:
        """The target's database, as `postgres`, which is no superuser there."""
        return self.target.url(user=supabase.OWNER)

    @property
    def redis_url(self) -> str:
        """Database 0 of Redis."""
        return self.redis.url

    def environment(self) -> dict[str, str]:
        """The settings that point the mirror at this stack, by environment variable."""
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
        """Stop all of them at once and delete their data; idempotent."""
        atexit.unregister(self.stop)
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _temporary_directory(cleanup: ExitStack) -> Path:
    """A new directory in which the servers' account can get to its own, removed by `cleanup`."""
    account = Account.for_servers()
    path = Path(tempfile.mkdtemp(prefix="permission-mirror-", dir=account.temp_directory()))
    cleanup.callback(remove_tree, path)
    if account.switched:
        # To pass through, not to look around; each server's directory is its own alone.
        path.chmod(0o711)
    return path
