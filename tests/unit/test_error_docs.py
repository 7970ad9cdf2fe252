"""The page on errors has each class of the tree, with its remedy, and each SQLSTATE of our own."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

from mirror import errors
from mirror.errors import MirrorError, Permanent, Transient, UsageError
from mirror.errors.sqlstates import classify

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, MirrorError)
]


def drawn() -> dict[str, str | None]:
    """Return the tree of the module's docstring: for each class the one above it."""
    above: list[str] = []
    found: dict[str, str | None] = {}
    for line in (errors.__doc__ or "").splitlines():
        branch = re.match(r"((?:│   |    )*(?:├── |└── )?)([A-Z]\w+)\b", line.removeprefix("    "))
        if branch is None or not line.startswith("    "):
            continue
        depth = len(branch[1]) // 4
        above[depth:] = [branch[2]]
        found[branch[2]] = above[depth - 1] if depth else None
    return found


def test_the_tree_in_the_docstring_is_that_of_the_classes() -> None:
    """A class that is not drawn would be missed by readers of the drawing."""
    assert drawn() == {
        each.__name__: each.__bases__[0].__name__ if each is not MirrorError else None
        for each in CLASSES
    }


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_each_error_says_when_it_is_raised_and_names_a_remedy(error: type[MirrorError]) -> None:
    """The site shows the docstring; an inherited one would speak of another error."""
    text = inspect.cleandoc(error.__dict__["__doc__"])
    assert error is MirrorError or text.startswith("Raised ")
    assert len(re.findall(r"^Remedy: ", text, re.MULTILINE)) == 1


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_the_commands_page_explains_the_exit_code_of_each_error(error: type[MirrorError]) -> None:
    """1 is for every error without a code of its own; each error is of one kind."""
    codes = COMMANDS.split("## Exit codes")[1]
    assert f"| {error.exit_code} |" in codes
    kinds = [kind for kind in (UsageError, Transient, Permanent) if issubclass(error, kind)]
    assert len(kinds) == (0 if error is MirrorError else 1)


def test_the_commands_page_has_the_exit_codes_of_the_command() -> None:
    """Those that the docstring of its entry point lists, and no other."""
    listed = re.findall(r"^\| (\d+) \|", COMMANDS.split("## Exit codes")[1], re.MULTILINE)
    docstring = (
        (import_module("mirror.cli.main").__doc__ or "").split("exit codes:")[1].split("\n\n")[0]
    )
    assert listed == re.findall(r"(?:^ ?|· )(\d+) ", docstring)


def test_the_page_shows_the_whole_tree() -> None:
    """It takes all members of the module."""
    assert "automodule:: mirror.errors\n   :members:" in PAGE


def test_the_page_lists_each_sqlstate_of_our_sql_with_its_error() -> None:
    """Those that functions of the migrations or printed functions raise, and nothing else."""
    files = [*(ROOT / "migrations").rglob("*.sql"), *(ROOT / "mirror").rglob("*.sql")]
    raised = {
        code
        for file in files
        for code in re.findall(r"'(MR\d{3})'", file.read_text(encoding="utf-8"))
    }
    listed = dict(re.findall(r"^\| `(MR\d{3})` \| `?(\w+)`? \|", PAGE, re.MULTILINE))
    assert set(listed) == raised
    for code, error in listed.items():
        assert error in {"none", type(classify(code, "", role="target")).__name__}, code
