"""Status: the faults that the figures show, and the remedy for each."""

from enum import Enum, auto
from math import inf
from typing import Final

from mirror.diagnostics.durations import duration
from mirror.diagnostics.figures import Figures
from mirror.diagnostics.primary_figures import LastRun, PrimaryFigures
from mirror.sync.pairing import REBASE, Parting
from mirror.sync.targets.catalog import WITHDRAWING, Description

REMEDIES = {
    "mapping-digest": "The target was migrated to other declarations. Run `mirror migrate "
    "supabase`, deploy the workers, then run `mirror resync`.",
    "not-paired": "Nothing is written until then. `docs/restore.md` describes each case.",
    "buried": "Events are buried: fix the errors that they report, then run `mirror retry --all`. "
    "`mirror discard ID` deletes one that can never succeed.",
    "outbox-late": "Start more workers, and look in their log for the reason: they may have other "
    "declarations than the target.",
    "stuck": "Events fail again and again: fix the errors that `mirror status` shows. They are "
    "retried until they succeed, at the latest every five minutes.",
    "parked": "A whole mapping can be neither read nor written, so its events wait and its rows "
    "stay as they are: fix the error that `mirror status` shows. Then the events are mirrored.",
    "unclaimed": "No worker that runs knows these mappings as the target does: deploy workers with "
    "the declarations to which it was migrated, and they take the events. `mirror discard ID` "
    "deletes those of a mapping that is gone for good.",
    "stale": "Policies refuse every user until workers have caught up: start them, and fix what "
    "`mirror status` shows, or discard events that can never succeed. MIRROR_FRESH_SECONDS must be "
    "set on workers and on beat.",
    "failed-over": "What was committed just before the fail-over may be lost there, without an "
    "event. Run `mirror reconcile`.",
    "withheld": "Keys may have lost access and can be neither read nor written, so they grant "
    "nothing: fix the errors that `mirror status` shows. If none is about such a key, run `mirror "
    "sync` for it.",
    "last-reconcile": "The last reconcile did not repair everything. Run `mirror reconcile`; if it "
    "holds deletes back, it prints the command that confirms them.",
    "two-schedulers": "Both beat and the platform's scheduler start reconciles. Set "
    "MIRROR_RECONCILE_CRON=off, or remove the platform's job.",
}
"""The remedy for each fault, also shown by `mirror doctor`."""


def find_faults(figures: Figures) -> dict[str, str]:
    """Return each fault, as a key of REMEDIES, with a sentence about it.

    Parts that are Unknown are not looked at: they are worse than faults (`exit_code`).
    """
    primary, target = figures.primary, figures.target
    faults = {}
    outdated = sorted(name for name, state in figures.digests.items() if state != "current")
    if outdated:
        names = ", ".join(outdated)
        faults["mapping-digest"] = f"target: it was migrated to another version of {names}"
    if isinstance(figures.parting, Parting):
        faults["not-paired"] = str(figures.parting)
    elif (
        isinstance(target, Description)
        and isinstance(primary, PrimaryFigures)
        and target.epoch > primary.epoch
    ):
        faults["not-paired"] = (
            f"the target expects {target.identity}, epoch {target.epoch}; this primary is "
            f"{primary.identity}, epoch {primary.epoch}. {REBASE}"
        )
    if isinstance(target, Description) and target.failed_over is not None:
        faults["failed-over"] = f"a server of the pair failed over before {target.failed_over}"
    if figures.stale:
        faults["stale"] = _stale(figures)
    if isinstance(target, Description):
        withheld = [each for each in target.withheld if each.reason != WITHDRAWING]
        if withheld:
            keys = ", ".join(f"{each.keys} of {each.mapping} ({each.reason})" for each in withheld)
            faults["withheld"] = f"target: keys are withheld: {keys}"
    if isinstance(primary, PrimaryFigures):
        faults |= _primary_faults(primary)
        oldest = primary.oldest_seconds
        if oldest is not None and oldest > figures.late_seconds:
            minutes = f"{oldest / 60:.0f} min"
            faults["outbox-late"] = f"primary: the oldest event has been waiting for {minutes}"
    return faults


def _stale(figures: Figures) -> str:
    message = f"target: older than {figures.max_staleness:g} s: {', '.join(figures.stale)}"
    if isinstance(figures.primary, PrimaryFigures):
        failed = [
            f"{each.holding_back} of {each.mapping}"
            for each in figures.primary.set_apart
            if each.holding_back and each.mapping in figures.stale
        ]
        if failed:
            message += f"; held back by events that failed: {', '.join(failed)}"
    return message


def _primary_faults(primary: PrimaryFigures) -> dict[str, str]:
    faults = {}
    if primary.parked:
        faults["parked"] = f"primary: events wait for a fault of {', '.join(primary.parked)}"
    if primary.unclaimed:
        faults["unclaimed"] = f"primary: no worker takes events of {', '.join(primary.unclaimed)}"
    if primary.buried:
        faults["buried"] = f"primary: {primary.buried} event(s) are buried"
    if primary.stuck:
        faults["stuck"] = f"primary: {primary.stuck} event(s) have failed for more than a minute"
    run = primary.last_run
    if run is not None and run.outcome in {"held back", "drift", "failed"}:
        faults["last-reconcile"] = f"primary: the last reconcile ended with outcome {run.outcome!r}"
    if primary.two_schedulers:
        faults["two-schedulers"] = (
            "primary: within a week, both beat and the platform's scheduler have started reconciles"
        )
    return faults


def verdict(figures: Figures) -> list[str]:
    """Return sentences about the state of the mirror, the most important first.

    There is one for each part that is Unknown and for each fault; if there is neither, one on what
    goes on.
    """
    unread = [f"{name.replace('_', ' ')}: it could not be read." for name in figures.unknown]
    faults = [
        f"{message.removesuffix('.')}. {REMEDIES[fault]}"
        for fault, message in find_faults(figures).items()
    ]
    found = [*unread, *faults]
    if not found and isinstance(figures.primary, PrimaryFigures):
        found.append(progress(figures.primary)[1])
    return found


# In seconds. A worker that drains notes it about twice a minute; one that nobody wakes does not.
_SOON: Final = 15.0
_AT_WORK: Final = 90.0


class Stage(Enum):
    """How far a mirror without a fault is."""

    WELL = auto()
    BUSY = auto()
    """Work is under way."""
    INCOMPLETE = auto()
    """A command has to be run."""


def progress(primary: PrimaryFigures) -> tuple[Stage, str]:
    """Return how far a mirror without a fault is, and a sentence that says so."""
    oldest = f"{primary.oldest_seconds or 0:.1f} s"
    run = primary.last_run
    drained = primary.heartbeats.get("drain", inf)
    stages = [
        (
            primary.reconciling,
            Stage.BUSY,
            f"Nothing is wrong; a reconcile runs ({primary.reconciling}).",
        ),
        (
            primary.loading,
            Stage.INCOMPLETE,
            f"First load incomplete ({', '.join(primary.loading)}): run `mirror reconcile`.",
        ),
        (
            primary.retrying,
            Stage.BUSY,
            f"{primary.retrying} event(s) failed lately and are retried.",
        ),
        (
            (primary.oldest_seconds or 0) > _SOON and drained > _AT_WORK,
            Stage.INCOMPLETE,
            f"Changes wait, the oldest for {oldest}; {_idle(drained)}. Does one run?",
        ),
        (
            primary.oldest_seconds is not None,
            Stage.BUSY,
            f"Nothing is wrong; changes wait, the oldest for {oldest}.",
        ),
        (
            run is None,
            Stage.INCOMPLETE,
            "No event waits, but both sides were never compared: run `mirror reconcile`.",
        ),
    ]
    well = "All is well: every change that was recorded is in force"
    found = [(stage, says) for holds, stage, says in stages if holds]
    return next(iter(found), (Stage.WELL, f"{well}{_compared(run)}."))


def _idle(seconds: float) -> str:
    """Return since when no worker has drained."""
    return (
        "no worker has ever drained"
        if seconds == inf
        else (f"no worker has drained for {duration(seconds)}")
    )


def _compared(run: LastRun | None) -> str:
    """Return when both sides were compared: only that finds a change that was not recorded."""
    if run is None:
        return ""
    ago = f"{duration(run.age_seconds)} ago"
    if run.outcome == "stopped":
        return f"; the last comparison of both sides was stopped, {ago}"
    return f"; both sides were compared {ago}"


def exit_code(figures: Figures) -> int:
    """Return 0 if everything is known and without fault: only then the mirror is well.

    Otherwise return the exit code of the first error that kept a part from being read, or 1.
    """
    for error in figures.unknown.values():
        return error.exit_code
    return int(bool(find_faults(figures)))
