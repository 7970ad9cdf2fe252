"""Each block of code on a page is executed by a test, or the page says why not."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.support.blocks import PAGES, PLAYED, ROOT, Block, blocks, find_fault

NOT_RUN = 2
"""How many blocks no test can run. A further one wants a good reason."""
PLAYED_PAGE = next(iter(PLAYED))
TABLE = ROOT / "docs" / "versions.md"


def name(path: Path) -> str:
    """Return a page's name, for the id of a test."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_a_test_executes_each_block_of_a_page(path: Path) -> None:
    """All commands, statements and programs; a block without a language is none of them."""
    for block in blocks(path.read_text(encoding="utf-8")):
        assert find_fault(path, block) == "", block


def test_few_blocks_are_not_run() -> None:
    """Each has its reason in a comment before it, and a shell can read it."""
    found = [
        block
        for path in PAGES
        for block in blocks(path.read_text(encoding="utf-8"))
        if block.note.startswith("not run")
    ]
    assert len(found) == NOT_RUN, found
    for block in found:
        subprocess.run(["/bin/sh", "-n"], input=block.text, text=True, check=True)


def test_each_extra_that_a_page_installs_exists() -> None:
    """`pip` would only warn of another one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shown = {
        extra
        for path in PAGES
        for extra in re.findall(r"permission-mirror\[(\w+)\]", path.read_text(encoding="utf-8"))
    }
    assert "serve" in shown
    assert shown <= set(project["optional-dependencies"])


def test_the_check_of_each_pull_request_runs_the_commands_of_the_readme() -> None:
    """As a user types them."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = [
        line.partition("#")[0].strip()
        for block in blocks(readme)
        if block.language == "sh"
        for line in block.text.splitlines()
    ]
    assert "make demo" in shown
    assert set(shown) <= set((ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(
    ("path", "block", "fault"),
    [
        (TABLE, Block("", "sh", "mirror status"), "no test executes it"),
        (TABLE, Block("", "sql", "select 1"), "no test executes it"),
        (PLAYED_PAGE, Block("", "js", "leave()"), "no test executes it"),
        (TABLE, Block("skip: next", "python", "run()"), "no test executes it"),
        (PLAYED_PAGE, Block("not run: ", "sh", "reboot"), "it gives no reason"),
        (
            PLAYED_PAGE,
            Block("tested by: tests/unit/test_blocks.py", "sh", "reboot"),
            f"tests/unit/test_blocks.py does not read {PLAYED_PAGE.name}",
        ),
        (
            PLAYED_PAGE,
            Block("tested by: tests/unit/test_none.py", "sh", "reboot"),
            f"tests/unit/test_none.py does not read {PLAYED_PAGE.name}",
        ),
    ],
    ids=["commands", "statements", "language", "skipped", "reason", "other test", "no test"],
)
def test_a_block_that_no_test_executes_is_noticed(path: Path, block: Block, fault: str) -> None:
    """A new page, a new language, a test that was renamed."""
    assert find_fault(path, block) == fault
