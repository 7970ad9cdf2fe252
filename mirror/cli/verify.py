"""`mirror verify`: look at a sample, and change nothing."""

import json
import random
from contextlib import closing
from typing import Annotated

import typer

from mirror.access.questions import access_questions
from mirror.cli.reconcile import print_verdict
from mirror.diagnostics.explain import Audit, audit
from mirror.errors import UsageError
from mirror.model.registry import load_registry
from mirror.reconcile import sample
from mirror.settings import load_settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain


def verify(
    mapping: Annotated[
        str | None, typer.Argument(help="The mapping's name; with --access it may be left out.")
    ] = None,
    count: Annotated[int, typer.Option("--sample", min=1, max=100_000, help="How many.")] = 100,
    seed: Annotated[
        int | None, typer.Option(help="Draw the same again, as long as the keys are the same.")
    ] = None,
    access: Annotated[
        bool, typer.Option("--access", help="Ask the target as users, what it lets them do.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --access: print JSON.")] = False,
) -> None:
    """Read rows drawn at random on both sides again; change nothing."""
    settings = load_settings()
    registry = load_registry(settings.mappings)
    chance = random.Random(seed)  # noqa: S311 - a sample is no secret
    declared = None if mapping is None else registry[mapping]
    with closing(build_drain(settings, registry)) as drain:
        if access:
            raise typer.Exit(_audit(drain, mapping, count, chance, as_json=as_json))
        if declared is None:
            raise UsageError("name a mapping, or say --access.")
        drawn, verdict = sample(drain, declared, count, chance)
    print_verdict(verdict)
    under_way = f", {len(verdict.in_flight)} under way" if verdict.in_flight else ""
    print(
        f"{drawn} row(s) of {mapping} read on both sides: {len(verdict.drifts)} drifted{under_way}"
    )
    raise typer.Exit(1 if verdict.drifts else 0)


def _audit(
    drain: Drain, mapping: str | None, count: int, chance: random.Random, *, as_json: bool
) -> int:
    """Compare what people may do; return the exit code."""
    chosen = [
        question
        for question in access_questions(drain.registry).values()
        if mapping is None or any(mapping == way.rows[-1].mapping for way in question.paths)
    ]
    if not chosen:
        raise UsageError(
            f"nothing in the registry's `access` decides by "
            f"{'any mapping' if mapping is None else repr(mapping)}."
        )
    found = {one.noun: audit(drain, one, count, chance) for one in chosen}
    if as_json:
        print(json.dumps({noun: part.as_json() for noun, part in found.items()}, indent=2))
    else:
        for noun, part in found.items():
            _print_audit(noun, part)
    return 1 if any(part.mismatches for part in found.values()) else 0


def _print_audit(noun: str, found: Audit) -> None:
    for one in found.mismatches:
        print(f"{one.direction}: {one.user} {one.noun} {one.resource}, {one.by}")
    under_way = f", {found.under_way} under way" if found.under_way else ""
    print(
        f"{found.pairs} pair(s) of user and {noun}, {found.granted} of them granted: "
        f"{len({(one.user, one.resource) for one in found.mismatches})} decided otherwise"
        f"{under_way}"
    )
