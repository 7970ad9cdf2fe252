"""Steps: turn the state of a key into the steps user, primary, events, ledger and target row."""

from psycopg import sql

from mirror.access.questions import HeldLevels, inactive_reason
from mirror.diagnostics.explain.explanation import Step, StepStatus
from mirror.diagnostics.explain.key_state import KeyState
from mirror.diagnostics.explain.missing_row import missing_row_reasons
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.reconcile.drift import Kind
from mirror.sync.connections import Database
from mirror.sync.targets.asking import Trace

CHANGE = "If this is wrong, change it in the primary, or correct the mapping's query."


def user_step(
    trace: Trace,
    user: str,
    user_state: KeyState | None,
    column: str,
    registry: Registry,
    database: Database,
) -> Step:
    """Return the step that checks whether the id is one that Auth puts into tokens.

    `user_state` is the state of the row that contains the user's id, in `column`; None: there is no
    such row.
    """
    if trace.users and not trace.known:
        return Step(
            "user",
            StepStatus.BROKEN,
            f"Auth has no user {user}, so no token has this subject: the app's id is not Auth's.",
            "Use the user's id from Auth. If the primary has other ids, mirror Auth's beside them: "
            "docs/capture.md, ids that are not Auth's.",
        )
    if trace.known and user_state is not None:
        parent = _parent_without_user(user_state, user, column, registry, database)
        if parent is not None:
            return Step(
                "user",
                StepStatus.BROKEN,
                f"Auth has user {user}, but {parent} in the primary has no row with this id: the "
                f"app's id is not Auth's, or the user was deleted in the primary.",
                f"Mirror the ids that Auth assigned; the query of {parent} has to yield them.",
            )
    if trace.known:
        return Step("user", StepStatus.YES, f"Auth knows {user}.")
    reason = (
        "Auth has no users in this target"
        if trace.users is False
        else "The mirror cannot read Auth's users"
    )
    return Step(
        "user",
        StepStatus.UNKNOWN,
        f"{reason}, so it is unknown whether a token can have this subject.",
    )


def _parent_without_user(
    state: KeyState, user: str, column: str, registry: Registry, database: Database
) -> str | None:
    """Return the parent mapping that `column` refers to, if its tables have no row for the user.

    None: they have one, or `column` refers to no parent.
    """
    parent = next((p.mapping for p in state.mapping.parents if p.column == column), None)
    if parent is None or state.parents.get((parent, (user,))) is not False:
        return None
    reasons = missing_row_reasons(database, registry[parent], {registry[parent].key[0]: user})
    return parent if reasons and not any(reason.exists for reason in reasons) else None


def primary_step(
    state: KeyState, grant: HeldLevels | None, registry: Registry, database: Database
) -> Step:
    """Return the step about the primary's row: YES if it exists and grants something.

    `grant` are the levels that the row grants; None: it need not grant any.
    """
    if state.row is None or state.missing_parents:
        return Step("primary", StepStatus.NO, _reason(state, registry, database), CHANGE)
    if grant is not None and not grant.levels:
        says = f"The row exists but grants nothing: {grant.reason}."
        return Step("primary", StepStatus.NO, says, CHANGE)
    level = f", which grants {grant.strongest}" if grant is not None and grant.strongest else ""
    return Step("primary", StepStatus.YES, f"The mapping's query yields the row{level}.")


def _reason(state: KeyState, registry: Registry, database: Database) -> str:
    """Return why the primary has no row for the key, or why that row is not mirrored."""
    if state.row is not None:
        name, key = state.missing_parents[0]
        values = dict(zip(registry[name].key, key, strict=True))
        reasons = missing_row_reasons(database, registry[name], values)
        text = "; ".join(map(str, reasons)) or f"the query of {name} does not yield it"
        return f"The row exists, but its parent {name} {','.join(key)} does not: {text}."
    values = dict(zip(state.mapping.key, state.key, strict=True))
    return absence_reason(state.mapping, values, database)


def absence_reason(mapping: Mapping, values: dict[str, str], database: Database) -> str:
    """Return why the primary yields no row with these values."""
    if mapping.expires is not None and _is_expired(mapping, values, database):
        return f"The row exists but grants nothing: its {mapping.expires} is past."
    reasons = missing_row_reasons(database, mapping, values)
    if not reasons:
        return (
            f"The query of {mapping.name} yields no such row; the condition that drops it could "
            f"not be determined."
        )
    return f"The primary yields no such row: {'; '.join(map(str, reasons))}."


def _is_expired(mapping: Mapping, values: dict[str, str], database: Database) -> bool:
    """Return whether the query yields a row with these values if expired rows are not left out."""
    types = {column.name: column.type for column in mapping.columns}
    same = sql.SQL(" and ").join(
        sql.SQL("q.{} = %s::text::{}").format(sql.Identifier(name), sql.SQL(types[name]))
        for name in values
    )
    query = sql.SQL("select from ({}) as q where {} limit 1").format(sql.SQL(mapping.sql), same)
    return bool(database.execute(query, [*values.values()]))


def events_step(state: KeyState) -> Step:
    """Return the step about events: a change waits, is buried, or was never captured."""
    waiting = [event for event in state.events if not event.buried]
    buried = [event for event in state.events if event.buried]
    details = tuple(map(str, state.events))

    def broken(says: str, remedy: str) -> Step:
        return Step("events", StepStatus.BROKEN, says, remedy, details=details)

    if not state.differs or state.target_is_newer:
        says = f"{len(waiting)} event(s) wait." if waiting else "No event waits."
        equal = " The two sides are equal." if waiting and not state.differs else ""
        return Step("events", StepStatus.YES, says + equal, details=details)
    if waiting:
        return broken(
            f"The change waits: {len(waiting)} event(s) are not mirrored yet.",
            "Run a worker, or `mirror drain`. `mirror status` shows whether something stops them.",
        )
    if state.in_flight:
        return broken(
            "A change of a parent row, or of a scope that contains this row, is being mirrored.",
            "Ask again in a moment. If nothing changes, `mirror status` shows what stops it.",
        )
    if buried:
        return broken(
            f"The change failed: event {buried[0].id} is buried ({buried[0].error}).",
            f"Fix the cause, then run `mirror retry {buried[0].id}`.",
        )
    if state.known.present is None and state.known.row is None:
        return broken(
            "Never captured: the primary has the row, but the target does not know it and no event "
            "waits.",
            _sync_remedy(state),
        )
    return Step("events", StepStatus.YES, "No event waits.", details=details)


def _sync_remedy(state: KeyState) -> str:
    return (
        f"Run `mirror sync {state.name}` to mirror it now. The code that wrote the row needs a "
        f"hook or a trigger: docs/capture.md."
    )


def withheld_step(state: KeyState) -> Step | None:
    """Return the step about a key that is withheld, or has such an ancestor; None: neither."""
    if state.withheld is None:
        return None
    (name, key), reason = state.withheld
    return Step(
        "ledger",
        StepStatus.BROKEN,
        f"Withheld ({reason}): {name} {','.join(key)} grants nothing, nor does any row below it, "
        f"until its event can be mirrored.",
        f"Fix the error that `mirror status` shows; then run `mirror sync {name} {','.join(key)}`.",
    )


def ledger_step(state: KeyState) -> Step:
    """Return the step about the ledger: the newest read it has, and whether it refuses writes."""
    known, stamp, trace = state.known, state.stamp, state.trace
    rebase = (
        "If this primary is the truth now, run `mirror rebase`; otherwise correct "
        "PRIMARY_DATABASE_URL."
    )
    details = _fences(state)

    def broken(says: str, remedy: str) -> Step:
        return Step("ledger", StepStatus.BROKEN, says, remedy, details=details)

    if state.parting is not None:
        says = state.parting.says
        return broken(f"{says[:1].upper()}{says[1:]}", state.parting.remedy)
    if (
        trace.epoch > stamp.epoch
        or state.target_is_newer
        or (trace.epoch == stamp.epoch and stamp.fence < trace.horizon)
    ):
        return broken(
            "The target has seen a newer state than the primary has now, so it refuses writes: "
            "this primary went back in time.",
            rebase,
        )
    if state.drift is not None and state.drift.kind is Kind.LEDGER:
        return broken(
            "The row is right, but its ledger row is not: a change of one of its scopes would miss "
            "the row.",
            f"Run `mirror sync {state.name}` to write the ledger row again.",
        )
    if known.present is None:
        return Step("ledger", StepStatus.NO, "The target does not know this key.", details=details)
    entry = "the row" if known.present else "a tombstone"
    by_hand = known.edited or known.present != (known.row is not None)
    if state.drift is not None and not state.events and not by_hand:
        return broken(
            f"Stale: the ledger has {entry}. The primary has changed since that was read, and no "
            f"event was recorded.",
            _sync_remedy(state),
        )
    says = f"The ledger has {entry}, of a read that no newer one has replaced."
    status = StepStatus.YES if known.present else StepStatus.NO
    return Step("ledger", status, says, details=details)


def _fences(state: KeyState) -> tuple[str, ...]:
    """Return a line for each fence that decides whether the target accepts a write of the key.

    Left out are epochs if all are equal, and the horizon if there is none.
    """
    known, stamp, trace = state.known, state.stamp, state.trace
    fences = [("this read of the primary", stamp.epoch, stamp.fence)]
    if known.present is not None:
        fences.append(("the read in the ledger", known.epoch, known.fence))
    fences += [
        (f"the last read of scope {reference} {value}".rstrip(), epoch, fence)
        for _, reference, value, epoch, fence in trace.scopes
    ]
    epochs = {trace.epoch, *(epoch for _, epoch, _ in fences)}
    lines = [
        f"fence {fence} of {name}" + (f", epoch {epoch}" if len(epochs) > 1 else "")
        for name, epoch, fence in fences
    ]
    lines[0] += " (of two reads, the later one has the higher fence)"
    if len(epochs) > 1:
        lines.append(
            f"epoch {trace.epoch} of the target: fences of different epochs are not compared; "
            f"`mirror rebase` raises the epoch"
        )
    if trace.horizon:
        lines.append(f"horizon {trace.horizon}: the target refuses a write with a lower fence")
    return tuple(lines)


def target_step(state: KeyState, grant: HeldLevels | None) -> Step:
    """Return the step about the target's row: YES if it equals the primary's and grants something.

    `grant` are the levels that the row grants; None: it need not grant any.
    """
    known, name = state.known, "target row"
    remedy = (
        f"Run `mirror sync {state.name}` to restore the row, and find out which program or person "
        f"writes to the target."
    )
    if known.row is None and known.present:
        says = "Missing: the mirror wrote the row, so it was deleted by hand."
        return Step(name, StepStatus.BROKEN, says, remedy)
    if known.row is None:
        return Step(name, StepStatus.NO, "The target has no row.")
    drift = state.drift if state.drift is None or state.drift.kind is not Kind.LEDGER else None
    if drift is not None or state.in_flight:
        if drift is not None and (known.edited or not known.present):
            verb = "inserted" if drift.kind is Kind.EXTRA else "edited"
            return Step(name, StepStatus.BROKEN, f"The row was {verb} by hand.", remedy)
        return Step(name, StepStatus.BROKEN, "The row differs from the primary's.")
    reason = None if grant is None or grant.levels else grant.reason
    if known.expired and inactive_reason(state.mapping, state.target_values or {}) is None:
        reason = "one of its parents has expired"
    if reason is not None:
        return Step(name, StepStatus.NO, f"The row exists but grants nothing: {reason}.")
    return Step(name, StepStatus.YES, "The row exists and is equal to the primary's.")
