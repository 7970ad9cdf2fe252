"""Table: a table of people and statements, with what each person's statement is expected to do."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mirror.testing.acting import DENIED, Result

Words = dict[str, dict[str, str]]
"""By statement, by person: a word."""

_WORD = re.compile(r"\d+|yes|no|denied|\w+Violation")
_COMPARED: dict[str, Callable[[Result], bool]] = {
    "yes": lambda result: isinstance(result, int) and result > 0,
    "no": lambda result: result in {0, DENIED},
}


@dataclass(frozen=True)
class AccessTable:
    """The expected results: the rows are statements, the columns people."""

    people: tuple[str, ...]
    words: Words

    @classmethod
    def parse(cls, text: str) -> "AccessTable":
        """Read a table: its first line names the people; each other one a statement, then words.

        A word is `yes` (at least one row), `no` (no row, or denied), a number of rows, `denied`, or
        the name of a constraint's error. The name of a statement may have spaces.

        Raises:
            ValueError: the table is empty, names something twice, or has another word, or a line
                has too few.
        """
        lines = [line.split() for line in text.splitlines() if line.strip()]
        if len(lines) < 2:  # noqa: PLR2004 - people, and a statement
            raise ValueError("the table needs a line of people, and one for each statement")
        people, *rows = lines
        expected: Words = {}
        for row in rows:
            name, words = " ".join(row[: -len(people)]), row[-len(people) :]
            if not name:
                raise ValueError(
                    f"{' '.join(row)!r}: expected the name of a statement, and a word for each of "
                    f"{', '.join(people)}"
                )
            if name in expected:
                raise ValueError(f"statement {name!r} has two lines")
            for word in words:
                if not _WORD.fullmatch(word):
                    raise ValueError(
                        f"statement {name!r}: {word!r} is neither a number, nor yes, no, denied or "
                        f"the name of a constraint's error"
                    )
            expected[name] = dict(zip(people, words, strict=True))
        if len(set(people)) < len(people):
            raise ValueError(f"a person has two columns: {' '.join(people)}")
        return cls(tuple(people), expected)

    def difference(self, results: Mapping[str, Mapping[str, Result]]) -> str | None:
        """Return both tables beside each other, if a result is not the expected one.

        A result that is expected is shown by the expected word, others with a `!`.
        """
        actual: Words = {
            name: {
                person: word if _is(word, results[name][person]) else f"!{results[name][person]}"
                for person, word in row.items()
            }
            for name, row in self.words.items()
        }
        if actual == self.words:
            return None
        left, right = self._lines("expected", self.words), self._lines("got", actual)
        return "\n".join(f"{a}   |   {b}".rstrip() for a, b in zip(left, right, strict=True))

    def _lines(self, title: str, table: Words) -> list[str]:
        rows = [[title, *self.people], *([name, *row.values()] for name, row in table.items())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return ["  ".join(map(str.ljust, row, widths)) for row in rows]


def _is(word: str, result: Result) -> bool:
    return _COMPARED[word](result) if word in _COMPARED else word == str(result)
