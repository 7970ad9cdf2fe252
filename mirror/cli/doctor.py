"""`mirror doctor`: checks everything that the mirror depends on."""

import json
from typing import Annotated

import typer

from mirror.cli.console import PlainConsole
from mirror.diagnostics.doctor import Diagnosis, Severity, diagnose
from mirror.model.registry import load_registry
from mirror.settings import load_settings


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 1 for warnings, too.")
    ] = False,
) -> None:
    """Check both sides and the processes between them; print each problem with its remedy."""
    settings = load_settings()
    diagnosis = diagnose(settings, load_registry(settings.mappings))
    if as_json:
        print(json.dumps(diagnosis.as_json(), indent=2))
    else:
        _print(diagnosis)
    raise typer.Exit(diagnosis.exit_code or int(strict and bool(diagnosis.findings)))


def _print(diagnosis: Diagnosis) -> None:
    console = PlainConsole()
    for found in diagnosis.findings:
        style = "bold red" if found.severity is Severity.ERROR else "bold yellow"
        console.print(found.severity.value, style=style, end=" ")
        console.print(f"{found.code}: {found.what}")
        console.print(f"  {found.remedy}")
    if not diagnosis.findings:
        console.print("all is well", style="bold green")
