"""Status page: prints the figures and the failed events with their remedies, or one event."""

from collections.abc import Iterator
from datetime import UTC, datetime
from statistics import median
from typing import Final

from mirror.cli.console import PlainConsole
from mirror.diagnostics.event import EventReport
from mirror.diagnostics.figures import Figures, Unknown
from mirror.diagnostics.primary_figures import LastRun, PrimaryFigures
from mirror.diagnostics.status import exit_code, verdict
from mirror.sync.targets.catalog import Description

_FAILURES: Final = 20
"""So many failed events are printed at most."""


def print_status(figures: Figures) -> None:
    """Print a page: the verdict, then the figures; a part that could not be read is `unknown`."""
    page = PlainConsole()
    style = "bold red" if exit_code(figures) else "bold green"
    for sentence in verdict(figures):
        page.print(sentence, style=style)
    page.print_columns(list(_rows(figures)))
    if isinstance(figures.primary, PrimaryFigures):
        _print_failures(page, figures.primary)


def _print_failures(page: PlainConsole, primary: PrimaryFigures) -> None:
    for failure in primary.failures[:_FAILURES]:
        state = "buried" if failure.buried else "retrying"
        page.print(
            f"  event {failure.id} ({failure.mapping}, {failure.lane}) {state} after "
            f"{failure.attempts} attempt(s): {failure.error}"
        )
    more = primary.retrying + primary.buried - _FAILURES
    if more > 0:
        page.print(f"  … and {more} more: `mirror status --json` has a hundred")


def print_event(report: EventReport) -> None:
    """Print all about one event: keys, but no other value of a row."""
    page = PlainConsole()
    event = report.event
    page.print(f"event {event.id}: {event.subject}")
    rows = [("lane", event.lane)]
    state = event.state
    if event.next_seconds is not None:
        state += f", the next attempt is due in {event.next_seconds:.0f} s"
    rows += [("state", state), ("recorded", f"{event.age_seconds:.0f} s ago")]
    if event.error is not None:
        rows.append(("error", f"{event.error} (after {event.attempts} attempt(s))"))
    if report.no_row is not None:
        rows.append(("names no row", report.no_row))
    for number, comparison in enumerate(report.access):
        rows.append(("" if number else "access now", str(comparison)))
    page.print_columns(rows)
    page.print(report.remedy, style="bold")


def _rows(figures: Figures) -> Iterator[tuple[str, str]]:
    """Yield the lines of the page: name and text."""
    primary, target, broker = figures.primary, figures.target, figures.broker
    if isinstance(primary, Unknown):
        yield "primary", "unknown"
    else:
        yield from _primary_rows(primary)
    if isinstance(target, Unknown):
        yield "target", "unknown"
    else:
        if target.fresh:
            before = min(target.fresh.values())
            age = max(target.stale_seconds.values())
            yield "fresh", f"every revocation before {_time(before)} is in force{_ago(age)}"
        if target.verified is not None:
            yield "verified", f"both sides were equal at {_time(target.verified)}"
        for each in target.withheld:
            text = f"{each.keys} key(s) of {each.mapping} ({each.reason})"
            yield "withheld", text + _oldest(each.seconds)
        digests = figures.digests.items()
        if outdated := [f"{name} {state}" for name, state in digests if state != "current"]:
            yield "mappings", ", ".join(outdated)
    if isinstance(primary, PrimaryFigures) and isinstance(target, Description):
        yield from _pair_rows(primary, target)
    if isinstance(broker, Unknown):
        yield "broker", "unknown"
    elif broker is not None:
        yield "broker", f"{broker.messages} message(s) wait for a worker"


def _pair_rows(primary: PrimaryFigures, target: Description) -> Iterator[tuple[str, str]]:
    """Yield which primary the target expects, and which there is, if they differ."""
    expects, found = (target.identity, target.epoch), (primary.identity, primary.epoch)
    if expects != found and target.identity is not None:
        yield "target expects", f"{target.identity}, epoch {target.epoch}, step {target.step or 0}"
        yield "primary is", f"{primary.identity}, epoch {primary.epoch}"


def _primary_rows(primary: PrimaryFigures) -> Iterator[tuple[str, str]]:
    revocations, grants = primary.waiting_in("revocation"), primary.waiting_in("grant")
    waiting = f"{_count(revocations, 'revocation')}{_oldest(primary.oldest_in('revocation'))}"
    waiting += f"; {_count(grants, 'grant')}{_oldest(primary.oldest_in('grant'))}"
    yield "waiting", waiting
    for each in primary.waiting:
        yield "", f"{each.mapping}, {each.lane}: {each.events}" + _oldest(each.oldest_seconds)
    if primary.set_apart:
        yield "failed", f"{primary.retrying} retrying, {primary.buried} buried"
    for apart in primary.set_apart:
        text = f"{apart.mapping}, {apart.lane}: {apart.retrying} retrying, {apart.buried} buried"
        text += f", {apart.parked} parked" if apart.parked else ""
        text += f", {apart.unclaimed} that no worker takes" if apart.unclaimed else ""
        yield "", text + _oldest(apart.oldest_seconds)
    claims = primary.claims
    if claims.claims:
        held = f"{claims.events} event(s) by {claims.claims} worker(s)"
        yield "claimed", held + _oldest(claims.oldest_seconds)
    if primary.revocations:
        delays = sorted(each.seconds for each in primary.revocations)
        last = f"the last {_count(len(delays), 'revocation')}"
        yield "in force after", f"{median(delays):.2f} s (median), {delays[-1]:.2f} s ({last})"
    seen = [f"{part} {age:.0f} s ago" for part, age in sorted(primary.heartbeats.items())]
    yield "last at work", ", ".join(seen) or "no part ever"
    if primary.last_run is not None:
        yield "reconciled", _run(primary.last_run)


def _run(run: LastRun) -> str:
    return (
        f"{run.age_seconds / 3600:.1f} h ago by {run.started_by}: {run.outcome}, "
        f"{run.over_grants} over-grants, {run.under_grants} under-grants"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _time(moment: str) -> str:
    """Return a moment of the target's clock, to the second and in UTC."""
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _ago(seconds: float) -> str:
    return f", {seconds:.0f} s ago"


def _oldest(seconds: float | None) -> str:
    return "" if seconds is None else f", oldest {seconds:.1f} s"
