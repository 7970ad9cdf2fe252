"""Kinds: the severity, the text and the remedy that a kind of finding has."""

import string
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """Permissions are wrong, late or lost, or will be after the next change."""
    WARNING = "warning"
    """The mirror works today, but it is slow or one step away from an error."""


@dataclass(frozen=True)
class Check:
    """One kind of finding."""

    severity: Severity
    problem: str
    """The case, as a sentence without the name of a table or setting."""
    effect: str
    """The consequence until it is repaired: why it matters."""
    remedy: str
    """Instructions; words in braces are filled in with the names of a finding."""

    @property
    def generic_remedy(self) -> str:
        """The remedy with placeholders in capitals: `create index on TABLE (COLUMN)`."""
        names = {name for _, name, *_ in string.Formatter().parse(self.remedy) if name}
        return self.remedy.format(**{name: name.upper() for name in names})


def error(problem: str, effect: str, remedy: str) -> Check:
    """Return a kind of finding of severity ERROR."""
    return Check(Severity.ERROR, problem, effect, remedy)


def warning(problem: str, effect: str, remedy: str) -> Check:
    """Return a kind of finding of severity WARNING."""
    return Check(Severity.WARNING, problem, effect, remedy)
