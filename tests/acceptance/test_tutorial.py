"""docs/tutorial.md, step by step: each file is written, each command and statement runs."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from mirror.devstack import PostgresCluster, RedisServer
from tests.support.databases import TestDatabase
from tests.support.forking import HOME
from tests.support.waiting import until

PAGE = HOME / "docs" / "tutorial.md"
BLOCK = re.compile(r"(?:<!-- (.*?) -->\n\n)?```(\w+)\n(.*?)```", re.DOTALL)


@dataclass
class Reader:
    """A reader of the page, in a directory and with servers of their own."""

    home: Path
    variables: dict[str, str]
    project: TestDatabase
    printed: str = ""
    """The output of the last command."""
    background: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def do(self, language: str, note: str, text: str) -> None:
        """Do what a block of the page says; `note` is the comment before it."""
        if language == "python":
            self._write(note, text)
        elif language == "sh":
            self._run(note, text)
        elif language == "sql":
            self._edit(note, text)
        else:
            assert language == "text"
            for line in text.splitlines():
                assert line in self.printed, line

    def _write(self, note: str, text: str) -> None:
        name, _, place = note.removeprefix("file: ").partition(", ")
        path = self.home / name
        path.parent.mkdir(exist_ok=True)
        before = path.read_text() + "\n" if place else ""
        path.write_text(before + text)

    def _run(self, note: str, text: str) -> None:
        if note.startswith("not run"):
            return
        if note == "set":
            assert set(re.findall(r"(\w+)=", text)) == set(self.variables)
            return
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "PYTHONPATH": str(HOME),
            "PYTHONWARNINGS": "error::DeprecationWarning:app",
        }
        environment |= self.variables
        for command in text.splitlines():
            if note == "in the background":
                with (self.home / "worker.log").open("wb") as log:
                    worker = subprocess.Popen(
                        ["/bin/sh", "-c", f"exec {command}"],
                        cwd=self.home,
                        env=environment,
                        stdout=log,
                        stderr=log,
                    )
                self.background.append(worker)
                continue
            done = subprocess.run(
                ["/bin/sh", "-c", command],
                cwd=self.home,
                env=environment,
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
                stdin=subprocess.DEVNULL,
            )
            self.printed = done.stdout
            expected = int(note.removeprefix("exits with ")) if note else 0
            assert done.returncode == expected, (command, done.stdout, done.stderr)

    def _edit(self, note: str, text: str) -> None:
        """Run statements as the SQL editor does."""
        for name in ("ADA", "EVE"):
            text = text.replace(name, self.variables[name])

        def allowed() -> bool:
            try:
                self.project.query(text)
            except psycopg.errors.InsufficientPrivilege:
                return False
            return True

        if note.endswith(" soon"):
            until(lambda: allowed() is note.startswith("allowed"))
        else:
            assert note in {"", "refused"}
            assert allowed() is (note == "")


@pytest.fixture
def reader(
    primary_cluster: PostgresCluster,
    project: TestDatabase,
    redis_server: RedisServer,
    tmp_path: Path,
) -> Iterator[Reader]:
    """A reader with an empty database, an empty project with two users, and a Redis."""
    primary_cluster.create_database("tutorial")
    users = {name: str(uuid4()) for name in ("ADA", "EVE")}
    for user in users.values():
        project.query("insert into auth.users (id) values (%s)", user)
    home = tmp_path / "backend"
    home.mkdir()
    variables = {
        "PRIMARY_DATABASE_URL": primary_cluster.url("tutorial"),
        "SUPABASE_DB_URL": project.url,
        "REDIS_URL": redis_server.url,
        "MIRROR_MAPPINGS": "app.mappings",
    }
    reader = Reader(home, variables | users, project)
    yield reader
    for process in reader.background:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    primary_cluster.drop_database("tutorial")


# Some twenty processes start one after the other, on a machine that may be busy.
@pytest.mark.timeout(400)
def test_each_step_of_the_tutorial_works_in_order(reader: Reader) -> None:
    """Ada's message stays, Eve's second one was refused; the page counts its steps."""
    page = PAGE.read_text()
    for note, language, text in BLOCK.findall(page):
        reader.do(language, note, text)
    bodies = reader.project.query("select body from messages order by sent_at")
    assert bodies == [("Hello from Ada",), ("Hello from Eve",)]
    assert len(re.findall(r"^## \d+\.", page, re.MULTILINE)) == 9
    assert "Nine steps" in page
