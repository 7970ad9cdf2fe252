"""Steps: what each place on the way says, from the facts. The last one, the decision, is apart."""

from mirror.explain.dropped import dropped
from mirror.explain.facts import Facts
from mirror.explain.page import Step, Word
from mirror.grants import Deciding, Grant
from mirror.postgres import Database
from mirror.reconcile.drift import Kind
from mirror.registry import Registry


def user_step(
    facts: Facts, access: Deciding, user: str, registry: Registry, database: Database
) -> Step:
    """Say whether the user's id is one that a token can have."""
    if facts.trace.users and not facts.trace.known:
        return Step(
            "user",
            Word.BROKEN,
            f"Auth has no user {user}, so no token has this subject: the app's id is not Auth's.",
            "Take the user's id from Auth. If the primary holds others, mirror Auth's beside them: "
            "docs/capture.md, ids that are not Auth's.",
        )
    parent = next((p.mapping for p in facts.mapping.parents if p.column == access.seat[0]), None)
    if facts.trace.known and parent is not None and facts.parents.get((parent, (user,))) is False:
        found = dropped(database, registry[parent], (user,))
        if found and not any(part.there for part in found):
            return Step(
                "user",
                Word.BROKEN,
                f"Auth has user {user}, but {parent} in the primary has nobody of this id: the "
                f"app's id is not Auth's, or the user was deleted there.",
                f"Mirror the ids that Auth gave; {parent} has to yield them.",
            )
    if facts.trace.known:
        return Step("user", Word.YES, f"Auth knows {user}.")
    return Step(
        "user",
        Word.UNKNOWN,
        "Auth has no users here, so that it cannot tell whether a token can have this subject.",
    )


def primary_step(facts: Facts, grant: Grant | None, registry: Registry, database: Database) -> Step:
    """Say what the primary says; `grant` is what its row grants, where somebody asks for that."""
    if facts.row is None:
        return Step("primary", Word.NO, _why(facts, registry, database), _CHANGE)
    if facts.lacking:
        return Step("primary", Word.NO, _why(facts, registry, database), _CHANGE)
    if grant is not None and not grant.levels:
        return Step(
            "primary", Word.NO, f"The row is there and grants nothing: {grant.reason}.", _CHANGE
        )
    reached = f", as {'/'.join(sorted(grant.levels))}" if grant else ""
    return Step("primary", Word.YES, f"The query yields the row{reached}.")


_CHANGE = "If that is wrong, change it in the primary, or the mapping's query."


def _why(facts: Facts, registry: Registry, database: Database) -> str:
    """Say why the primary has no row for the key."""
    if facts.row is not None:
        name, key = facts.lacking[0]
        found = dropped(database, registry[name], key)
        said = "; ".join(map(str, found)) or f"the query of {name} does not yield it"
        return f"The row is there, but not its parent {name} {','.join(key)}: {said}."
    found = dropped(database, facts.mapping, facts.key)
    if not found:
        return (
            "The mapping's query yields no row for this key; which condition drops it is unclear."
        )
    return f"Not in the primary's rows: {'; '.join(map(str, found))}."


def events_step(facts: Facts) -> Step:
    """Say whether a change is on its way, was given up, or was never captured."""
    waits = [event for event in facts.events if not event.buried]
    buried = [event for event in facts.events if event.buried]
    lines = tuple(map(str, facts.events))
    if not facts.differ or facts.newer:
        said = f"{len(waits)} event(s) wait, and nothing differs." if waits else "No event waits."
        return Step("events", Word.YES, said, details=lines)
    if waits:
        return Step(
            "events",
            Word.BROKEN,
            f"The change waits: {len(waits)} event(s) are not mirrored yet.",
            "Run a worker, or `mirror drain`; `mirror status` says whether anything stops them.",
            details=lines,
        )
    if facts.under_way:
        return Step(
            "events",
            Word.BROKEN,
            "A change of a parent, or of more rows than this one, is under way.",
            "Look again in a moment; if it stays, `mirror status` says what stops it.",
            details=lines,
        )
    if buried:
        return Step(
            "events",
            Word.BROKEN,
            f"The change was given up: event {buried[0].id} is buried ({buried[0].error}).",
            f"Mend that, then `mirror retry {buried[0].id}`.",
            details=lines,
        )
    if facts.known.present is None and facts.known.row is None:
        return Step(
            "events",
            Word.BROKEN,
            "Never captured: the row is in the primary, the target never heard of it, and no event "
            "waits.",
            f"`mirror sync {facts.name}` brings it now; whatever wrote it lacks a hook or a "
            f"trigger: docs/capture.md.",
        )
    return Step("events", Word.YES, "No event waits.", details=lines)


def ledger_step(facts: Facts) -> Step:
    """Say what the target remembers, and whether it would take what the primary says."""
    known, stamp, trace = facts.known, facts.stamp, facts.trace
    rebase = "If this primary is the truth, run `mirror rebase`; else correct PRIMARY_DATABASE_URL."
    lines = (
        *(
            f"all under {reference} {value}".rstrip() + f": epoch {epoch}, fence {fence}"
            for _, reference, value, epoch, fence in trace.scopes
        ),
        f"horizon {trace.horizon}",
        f"this read: epoch {stamp.epoch}, fence {stamp.fence}",
    )
    if trace.identity not in {None, stamp.identity} or trace.epoch > stamp.epoch:
        return Step(
            "ledger",
            Word.BROKEN,
            "The target mirrors another primary, or a later epoch.",
            rebase,
            details=lines,
        )
    if facts.newer or (trace.epoch == stamp.epoch and stamp.fence < trace.horizon):
        return Step(
            "ledger",
            Word.BROKEN,
            "The target knows something newer than the primary says now, and refuses what is "
            "older: this primary went back in time.",
            rebase,
            details=lines,
        )
    if known.present is None:
        return Step("ledger", Word.NO, "The target never heard of this key.", details=lines)
    state = "the row" if known.present else "a tombstone"
    said = f"It remembers {state}, of epoch {known.epoch} and fence {known.fence}"
    by_hand = known.edited or known.present != (known.row is not None)
    if facts.drift is not None and not facts.events and not by_hand:
        return Step(
            "ledger",
            Word.BROKEN,
            f"Stale: it remembers {state} as of fence {known.fence}; the primary has changed "
            f"since, and no event told of it.",
            f"`mirror sync {facts.name}` brings it now; whatever wrote it lacks a hook or a "
            f"trigger: docs/capture.md.",
            details=lines,
        )
    return Step("ledger", Word.YES if known.present else Word.NO, f"{said}.", details=lines)


def target_step(facts: Facts, grant: Grant | None) -> Step:
    """Say what row the target has; `grant` is what that grants."""
    known, name = facts.known, "target row"
    mend = f"`mirror sync {facts.name}` sets it right; find out who writes there."
    if known.row is None:
        if known.present:
            return Step(
                name,
                Word.BROKEN,
                "Missing: the ledger says that it was written, so somebody deleted it by hand.",
                mend,
            )
        return Step(name, Word.NO, "There is no row.")
    if facts.drift is not None and (known.edited or not known.present):
        what = "inserted" if facts.drift.kind is Kind.EXTRA else "edited"
        return Step(name, Word.BROKEN, f"Somebody {what} the row by hand.", mend)
    if facts.differ:
        return Step(name, Word.BROKEN, "The row is not what the primary says.", mend)
    if grant is not None and not grant.levels:
        return Step(name, Word.NO, f"The row is there and grants nothing: {grant.reason}.")
    return Step(name, Word.YES, "The row is there, and equal to the primary's.")
