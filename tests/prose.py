"""Prose: counts the words that make a sentence hard to read, in comments, docstrings and documents.

A sentence that opens with "Who …" or "What …" and means a thing, or speaks of "somebody" where a
user is meant, has to be read twice. `make lint` runs this file: it compares the hard words per
1,000 words of each path with the limits in pyproject.toml.

    python tests/prose.py            compare every path with its limit
    python tests/prose.py -v PATH    print each line of PATH that holds a hard word
"""

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
HARD: Final = re.compile(
    r"\b(who|whom|whose|whoever|what|whatever|such|somebody|someone|nobody|anybody|everybody)\b",
    re.IGNORECASE,
)
_WORD: Final = re.compile(r"[A-Za-z']+")
_FENCED: Final = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_INLINE: Final = re.compile(r"`[^`\n]*`")
_SKIPPED: Final = frozenset({".git", ".venv", ".venvs", "_build", "node_modules"})

Line = tuple[int, str]
"""A line's number and its prose."""


@dataclass
class Count:
    """How many words a text has, and how many of them are hard."""

    words: int = 0
    hard: int = 0

    @property
    def per_thousand(self) -> float:
        """Hard words per 1,000 words."""
        return 1000 * self.hard / max(self.words, 1)

    def add(self, text: str) -> int:
        """Count one line; return how many hard words it has."""
        hard = len(HARD.findall(text))
        self.words += len(_WORD.findall(text))
        self.hard += hard
        return hard


def prose(text: str, suffix: str) -> Iterator[Line]:
    """Yield the prose of a file by line: of Markdown all but code, of Python all but code, too."""
    if suffix == ".md":
        text = _FENCED.sub(lambda block: "\n" * block[0].count("\n"), text)
        yield from enumerate(_INLINE.sub("", text).splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        # A string that stands alone as a statement is a docstring, of an attribute too.
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield from enumerate(node.value.value.splitlines(), node.lineno)


def files(path: Path) -> Iterator[Path]:
    """Yield the Python files and documents under a path, which may be a file itself."""
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    for file in found:
        if file.suffix in {".py", ".md"} and not _SKIPPED & set(file.parts):
            yield file


def owner(file: Path, paths: list[Path]) -> Path | None:
    """Return the most specific of these paths that holds the file, or None."""
    holders = [path for path in paths if file.is_relative_to(path)]
    return max(holders, key=lambda path: len(path.parts), default=None)


def count(root: Path, limits: dict[str, float]) -> dict[str, Count]:
    """Return the count of each path that has a limit; a file counts once."""
    counts = {name: Count() for name in limits}
    names = {root / name: name for name in limits}
    for path in names:
        for file in files(path):
            if owner(file, list(names)) == path:
                for _, line in prose(file.read_text(encoding="utf-8"), file.suffix):
                    counts[names[path]].add(line)
    return counts


def show(paths: list[Path]) -> None:
    """Print each line with a hard word, then the count."""
    total = Count()
    for path in paths:
        for file in files(path):
            for number, line in prose(file.read_text(encoding="utf-8"), file.suffix):
                if total.add(line):
                    print(f"{file}:{number}: {line.strip()}")
    print(f"{total.hard} of {total.words} words: {total.per_thousand:.1f} per 1,000")


def check(root: Path) -> list[str]:
    """Return one message for each path that has more hard words than its limit allows."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    limits: dict[str, float] = settings["tool"]["prose"]["limits"]
    return [
        f"{name}: {each.per_thousand:.1f} hard words per 1,000, at most {limits[name]:g}; "
        f"see them with: python tests/prose.py -v {name}"
        for name, each in count(root, limits).items()
        if each.per_thousand > limits[name]
    ]


def main(arguments: list[str]) -> int:
    """Return the exit code: 1 if a limit is exceeded."""
    if "-v" in arguments:
        show([Path(argument) for argument in arguments if argument != "-v"] or [ROOT])
        return 0
    messages = check(ROOT)
    for message in messages:
        print(message, file=sys.stderr)
    return int(bool(messages))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
