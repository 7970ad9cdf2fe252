"""`mirror check`: checks settings and declarations without any server, as in CI."""

from typing import Annotated

import typer

from mirror.cli.console import PlainConsole
from mirror.diagnostics.offline import check_offline


def check(
    models: Annotated[
        list[str] | None,
        typer.Option(help="A module of SQLAlchemy models that ORM capture sees; may be repeated."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 1 for warnings, too.")
    ] = False,
) -> None:
    """Check settings, mappings, printed SQL and models; connect to nothing, as in CI."""
    report = check_offline(models or [])
    console = PlainConsole()
    for style, severity, sentences in (
        ("bold red", "error", report.errors),
        ("bold yellow", "warning", report.warnings),
        ("green", "ok", report.passed),
    ):
        for sentence in sentences:
            console.print(f"{severity}:", style=style, end=" ")
            console.print(sentence)
    raise typer.Exit(2 if report.errors else int(strict and bool(report.warnings)))
