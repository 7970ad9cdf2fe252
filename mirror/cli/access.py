"""`mirror access`: lists the users of a resource, or the resources of a user."""

import csv
import json
import sys
from contextlib import closing
from typing import Annotated

import typer
from rich.table import Table

from mirror.access.caller import caller
from mirror.access.questions import Given, access_questions
from mirror.cli.console import PlainConsole
from mirror.diagnostics.access_review import MOST, Access, review
from mirror.diagnostics.explain import question_about
from mirror.errors import UsageError
from mirror.model.keys import KeyColumn
from mirror.model.registry import load_registry
from mirror.settings import load_settings
from mirror.sync.wiring import build_drain

_COLUMNS = ("kind", "resource", "user", "level", "since", "by")


def access(
    noun: Annotated[
        str | None, typer.Argument(help="The kind of resource, such as `trip`.")
    ] = None,
    resource: Annotated[str | None, typer.Argument(help="The resource's id.")] = None,
    user: Annotated[
        str | None, typer.Option("--user", help="The user's id; instead of a resource.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """List the users of a resource, or the resources of a user, as row-level security decides.

    The target is asked as each user; nothing is changed.
    """
    if (user is None) is (noun is None) or (noun is None) is not (resource is None):
        raise UsageError("give a kind and an id, such as `trip ID`, or --user ID.")
    if as_json and as_csv:
        raise UsageError("use either --json or --csv.")
    settings = load_settings()
    registry = load_registry(settings.mappings)
    with closing(build_drain(settings, registry)) as drain:
        if user is not None:
            canonical = KeyColumn("user", caller(registry).type).canonical(user, owner="access")
            questions = list(access_questions(registry).values())
            found = review(registry, drain.target, questions, {Given.USER: canonical})
        else:
            question = question_about(registry, str(noun))
            found = review(registry, drain.target, [question], {Given.RESOURCE: str(resource)})
    _print(found.access, as_json=as_json, as_csv=as_csv)
    if found.cut:
        print(
            f"incomplete: more than {MOST} rows of {', '.join(found.cut)} match, and only the "
            f"first {MOST} were followed",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def _print(found: list[Access], *, as_json: bool, as_csv: bool) -> None:
    if as_json:
        print(json.dumps([one.as_json() for one in found], indent=2))
        return
    rows = [
        (
            one.noun,
            one.resource,
            one.user,
            one.level or "refused",
            f"{one.since:%Y-%m-%d %H:%M:%SZ}" if one.since else "",
            "; ".join(one.by),
        )
        for one in found
    ]
    if as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(_COLUMNS)
        writer.writerows(rows)
        return
    table = Table(*_COLUMNS, box=None)
    for row in rows:
        table.add_row(*row)
    PlainConsole().print(table)
