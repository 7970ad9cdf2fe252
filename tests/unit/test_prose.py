"""The count of hard words: which text counts, and towards which path."""

import tomllib
from pathlib import Path

from tests.prose import ROOT, check, count, prose

CODE = '''"""Whoever reads this."""

WHO = "who"  # whose is this?


class Thing:
    """A class."""

    name = 1
    """Somebody's name."""

    def run(self) -> str:
        """Return it."""
        return "nobody"
'''


def write(root: Path, name: str, text: str) -> None:
    """Write a file under the test's own root."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def limits(root: Path, **values: float) -> None:
    """Write the limits, one for each path."""
    rows = "\n".join(f'"{name}" = {value}' for name, value in values.items())
    write(root, "pyproject.toml", f"[tool.prose.limits]\n{rows}\n")


def test_comments_and_docstrings_count_and_code_does_not() -> None:
    """Docstrings of attributes count, too; strings and names do not."""
    lines = dict(prose(CODE, ".py"))
    assert lines == {
        1: "Whoever reads this.",
        3: "# whose is this?",
        7: "A class.",
        10: "Somebody's name.",
        13: "Return it.",
    }


def test_documents_count_without_their_code() -> None:
    """Neither fenced nor inline code is prose."""
    text = "Such a page.\n\n```\nwho\n```\n\nThe key `what` is a name.\n"
    assert [line for _, line in prose(text, ".md")] == [
        "Such a page.",
        "",
        "",
        "",
        "",
        "",
        "The key  is a name.",
    ]


def test_a_file_counts_towards_its_most_specific_path_only(tmp_path: Path) -> None:
    """A folder with its own limit does not count towards its parent."""
    write(tmp_path, "lib/one.md", "plain words")
    write(tmp_path, "lib/room/two.md", "who knows")
    counts = count(tmp_path, {"lib": 6, "lib/room": 6})
    assert (counts["lib"].words, counts["lib"].hard) == (2, 0)
    assert (counts["lib/room"].words, counts["lib/room"].hard) == (2, 1)


def test_a_path_over_its_limit_is_named(tmp_path: Path) -> None:
    """The message has the figure, and says how to see the lines."""
    limits(tmp_path, good=6, bad=6)
    write(tmp_path, "good/page.md", "plain words only")
    write(tmp_path, "bad/page.md", "nobody knows")
    (message,) = check(tmp_path)
    assert message.startswith("bad: 500.0 hard words per 1,000, at most 6; ")


def test_each_folder_with_prose_has_a_limit() -> None:
    """Otherwise a new folder or document could be forgotten."""
    names = {
        path.name
        for path in ROOT.iterdir()
        if not path.name.startswith(".")
        and (path.suffix == ".md" or (path.is_dir() and any(path.glob("*.py"))))
    }
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["prose"]["limits"]
    assert names
    assert names <= set(table)
