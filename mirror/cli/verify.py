"""`mirror verify`: compares a random sample of rows or permissions; changes nothing."""

import json
import random
from contextlib import closing
from typing import Annotated

import typer

from mirror.access.questions import access_questions
from mirror.cli.progress import showing_progress
from mirror.cli.reconcile import print_verdict
from mirror.diagnostics.explain import Audit, audit
from mirror.errors import UsageError
from mirror.errors.redaction import one_line
from mirror.model.registry import load_registry
from mirror.reconcile import sample
from mirror.settings import load_settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain


def verify(
    mapping: Annotated[
        str | None, typer.Argument(help="The mapping's name; optional with --access.")
    ] = None,
    count: Annotated[
        int, typer.Option("--sample", min=1, max=100_000, help="Size of the sample.")
    ] = 100,
    seed: Annotated[
        int | None, typer.Option(help="Draw the same sample again, while the keys are the same.")
    ] = None,
    access: Annotated[
        bool, typer.Option("--access", help="Compare permissions: ask the target as its users.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --access: print JSON.")] = False,
) -> None:
    """Compare a random sample of rows, or of permissions, on both sides; change nothing."""
    settings = load_settings()
    registry = load_registry(settings.mappings)
    rng = random.Random(seed)  # noqa: S311 - a sample is no secret
    declared = None if mapping is None else registry[mapping]
    with closing(build_drain(settings, registry)) as drain:
        if access:
            raise typer.Exit(_audit(drain, mapping, count, rng, as_json=as_json))
        if declared is None:
            raise UsageError("name a mapping, or use --access.")
        with showing_progress() as progress:
            drawn, verdict = sample(drain, declared, count, rng, progress)
    print_verdict(verdict)
    in_flight = f", {len(verdict.in_flight)} in flight" if verdict.in_flight else ""
    in_flight += f", {len(verdict.withheld)} withheld" if verdict.withheld else ""
    print(
        f"{drawn} row(s) of {mapping} compared on both sides: {len(verdict.drifts)} drifted"
        f"{in_flight}"
    )
    raise typer.Exit(1 if verdict.drifts else 0)


def _audit(
    drain: Drain, mapping: str | None, count: int, rng: random.Random, *, as_json: bool
) -> int:
    """Compare permissions on both sides, print those that differ, and return the exit code.

    `mapping` limits the comparison to permissions that its rows decide; None: no limit. The exit
    code is 1 if permissions differ, else 0.
    """
    chosen = [
        question
        for question in access_questions(drain.registry).values()
        if mapping is None or any(mapping == path.rows[-1].mapping for path in question.paths)
    ]
    if not chosen:
        raise UsageError(
            "the registry's `access` has no declaration that uses "
            f"{'any mapping' if mapping is None else f'mapping {mapping!r}'}."
        )
    audits = {question.noun: audit(drain, question, count, rng) for question in chosen}
    if as_json:
        print(json.dumps({noun: part.as_json() for noun, part in audits.items()}, indent=2))
    else:
        for noun, part in audits.items():
            _print_audit(noun, part)
    return 1 if any(part.mismatches for part in audits.values()) else 0


def _print_audit(noun: str, result: Audit) -> None:
    for one in result.mismatches:
        print(one_line(f"{one.direction}: {one.user} {one.noun} {one.resource}, {one.by}"))
    in_flight = f", {result.under_way} in flight" if result.under_way else ""
    differing = {(one.user, one.resource) for one in result.mismatches}
    print(
        f"{result.pairs} pair(s) of user and {noun}, {result.granted} of them granted: "
        f"{len(differing)} differ in the target{in_flight}"
    )
