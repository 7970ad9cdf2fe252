"""The page on options has each argument and option of each command, with its help and default."""

from pathlib import Path
from typing import Any

import pytest

from mirror.cli.app import _load
from mirror.cli.main import COMMANDS

PAGE = Path(__file__).parent.parent.parent / "docs" / "options.md"
PARAMETERS = {name: _load(name, command).params for name, command in COMMANDS.items()}
"""By command, what Typer reads from its function; without `--help`, which each has."""


def usage(name: str) -> str:
    """Return how a command is typed: its arguments, in brackets if they may be left out."""
    words = ["mirror", name]
    for each in PARAMETERS[name]:
        if each.param_type_name == "argument":
            word = str(each.metavar or each.name).upper().strip("[].… ") + "…" * (each.nargs != 1)
            words.append(word if each.required else f"[{word}]")
    return " ".join(words)


def default(parameter: Any) -> str:
    """Return a sentence on the value of an option that is left out; empty if it has none."""
    value = parameter.default
    if parameter.required and parameter.param_type_name == "option":
        return " Required."
    if value in (None, False, (), []) or callable(value) or parameter.required:
        return ""
    return f" Default: `{value}`."


def row(parameter: Any) -> str:
    """Return the row of an argument or option."""
    if parameter.param_type_name == "argument":
        name = str(parameter.metavar or parameter.name).upper().strip("[].… ")
    else:
        name = "`, `".join([*parameter.opts, *parameter.secondary_opts])
    text = (parameter.help or "").replace("|", r"\|")
    return f"| `{name}` | {text}{default(parameter)} |"


def entry(name: str) -> str:
    """Return the section of one command."""
    lines = [f"## mirror {name}", "", COMMANDS[name].summary, ""]
    if usage(name) != f"mirror {name}":
        lines += ["```text", usage(name), "```", ""]
    if PARAMETERS[name]:
        lines += ["| argument or option | meaning |", "| --- | --- |"]
        lines += [*map(row, PARAMETERS[name]), ""]
    return "\n".join(lines)


def test_the_page_lists_the_options_of_every_command() -> None:
    """Copy the printed text to bring the page up to date."""
    expected = "\n".join(map(entry, COMMANDS))
    text = PAGE.read_text(encoding="utf-8")
    assert text[text.index("## mirror ") :] == expected


@pytest.mark.parametrize("name", COMMANDS)
def test_each_argument_and_option_has_a_help_text(name: str) -> None:
    """A sentence, or the start of one."""
    for parameter in PARAMETERS[name]:
        assert parameter.help, (name, parameter.name)
