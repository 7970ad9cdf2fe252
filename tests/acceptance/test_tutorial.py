"""docs/tutorial.md, step by step: each file is written, each command and statement runs."""

import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from mirror.devstack import PostgresCluster, RedisServer
from tests.support.databases import TestDatabase
from tests.support.forking import HOME, ForkingCommand
from tests.support.pages import Reader

PAGE = HOME / "docs" / "tutorial.md"


@pytest.fixture
def reader(
    primary_cluster: PostgresCluster,
    project: TestDatabase,
    redis_server: RedisServer,
    tmp_path: Path,
    forking_command: ForkingCommand,
) -> Iterator[Reader]:
    """A reader with an empty database, an empty project with two users, and a Redis."""
    primary_cluster.create_database("tutorial")
    users = {name: str(uuid4()) for name in ("ADA", "EVE")}
    for user in users.values():
        project.query("insert into auth.users (id) values (%s)", user)
    home = tmp_path / "backend"
    home.mkdir()
    primary = TestDatabase(primary_cluster.url("tutorial"))
    prepared = {
        "PRIMARY_DATABASE_URL": primary.url,
        "SUPABASE_DB_URL": project.url,
        "REDIS_URL": redis_server.url,
        "MIRROR_MAPPINGS": "app.mappings",
    }
    reader = Reader(home, prepared | users, primary, project, forking_command)
    yield reader
    reader.close()
    primary_cluster.drop_database("tutorial")


# Some twenty processes start one after the other, on a machine that may be busy.
@pytest.mark.timeout(400)
def test_each_step_of_the_tutorial_works_in_order(reader: Reader) -> None:
    """Ada's message stays, Eve's second one was refused; the page counts its steps."""
    page = PAGE.read_text()
    reader.play(page)
    bodies = reader.project.query("select body from messages order by sent_at")
    assert bodies == [("Hello from Ada",), ("Hello from Eve",)]
    assert len(re.findall(r"^## \d+\.", page, re.MULTILINE)) == 9
    assert "Nine steps" in page
