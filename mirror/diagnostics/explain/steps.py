"""Steps: what each place on the way says, from the facts. The last one, the decision, is apart."""

from psycopg import sql

from mirror.access.questions import Grant
from mirror.diagnostics.explain.explanation import Step, StepStatus
from mirror.diagnostics.explain.key_state import KeyState
from mirror.diagnostics.explain.missing_row import missing_row_reasons
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.reconcile.drift import Kind
from mirror.sync.connections import Database
from mirror.sync.targets.asking import Trace


def user_step(
    trace: Trace,
    user: str,
    of_user: KeyState | None,
    column: str,
    registry: Registry,
    database: Database,
) -> Step:
    """Say whether the user's id is one that a token can have.

    `of_user` is about the row by which the user is known, in that column; None: there is none.
    """
    if trace.users and not trace.known:
        return Step(
            "user",
            StepStatus.BROKEN,
            f"Auth has no user {user}, so no token has this subject: the app's id is not Auth's.",
            "Take the user's id from Auth. If the primary holds others, mirror Auth's beside them: "
            "docs/capture.md, ids that are not Auth's.",
        )
    parents = of_user.mapping.parents if of_user is not None else ()
    parent = next((p.mapping for p in parents if p.column == column), None)
    if (
        trace.known
        and of_user is not None
        and parent is not None
        and of_user.parents.get((parent, (user,))) is False
    ):
        found = missing_row_reasons(database, registry[parent], {registry[parent].key[0]: user})
        if found and not any(part.there for part in found):
            return Step(
                "user",
                StepStatus.BROKEN,
                f"Auth has user {user}, but {parent} in the primary has nobody of this id: the "
                f"app's id is not Auth's, or the user was deleted there.",
                f"Mirror the ids that Auth gave; {parent} has to yield them.",
            )
    if trace.known:
        return Step("user", StepStatus.YES, f"Auth knows {user}.")
    why = "Auth has no users here" if trace.users is False else "Auth's users cannot be read"
    return Step(
        "user", StepStatus.UNKNOWN, f"{why}, so whether a token can have this subject is unknown."
    )


def primary_step(
    facts: KeyState, grant: Grant | None, registry: Registry, database: Database
) -> Step:
    """Say what the primary says; `grant` is what its row grants, where somebody asks for that."""
    if facts.row is None or facts.lacking:
        return Step("primary", StepStatus.NO, _why(facts, registry, database), CHANGE)
    if grant is not None and not grant.levels:
        said = f"The row is there and grants nothing: {grant.reason}."
        return Step("primary", StepStatus.NO, said, CHANGE)
    reached = f", as {'/'.join(sorted(grant.levels))}" if grant else ""
    return Step("primary", StepStatus.YES, f"The query yields the row{reached}.")


CHANGE = "If that is wrong, change it in the primary, or the mapping's query."


def _why(facts: KeyState, registry: Registry, database: Database) -> str:
    """Say why the primary has no row for the key."""
    if facts.row is not None:
        name, key = facts.lacking[0]
        found = missing_row_reasons(
            database, registry[name], dict(zip(registry[name].key, key, strict=True))
        )
        said = "; ".join(map(str, found)) or f"the query of {name} does not yield it"
        return f"The row is there, but not its parent {name} {','.join(key)}: {said}."
    return absence_reason(
        facts.mapping, dict(zip(facts.mapping.key, facts.key, strict=True)), database
    )


def absence_reason(mapping: Mapping, wanted: dict[str, str], database: Database) -> str:
    """Say why the primary yields no row with these values."""
    if mapping.expires is not None and _expired(mapping, wanted, database):
        return f"The row is there and grants nothing: its {mapping.expires} is past."
    found = missing_row_reasons(database, mapping, wanted)
    if not found:
        return (
            f"The query of {mapping.name} yields no such row; which condition drops it is unclear."
        )
    return f"Not in the primary's rows: {'; '.join(map(str, found))}."


def _expired(mapping: Mapping, wanted: dict[str, str], database: Database) -> bool:
    """Return whether it is only for its time that the primary does not yield a row."""
    types = {column.name: column.type for column in mapping.columns}
    same = sql.SQL(" and ").join(
        sql.SQL("q.{} = %s::text::{}").format(sql.Identifier(name), sql.SQL(types[name]))
        for name in wanted
    )
    query = sql.SQL("select from ({}) as q where {} limit 1").format(sql.SQL(mapping.sql), same)
    return bool(database.execute(query, [*wanted.values()]))


def events_step(facts: KeyState) -> Step:
    """Say whether a change is on its way, was given up, or was never captured."""
    waits = [event for event in facts.events if not event.buried]
    buried = [event for event in facts.events if event.buried]
    lines = tuple(map(str, facts.events))
    if not facts.differ or facts.newer:
        said = f"{len(waits)} event(s) wait, and nothing differs." if waits else "No event waits."
        return Step("events", StepStatus.YES, said, details=lines)
    if waits:
        return Step(
            "events",
            StepStatus.BROKEN,
            f"The change waits: {len(waits)} event(s) are not mirrored yet.",
            "Run a worker, or `mirror drain`; `mirror status` says whether anything stops them.",
            details=lines,
        )
    if facts.under_way:
        return Step(
            "events",
            StepStatus.BROKEN,
            "A change of a parent, or of more rows than this one, is under way.",
            "Look again in a moment; if it stays, `mirror status` says what stops it.",
            details=lines,
        )
    if buried:
        return Step(
            "events",
            StepStatus.BROKEN,
            f"The change was given up: event {buried[0].id} is buried ({buried[0].error}).",
            f"Mend that, then `mirror retry {buried[0].id}`.",
            details=lines,
        )
    if facts.known.present is None and facts.known.row is None:
        return Step(
            "events",
            StepStatus.BROKEN,
            "Never captured: the row is in the primary, the target never heard of it, and no event "
            "waits.",
            f"`mirror sync {facts.name}` brings it now; whatever wrote it lacks a hook or a "
            f"trigger: docs/capture.md.",
        )
    return Step("events", StepStatus.YES, "No event waits.", details=lines)


def ledger_step(facts: KeyState) -> Step:
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
            StepStatus.BROKEN,
            "The target mirrors another primary, or a later epoch.",
            rebase,
            details=lines,
        )
    if facts.newer or (trace.epoch == stamp.epoch and stamp.fence < trace.horizon):
        return Step(
            "ledger",
            StepStatus.BROKEN,
            "The target knows something newer than the primary says now, and refuses what is "
            "older: this primary went back in time.",
            rebase,
            details=lines,
        )
    if facts.drift is not None and facts.drift.kind is Kind.LEDGER:
        return Step(
            "ledger",
            StepStatus.BROKEN,
            "The row is right, but it is remembered otherwise: a change of all that it is under "
            "would miss it.",
            f"`mirror sync {facts.name}` enters it again.",
            details=lines,
        )
    if known.present is None:
        return Step("ledger", StepStatus.NO, "The target never heard of this key.", details=lines)
    state = "the row" if known.present else "a tombstone"
    said = f"It remembers {state}, of epoch {known.epoch} and fence {known.fence}"
    by_hand = known.edited or known.present != (known.row is not None)
    if facts.drift is not None and not facts.events and not by_hand:
        return Step(
            "ledger",
            StepStatus.BROKEN,
            f"Stale: it remembers {state} as of fence {known.fence}; the primary has changed "
            f"since, and no event told of it.",
            f"`mirror sync {facts.name}` brings it now; whatever wrote it lacks a hook or a "
            f"trigger: docs/capture.md.",
            details=lines,
        )
    return Step(
        "ledger", StepStatus.YES if known.present else StepStatus.NO, f"{said}.", details=lines
    )


def target_step(facts: KeyState, grant: Grant | None) -> Step:
    """Say what row the target has; `grant` is what that grants."""
    known, name = facts.known, "target row"
    mend = f"`mirror sync {facts.name}` sets it right; find out who writes there."
    if known.row is None and known.present:
        said = "Missing: the ledger says that it was written, so somebody deleted it by hand."
        return Step(name, StepStatus.BROKEN, said, mend)
    if known.row is None:
        return Step(name, StepStatus.NO, "There is no row.")
    drift = facts.drift if facts.drift is None or facts.drift.kind is not Kind.LEDGER else None
    if drift is not None or facts.under_way:
        if drift is not None and (known.edited or not known.present):
            what = "inserted" if drift.kind is Kind.EXTRA else "edited"
            return Step(name, StepStatus.BROKEN, f"Somebody {what} the row by hand.", mend)
        return Step(name, StepStatus.BROKEN, "The row is not what the primary says.")
    if grant is not None and not grant.levels:
        return Step(name, StepStatus.NO, f"The row is there and grants nothing: {grant.reason}.")
    return Step(name, StepStatus.YES, "The row is there, and equal to the primary's.")
