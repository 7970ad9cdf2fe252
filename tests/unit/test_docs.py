"""The pages, including README and ARCHITECTURE: the tests, files and links that they name exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# The tests, each as its file's name and its own: what a page writes.
TESTS = {
    (path.name, name)
    for path in (ROOT / "tests").glob("*/test_*.py")
    for name in re.findall(r"def (test_\w+)\(", path.read_text())
}
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def page(path: Path) -> str:
    """Return a page's name, for the id of a test."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PAGES, ids=page)
def test_each_test_that_a_page_calls_a_proof_exists(path: Path) -> None:
    """A page names a test as `file.py::test_name`."""
    for file, name in re.findall(r"`(?:[\w/]*/)?(\w+\.py)::(\w+)`", path.read_text()):
        assert (file, name) in TESTS


def test_each_pattern_of_the_table_has_a_proof() -> None:
    """A row without a test proves nothing."""
    text = (ROOT / "docs" / "models" / "structure.md").read_text()
    rows = text.split("| pattern |")[1].splitlines()[2:]
    rows = [row for row in rows if row.startswith("|")]
    assert len(rows) >= 7
    for row in rows:
        assert re.search(r"`\w+\.py::test_\w+` \|$", row), row


def test_each_threat_has_a_proof_or_is_said_not_to_be_stopped() -> None:
    """A claim without a test is a hope. The table of assets makes none."""
    text = (ROOT / "THREATS.md").read_text().split("## Anon")[1]
    rows = [row for row in text.splitlines() if re.match(r"\| (?!attempt|secret \||---)", row)]
    assert len(rows) >= 40
    for row in rows:
        assert re.search(r"`\w+\.py::test_\w+`", row) or re.search(
            r"not stopped|\*\*everything", row, re.IGNORECASE
        ), row


def test_each_how_to_page_is_in_the_list_of_tasks() -> None:
    """And its link has the words of the page's title, or fewer."""
    folder = ROOT / "docs" / "howto"
    links = re.findall(r"\[([^]]+)\]\(([\w-]+\.md)\)", (folder / "index.md").read_text())
    titles = {
        path.name: path.read_text().splitlines()[0]
        for path in folder.glob("*.md")
        if path.name != "index.md"
    }
    assert sorted(name for _, name in links) == sorted(titles)
    for text, name in links:
        assert titles[name].startswith(f"# {text}"), name


@pytest.mark.parametrize("path", PAGES, ids=page)
def test_each_file_that_a_page_names_or_links_exists(path: Path) -> None:
    """Only files of this repository are checked, without patterns and readers' own files."""
    text = path.read_text()
    folders = "docs|examples|mappings|migrations|mirror|tests|benchmarks"
    for name in re.findall(rf"`((?:{folders})/[\w./]+\.\w+)`", text):
        assert (ROOT / name).exists(), name
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / link).exists(), link


def test_each_word_of_the_glossary_is_explained_once_and_used_elsewhere() -> None:
    """The glossary takes the section of ARCHITECTURE; a word that no other text uses is dead."""
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    start, end = (re.search(rf':{option}: "(.+)"', glossary) for option in ("start.*", "end.*"))
    assert start is not None
    assert end is not None
    before, _, rest = (ROOT / "ARCHITECTURE.md").read_text().partition(f"{start[1]}\n")
    words, _, after = rest.partition(end[1])
    rows = re.findall(r"^\| (?!word |---)(.+?) \|", words, re.MULTILINE)
    names = [name.strip() for row in rows for name in row.split(",")]
    assert len(names) > 40
    assert len(set(names)) == len(names)
    assert after
    texts = [before, after, *(path.read_text() for path in PAGES if path.name != "ARCHITECTURE.md")]
    text = re.sub(r"\s+", " ", " ".join(texts))
    for word in {word for name in names for word in re.findall(r"\w{4,}", name)}:
        assert re.search(rf"\b{word}", text, re.IGNORECASE), word
