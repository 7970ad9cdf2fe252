"""Blocks: the blocks of code on the pages of the documentation, and what is done with each.

tests/support/pages.py plays a page, and lists the comments that a block may have before it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"
PAGES = [
    ROOT / "README.md",
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts),
]
"""README and the pages of docs/."""

_BLOCK = re.compile(r"(?:<!-- ((?:(?!-->).)*) -->\n\n)?```([^`\n]+)\n(.*?)```", re.DOTALL)
_STEP = re.compile(r"after\s+step\s+(\d+)\b")


@dataclass(frozen=True)
class Block:
    """One block of code, with the comment before it; empty: there is none."""

    note: str
    language: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of a page, or of a part of it, in order.

    A block without a language would be passed over, so there may be none.
    """
    assert page.count("```") == 2 * len(_BLOCK.findall(page))
    for note, language, text in _BLOCK.findall(page):
        yield Block(note, language, text)


def continues_tutorial(path: Path) -> bool:
    """Whether all blocks of the page belong to the tutorial's backend, its Python included."""
    return path == TUTORIAL or path.parent.name == "howto"


def step_of(path: Path) -> int | None:
    """Return the step of the tutorial after which a page begins; None: it is not played."""
    steps = set(map(int, _STEP.findall(path.read_text(encoding="utf-8"))))
    assert len(steps) <= 1, f"{path.name} begins after several steps: {steps}"
    return next(iter(steps), None)


PLAYED = {path: step for path in PAGES if (step := step_of(path)) is not None}
"""The pages that tests/acceptance/test_howto.py plays, with their steps."""


def find_fault(path: Path, block: Block) -> str:
    """Say why no test would notice a wrong block; empty: one would, or the note says why not."""
    kind, _, value = block.note.partition(": ")
    if kind == "not run":
        return "" if value else "it gives no reason"
    if kind == "tested by":
        test = ROOT / value
        reads = test.is_file() and path.name in test.read_text(encoding="utf-8")
        return "" if reads else f"{value} does not read {path.name}"
    return "" if _is_executed(path, block) else "no test executes it"


def _is_executed(path: Path, block: Block) -> bool:
    """Whether a test executes a block without a note about that, or there is nothing to execute."""
    language = block.language
    if language == "text" or language.startswith("{"):  # output, or a directive for the site
        return True
    if language == "python" and not continues_tutorial(path):
        return block.note != "skip: next"  # tests/unit/test_snippets.py
    if path == ROOT / "README.md":
        return language == "sh"  # .ci/run, by tests/unit/test_blocks.py
    played = path == TUTORIAL or path in PLAYED
    return played and (block.note.startswith("file: ") or language in {"sh", "sql", "diff"})
