"""`mirror explain`: follow one permission from the primary's row to the policy's answer."""

import json
from contextlib import closing
from typing import Annotated, Final, Literal

import typer
from rich.console import Console

from mirror.access.questions import access_questions
from mirror.cli.reconcile import parse_key
from mirror.diagnostics.explain import (
    Explanation,
    StepStatus,
    explain_key,
    explain_resource,
    explain_table,
    question_about,
)
from mirror.errors import InvalidKey, UsageError
from mirror.model.keys import KeyColumn
from mirror.model.registry import Registry, load_registry
from mirror.settings import load_settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain

_SIGNS: Final = {
    StepStatus.YES: "✓",
    StepStatus.NO: "-",
    StepStatus.BROKEN: "✗",
    StepStatus.UNKNOWN: "?",
}
_STYLES: Final = {StepStatus.YES: "green", StepStatus.NO: "yellow", StepStatus.BROKEN: "bold red"}

Verb = Literal["select", "insert", "update", "delete"]


def explain(
    context: typer.Context,
    user: Annotated[str, typer.Argument(help="The user's id, as Supabase Auth knows it.")],
    resource: Annotated[
        str | None,
        typer.Option(help="What it is about, as trip:ID. `--trip ID` is the same."),
    ] = None,
    mapping: Annotated[
        str | None, typer.Option(help="Or a mirrored row: its mapping, with --key.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Values joined by commas, or JSON.")] = None,
    table: Annotated[
        str | None, typer.Option(help="Or a statement on a table that is guarded or mirrored.")
    ] = None,
    verb: Annotated[Verb, typer.Option(help="With --table: which statement.")] = "select",
    row: Annotated[
        list[str] | None,
        typer.Option(help="With --table: column=value; may be repeated."),
    ] = None,
    show_values: Annotated[
        bool, typer.Option("--show-values", help="Print the rows, personal data included.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say why somebody is allowed or refused, and which step breaks the chain first."""
    settings = load_settings()
    registry = load_registry(settings.mappings)
    user, named = _sorted([user, *context.args])
    if named is not None and resource is not None:
        raise UsageError("ask about one thing: either --resource, or an option of its noun.")
    resource = resource or named
    try:
        user = KeyColumn("id", "uuid").canonical(user, owner="auth.users")
    except InvalidKey:
        raise InvalidKey("USER is the uuid that Supabase Auth gave; this is none.") from None
    if sum(one is not None for one in (resource, mapping, table)) != 1:
        raise UsageError(
            f"say what it is about: {_options(registry)}--mapping with --key, or --table."
        )
    if (mapping is None) != (key is None):
        raise UsageError("--mapping and --key belong together.")
    with closing(build_drain(settings, registry)) as drain:
        page = _ask(drain, user, resource, mapping, key, table, verb, row or [], show_values)
    if as_json:
        print(json.dumps(page.as_json(), indent=2))
    else:
        _print(page)
    raise typer.Exit(page.exit_code)


def _ask(
    drain: Drain,
    user: str,
    resource: str | None,
    mapping: str | None,
    key: str | None,
    table: str | None,
    verb: Verb,
    row: list[str],
    show_values: bool,
) -> Explanation:
    if resource is not None:
        noun, _, value = resource.partition(":")
        question = question_about(drain.registry, noun)
        return explain_resource(drain, question, user, value, show_values=show_values)
    if mapping is not None:
        declared = drain.registry[mapping]
        named = parse_key(declared, key or "")
        return explain_key(drain, declared, named, user, show_values=show_values)
    values = dict(_pair(one) for one in row)
    if not values:
        raise UsageError("--table needs --row column=value, as often as it takes to find the row.")
    return explain_table(drain, table or "", verb, values, user, show_values=show_values)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError("--row takes column=value.")
    return name, value


def _sorted(words: list[str]) -> tuple[str, str | None]:
    """Return the user, and noun:ID if that is given as an option called by the noun.

    Which nouns there are is known too late for them to be options like others, so they come here
    in whatever order they were typed.
    """
    rest = list(words)
    users, named = [], []
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            users.append(word)
            continue
        noun, equals, value = word[2:].partition("=")
        if not equals and rest:
            value = rest.pop(0)
        named.append(f"{noun}:{value}")
    if len(users) != 1 or len(named) > 1 or any(one.endswith(":") for one in named):
        raise UsageError(f"{' '.join(words)!r} is not understood; see `mirror explain --help`.")
    return users[0], named[0] if named else None


def _options(registry: Registry) -> str:
    return "".join(f"--{noun} ID, " for noun in access_questions(registry))


def _print(page: Explanation) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(page.question, style="bold", markup=False)
    for step in page.steps:
        console.print(
            f"{_SIGNS[step.status]} {step.name}: {step.says}",
            style=_STYLES.get(step.status),
            markup=False,
        )
        for line in step.details:
            console.print(f"    {line}", markup=False)
        for name, value in step.values.items():
            console.print(f"    {name} = {value}", markup=False)
    state = "allowed" if page.allowed else "refused"
    first = page.first
    if first is None:
        console.print(f"{state}", style="bold", markup=False)
        return
    if page.allowed and page.primary_grants is False:
        state = "allowed, though the primary grants nothing"
    console.print(f"{state}; first at: {first.name}", style="bold", markup=False)
    if first.remedy:
        console.print(first.remedy, markup=False)
