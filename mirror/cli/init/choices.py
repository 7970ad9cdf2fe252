"""Choices: answers the questions of `mirror init` by a flag, a guess, or by asking the user."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final

from mirror.errors import UsageError

NONE: Final = "none"
"""The value of a flag that says: there is no such table or column."""

_LISTED: Final = 20

Ask = Callable[[str], str]
"""Asks the user one question and returns the answer; empty: none."""


@dataclass(frozen=True)
class Choice:
    """One answer."""

    flag: str
    value: str
    guessed: bool


@dataclass
class Choices:
    """The answers so far, and the ways to get further ones."""

    given: dict[str, tuple[str, ...]]
    """The values of the flags, by flag without the dashes; empty: the flag was not given."""
    ask: Ask | None
    """None: nobody is there to ask."""
    made: list[Choice] = field(default_factory=list)
    """In the order in which they were made."""

    def one(
        self,
        flag: str,
        question: str,
        options: Sequence[str],
        guess: str | None,
        *,
        optional: bool = False,
    ) -> str | None:
        """Return one of `options`; None only if `optional`: there is none.

        Raises:
            UsageError: the flag names none of them; or without a flag, a guess and a terminal, the
                answer is unknown. The message names the flag and the options.
        """
        found = self.several(flag, question, options, (guess,) if guess else (), optional=optional)
        if len(found) > 1:
            raise UsageError(f"--{flag}: give it once.")
        return found[0] if found else None

    def several(
        self,
        flag: str,
        question: str,
        options: Sequence[str],
        guess: Sequence[str],
        *,
        optional: bool = False,
    ) -> tuple[str, ...]:
        """Return some of `options`; empty `options`: any texts. Otherwise the same as `one`."""
        values = self.given.get(flag, ())
        guessed = False
        if not values and guess:
            values, guessed = tuple(guess), True
        elif not values and not optional:
            values = self._asked(flag, question, options)
        if values == (NONE,):
            if not optional:
                raise UsageError(f"--{flag} {NONE}: {question} is needed.")
            values = ()
        for value in values:
            if options and value not in options:
                raise UsageError(f"--{flag}: there is no {value!r}; {_either(options, value)}.")
        if values or not optional or flag in self.given:
            self.made.append(Choice(flag, ", ".join(values) or NONE, guessed))
        return values

    def _asked(self, flag: str, question: str, options: Sequence[str]) -> tuple[str, ...]:
        unknown = f"--{flag} is missing: {question}"
        choice = f"; one of {', '.join(options)}" if 0 < len(options) <= _LISTED else ""
        if self.ask is None:
            raise UsageError(f"{unknown}{choice}.")
        answer = self.ask(f"{question}{choice}")
        values = tuple(part.strip() for part in answer.split(",") if part.strip())
        if not values:
            raise UsageError(f"{unknown}{choice}.")
        return values


def _either(options: Sequence[str], value: str) -> str:
    meant = get_close_matches(value, options, n=1)
    return f"is {meant[0]} meant?" if meant else f"there are {', '.join(options)}"
