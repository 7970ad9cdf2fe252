"""`mirror explain`: explains one permission, from the primary's row to the policies."""

import json
from contextlib import closing
from typing import Annotated, Final, Literal

import typer

from mirror.access.caller import caller
from mirror.access.questions import access_questions
from mirror.cli.console import PlainConsole
from mirror.cli.reconcile import parse_key
from mirror.diagnostics.explain import (
    Explanation,
    StepStatus,
    explain_channel,
    explain_file,
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
    user: Annotated[str, typer.Argument(help="The user's id, as tokens carry it.")],
    resource: Annotated[
        str | None,
        typer.Option(help="The resource, as trip:ID. `--trip ID` means the same."),
    ] = None,
    mapping: Annotated[
        str | None, typer.Option(help="Instead: the mapping of one mirrored row, with --key.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="With --mapping: values joined by commas, or a JSON list.")
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(help="Instead: a guarded or mirrored table, with --verb and --row."),
    ] = None,
    channel: Annotated[
        str | None, typer.Option(help="Instead: the topic of a private channel, as trip:ID.")
    ] = None,
    file: Annotated[
        str | None, typer.Option(help="Instead: a file in Storage, as BUCKET/PATH, with --verb.")
    ] = None,
    verb: Annotated[Verb, typer.Option(help="With --table or --file: the statement.")] = "select",
    row: Annotated[
        list[str] | None,
        typer.Option(help="With --table: column=value; may be repeated."),
    ] = None,
    show_values: Annotated[
        bool, typer.Option("--show-values", help="Print the rows, including personal data.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain why a user is allowed or refused, and name the first step that decides it."""
    settings = load_settings()
    registry = load_registry(settings.mappings)
    user, noun_option = _parse_arguments([user, *context.args])
    if noun_option is not None and resource is not None:
        raise UsageError("give one resource: use either --resource or the option of its noun.")
    resource = resource or noun_option
    try:
        user = KeyColumn("id", caller(registry).type).canonical(user, owner="auth.users")
    except InvalidKey:
        raise InvalidKey("USER must be the UUID that Supabase Auth assigned.") from None
    if sum(one is not None for one in (resource, mapping, table, channel, file)) != 1:
        raise UsageError(
            f"give exactly one subject: {_noun_options(registry)}--mapping with --key, --table, "
            f"--channel or --file."
        )
    if (mapping is None) != (key is None):
        raise UsageError("--mapping and --key need each other.")
    with closing(build_drain(settings, registry)) as drain:
        if channel is not None:
            explanation = explain_channel(drain, channel, user, show_values=show_values)
        elif file is not None:
            bucket, path = _bucket_and_path(file)
            explanation = explain_file(drain, bucket, path, verb, user, show_values=show_values)
        else:
            explanation = _explain(
                drain, user, resource, mapping, key, table, verb, row or [], show_values
            )
    if as_json:
        print(json.dumps(explanation.as_json(), indent=2))
    else:
        _print(explanation)
    raise typer.Exit(explanation.exit_code)


def _explain(
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
        parsed = parse_key(declared, key or "")
        return explain_key(drain, declared, parsed, user, show_values=show_values)
    values = dict(_column_value(one) for one in row)
    if not values:
        raise UsageError("--table needs --row column=value, for each column that finds the row.")
    return explain_table(drain, table or "", verb, values, user, show_values=show_values)


def _bucket_and_path(text: str) -> tuple[str, str]:
    """Return the bucket and the path of an argument `BUCKET/PATH`, or raise UsageError."""
    bucket, _, path = text.partition("/")
    if not bucket or not path:
        raise UsageError("--file needs the form BUCKET/PATH.")
    return bucket, path


def _column_value(text: str) -> tuple[str, str]:
    """Return column and value of an argument `column=value`, or raise UsageError."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError("--row needs the form column=value.")
    return name, value


def _parse_arguments(arguments: list[str]) -> tuple[str, str | None]:
    """Return the user, and the resource as `noun:ID` if an option `--noun ID` is given, else None.

    `arguments` are the user and that option, in any order. Typer passes both here, because the
    registry's nouns are unknown when it parses the options.

    Raises:
        UsageError: there is not exactly one user, more than one resource, or an option has no
            value.
    """
    rest = list(arguments)
    users, resources = [], []
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            users.append(argument)
            continue
        noun, equals, value = argument[2:].partition("=")
        if not equals and rest:
            value = rest.pop(0)
        resources.append(f"{noun}:{value}")
    if len(users) != 1 or len(resources) > 1 or any(one.endswith(":") for one in resources):
        raise UsageError(
            f"cannot parse {' '.join(arguments)!r}; see `mirror explain --help` for the usage."
        )
    return users[0], resources[0] if resources else None


def _noun_options(registry: Registry) -> str:
    """Return the options by which a resource can be given, for a message: `--trip ID, `."""
    return "".join(f"--{noun} ID, " for noun in access_questions(registry))


def _print(explanation: Explanation) -> None:
    console = PlainConsole()
    console.print(explanation.question, style="bold")
    for step in explanation.steps:
        console.print(
            f"{_SIGNS[step.status]} {step.name}: {step.says}",
            style=_STYLES.get(step.status),
        )
        for line in step.details:
            console.print(f"    {line}")
        for name, value in step.values.items():
            console.print(f"    {name} = {value}")
    answer = "allowed" if explanation.allowed else "refused"
    first = explanation.first
    if first is None:
        console.print(answer, style="bold")
        return
    if explanation.allowed and explanation.primary_grants is False:
        answer = "allowed, but the primary grants nothing"
    elif explanation.allowed:
        # The step is about something else that belongs to the resource, such as a guarded table.
        console.print(f"allowed, but something is wrong: {first.says}", style="bold")
        console.print(first.remedy or "")
        return
    console.print(f"{answer}; decisive step: {first.name}", style="bold")
    if first.remedy:
        console.print(first.remedy)
