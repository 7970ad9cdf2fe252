"""The page on fences and freshness computes as the library does; its drawings suit both schemes."""

import re
from pathlib import Path

import pytest

from mirror.sync.freshness import Look, Marks

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = (DOCS / "protocol.md").read_text(encoding="utf-8")


def test_the_pages_moment_is_the_one_that_a_worker_would_report() -> None:
    """It makes the page's marks one after the other; only the last look sees the revocation."""
    marks = re.findall(r"^\| \d \| `([\d:]+)` \| (\d+) \|$", PAGE, re.MULTILINE)
    waiting = re.search(r"^\| lowest id that waits \| \| (\d+) \|$", PAGE, re.MULTILINE)
    answer = re.search(r"^\| the mapping is fresh as of \| `([\d:]+)` \| \|$", PAGE, re.MULTILINE)
    assert waiting is not None
    assert answer is not None
    assert len(marks) == 3
    worker = Marks()
    fresh: dict[str, str] = {}
    for clock, xmax in marks:
        lowest = int(waiting[1]) if int(waiting[1]) < int(xmax) else None
        look = Look(horizon=int(xmax), outbox=lowest, retries={})
        fresh = worker.fresh(clock, look, ["members"])
    assert fresh == {"members": answer[1]}
    drawing = (DOCS / "freshness.svg").read_text(encoding="utf-8")
    for value in [*(one for mark in marks for one in mark), waiting[1]]:
        assert f">{value}</text>" in drawing
    assert f"fresh as of {answer[1]}" in drawing


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.svg")), ids=lambda path: path.name)
def test_a_drawing_has_a_description_and_colours_for_both_schemes(path: Path) -> None:
    """A reader with a screen reader, or with a dark page, gets the same."""
    drawing = path.read_text(encoding="utf-8")
    assert re.search(r"<title id=\"title\">.+</title>", drawing)
    assert re.search(r"<desc id=\"desc\">.{40,}</desc>", drawing)
    light, _, dark = drawing.partition("@media (prefers-color-scheme: dark)")
    dark = dark.partition("</style>")[0]
    for name in re.findall(r"^    \.([\w-]+) \{", light, re.MULTILINE):
        if "#" in light.split(f".{name} {{")[1].split("}")[0]:
            assert f".{name} {{" in dark or name == "head", name
