"""Console: prints texts as they are, each on one line (rich would interpret some), and asks."""

from collections.abc import Container, Sequence
from typing import Any, Final

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mirror.cli.signals import leave_at_interrupt, raise_at_interrupt
from mirror.errors.redaction import one_line

_UNWRAPPED: Final = 1_000


class PlainConsole(Console):
    """A console on which a text from a database can neither pose as a line, nor as markup.

    A line is as long as its text, and only our own styles color it.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, soft_wrap=True, highlight=False, markup=False, emoji=False)
        if not self.is_terminal:
            # A script that reads a line of a table needs it whole.
            self.width = _UNWRAPPED

    def print_columns(self, rows: Sequence[Sequence[str]], *, right: Container[int] = ()) -> None:
        """Print rows in columns, of which those numbered `right` are aligned to the right.

        A terminal wraps what is longer than its line; nothing is cut.
        """
        texts = [[one_line(cell) for cell in row] for row in rows]
        widths = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
        for row in texts:
            cells = [
                " " * (width - cell_len(cell)) + cell
                if place in right
                else cell + " " * (width - cell_len(cell))
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self.print("  ".join(cells).rstrip())

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text to print; rich calls this for each argument and each cell of a table."""
        return super().render_str(one_line(text), **options)


def confirm(question: str) -> None:
    """Ask a question, and end the command unless the answer is yes.

    Ctrl-C ends it with its own exit code; Typer treats that like the answer no.
    """
    leave_at_interrupt()
    try:
        typer.confirm(question, abort=True)
    finally:
        raise_at_interrupt()
