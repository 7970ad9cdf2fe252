"""The pages with commands are played on real servers, each from a step of the tutorial on.

The tutorial is played once, up to its step 8. Each page then gets a copy of the directory and of
both databases as they were after the step that it names.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from mirror.devstack import PostgresCluster, RedisServer, prepare_services
from tests.support.blocks import PLAYED, blocks
from tests.support.databases import TestDatabase
from tests.support.forking import HOME, ForkingCommand
from tests.support.pages import Reader

STEPS = set(PLAYED.values())

PEOPLE = {name: str(uuid4()) for name in ("ADA", "EVE")}
OWNER = "backend"
"""The role that owns the primary; a page changes its password."""
PASSWORDS = ("the-old-one", "the-new-one")
SETTINGS = {"MIRROR_RECONCILE_GRACE_SECONDS": "0", "MIRROR_SWEEP_SECONDS": "1"}
"""No reconcile waits for changes that are on their way, and beat wakes a worker soon."""


@dataclass(frozen=True)
class Servers:
    """The servers, and the project from which all projects are copied."""

    primary: PostgresCluster
    target: PostgresCluster
    redis: RedisServer
    template: str
    command: ForkingCommand

    def create(self, name: str, copied: str | None = None) -> None:
        """Create both databases of this name, empty or as copies."""
        self.primary.create_database(name, template=copied, owner=OWNER)
        self.target.create_database(name, template=copied or self.template, owner="postgres")

    def drop(self, name: str) -> None:
        """Drop both databases."""
        self.primary.drop_database(name)
        self.target.drop_database(name)

    def reader(self, name: str, home: Path) -> Reader:
        """Return a reader with these databases and this directory."""
        urls = [self.primary.url(name, user=OWNER, password=each) for each in PASSWORDS]
        project = TestDatabase(self.target.url(name, user="postgres"))
        prepared = {
            "PRIMARY_DATABASE_URL": urls[0],
            "SUPABASE_DB_URL": project.url,
            "REDIS_URL": self.redis.url,
            "MIRROR_MAPPINGS": "app.mappings",
        }
        return Reader(
            home,
            prepared | PEOPLE,
            # Without the password, which a page changes.
            TestDatabase(f"{self.primary.url(name)}?options=-crole%3D{OWNER}"),
            project,
            self.command,
            prepared_again={"PRIMARY_DATABASE_URL": urls[1]},
        )


@pytest.fixture(scope="module")
def servers(
    primary_cluster: PostgresCluster,
    target_cluster: PostgresCluster,
    project_template: str,
    forking_command: ForkingCommand,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Servers]:
    """The servers of all pages."""
    administration = TestDatabase(primary_cluster.url())
    administration.query(f"create role {OWNER} login password '{PASSWORDS[0]}'")
    with RedisServer.start(tmp_path_factory.mktemp("redis")) as redis:
        yield Servers(primary_cluster, target_cluster, redis, project_template, forking_command)
    administration.query(f"drop role {OWNER}")


@pytest.fixture(scope="module")
def after_step(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[int], Reader]]:
    """Return a function that copies what the tutorial's reader has after a step.

    The copies are called `copied`; one exists at a time.
    """
    page = (HOME / "docs" / "tutorial.md").read_text()
    parts = re.split(r"^## \d+\. .*$", page, flags=re.MULTILINE)[1:9]
    folder = tmp_path_factory.mktemp("howto")
    home = folder / "backend"
    home.mkdir()
    servers.create("howto")
    prepare_services(servers.target, "howto")
    reader = servers.reader("howto", home)
    reader.variables |= SETTINGS
    for user in PEOPLE.values():
        reader.project.query("insert into auth.users (id) values (%s)", user)
    reader.alone = True
    for step, part in enumerate(parts, start=1):
        for block in blocks(part):
            reader.do(block)
        if step in STEPS:
            reader.primary.disconnect()
            reader.project.disconnect()
            servers.create(f"howto_{step}", copied="howto")
            shutil.copytree(home, folder / str(step))

    def copy(step: int) -> Reader:
        servers.create("copied", copied=f"howto_{step}")
        reader = servers.reader("copied", folder / "copied")
        shutil.copytree(folder / str(step), reader.home)
        reader.variables |= SETTINGS | reader.prepared
        return reader

    yield copy
    for name in ("howto", *(f"howto_{step}" for step in STEPS)):
        servers.drop(name)


@pytest.fixture
def read_after(
    servers: Servers, after_step: Callable[[int], Reader]
) -> Iterator[Callable[[int], Reader]]:
    """Return the same function for one test."""
    readers: list[Reader] = []

    def copy(step: int) -> Reader:
        readers.append(after_step(step))
        return readers[-1]

    yield copy
    for reader in readers:
        reader.close()
        shutil.rmtree(reader.home)
    servers.drop("copied")
    administration = TestDatabase(servers.primary.url())
    administration.query(f"alter role {OWNER} password '{PASSWORDS[0]}'")


@pytest.mark.long
@pytest.mark.timeout(200)
@pytest.mark.parametrize("path", PLAYED, ids=lambda path: path.stem)
def test_each_block_of_a_page_works_in_order(
    path: Path, read_after: Callable[[int], Reader]
) -> None:
    """Its text, or a comment in it, names the step of the tutorial after which it begins."""
    read_after(PLAYED[path]).play(path.read_text())
