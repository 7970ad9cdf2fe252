"""docs/tutorial.md, step by step: each file is written, each command runs on the page's servers."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.blocks import blocks
from tests.support.databases import TestDatabase
from tests.support.forking import HOME, ForkingCommand
from tests.support.pages import Reader

PAGE = (HOME / "docs" / "tutorial.md").read_text()
NOWHERE = TestDatabase("postgresql://127.0.0.1:1/nowhere")


@pytest.fixture
def reader(tmp_path: Path, forking_command: ForkingCommand) -> Iterator[Reader]:
    """A reader with an empty directory, and nothing else."""
    reader = Reader(tmp_path, {}, NOWHERE, NOWHERE, forking_command)
    yield reader
    reader.close()


@pytest.mark.long
# Some twenty processes start one after the other, on a machine that may be busy.
@pytest.mark.timeout(400)
def test_each_step_of_the_tutorial_works_in_order(reader: Reader) -> None:
    """Ada's message stays, Eve's second one was refused; the page counts its steps."""
    reader.play(PAGE)
    project = TestDatabase(reader.variables["SUPABASE_DB_URL"])
    bodies = project.query("select body from messages order by sent_at")
    assert bodies[:2] == [("Hello from Ada",), ("Hello from Eve",)]
    # Written before the removal was in force, if any: the page's command is repeated until refused.
    assert {body for (body,) in bodies[2:]} <= {"Still here?"}
    assert len(re.findall(r"^## \d+\.", PAGE, re.MULTILINE)) == 10
    assert "Ten steps" in PAGE


def installed_by(line: str) -> set[str]:
    """Return the distributions that an install line brings, those that they require included."""
    found: set[tuple[str, str]] = set()
    todo = [Requirement(line)]
    while todo:
        one = todo.pop()
        for extra in one.extras | {""}:
            each = (canonicalize_name(one.name), extra)
            if each in found:
                continue
            found.add(each)
            try:
                requires = distribution(one.name).requires or []
            except PackageNotFoundError:  # of another platform
                continue
            todo += [
                required
                for required in map(Requirement, requires)
                if required.marker is None or required.marker.evaluate({"extra": extra})
            ]
    return {name for name, _ in found}


# Finds no module of a package that the install line does not bring, and calls an action, so that
# a driver is loaded, too.
PROGRAM = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

missing = set(sys.argv[1:])
sys.meta_path.insert(0, Missing())
import chat, mirror.cli.app, mirror.devstack, mirror.worker
from app import services
services.create_tables()
"""


def test_the_line_of_step_1_installs_all_that_the_tutorial_imports(reader: Reader) -> None:
    """The backend gets as far as to its database, which does not answer here."""
    (line,) = re.findall(r'^pip install "(.*)"$', PAGE, re.MULTILINE)
    brought = installed_by(line)
    missing = [
        module
        for module, names in packages_distributions().items()
        if not brought & {canonicalize_name(name) for name in names}
    ]
    assert {"asyncpg", "greenlet", "pytest"} <= set(missing)
    for block in blocks(PAGE.partition("## 7.")[0]):
        if block.note.startswith("file: ") and block.language != "sh":
            reader.do(block)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *missing],
        cwd=reader.home,
        env={
            "PATH": "",
            "PYTHONPATH": f"{reader.home}:{HOME}",
            "PRIMARY_DATABASE_URL": "postgres://127.0.0.1:1/nowhere?sslmode=prefer",
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "MIRROR_MAPPINGS": "mappings.trips",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert "sqlalchemy.exc.OperationalError" in done.stderr, done.stderr
