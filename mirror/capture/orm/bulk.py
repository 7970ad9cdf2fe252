"""Bulk: records events of the INSERT, UPDATE and DELETE statements that a session executes.

It adds RETURNING to the statement to get the changed rows; a SELECT before it would miss rows that
another transaction commits in between. RETURNING has the new values of a row. The old values differ
only in columns that the statement sets. If those name keys or scopes, the old key or scope is
unknown, and the whole mapping is read again.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Text, cast
from sqlalchemy.orm import Mapper, ORMExecuteState

from mirror.capture.orm.assigned import assigned, on_conflict
from mirror.capture.orm.catalog import name_of
from mirror.capture.orm.plans import Plan, Plans
from mirror.capture.orm.row_events import RowEvents, RowValues, touches
from mirror.capture.outbox import Event
from mirror.model.query.effects import Effect

ExecutedStatement: TypeAlias = tuple[Any, list[Event]]


def execute(
    state: ORMExecuteState, row_events: RowEvents, plans: Plans
) -> ExecutedStatement | None:
    """Execute a statement if it may change mirrored rows; return its result and the events.

    Otherwise execute nothing and return None, so that SQLAlchemy executes it.
    """
    if not (state.is_insert or state.is_update or state.is_delete):
        return None
    plans.ask_database(state.session, state.bind_arguments)
    # A lambda_stmt() resolves to the DML; select().from_statement() has it as an element.
    statement: Any = getattr(state.statement, "_resolved", state.statement)
    dml: Any = statement if hasattr(statement, "table") else statement.element
    several = isinstance(state.parameters, Sequence)
    mapper = state.bind_mapper if state.is_orm_statement else None
    if mapper is not None and state.parameters and (state.is_insert or several):
        class_plans = plans.of(mapper)
        if state.is_update and class_plans:
            return _by_primary_key(state, row_events, mapper, class_plans)
        if state.is_insert and len(mapper.tables) > 1 and class_plans:
            return _by_parameters(state, row_events, class_plans)
    effects = row_events.of(dml.table)
    changed: frozenset[str] | None = None
    if effects and state.is_update:
        changed = assigned(dml, state.parameters, mapper, row_events.catalog)
        if changed is not None and row_events.catalog.rewrites(name_of(dml.table)):
            # Not those that name keys and scopes: the whole mapping would be read each time.
            changed |= {name for e in effects for name in (e.reads or ())}.difference(
                *(e.columns for e in effects)
            )
        effects = tuple(effect for effect in effects if touches(changed, effect.reads))
    if not effects:
        return None
    if statement is not dml or (several and not state.is_insert):
        # These cannot have a RETURNING of ours.
        return state.invoke_statement(), [row_events.everything(effect) for effect in effects]
    return _by_returning(state, row_events, dml, effects, changed)


def _by_returning(
    state: ORMExecuteState,
    row_events: RowEvents,
    statement: Any,
    effects: Sequence[Effect],
    changed: frozenset[str] | None,
) -> ExecutedStatement:
    """Execute a statement with RETURNING, and derive the events from the rows that it returns."""
    updated = on_conflict(statement, row_events.catalog) if state.is_insert else changed
    # Effects whose old key or scope is unknown, because the statement sets their columns.
    moved = (
        [] if state.is_delete else [e for e in effects if touches(updated, frozenset(e.columns))]
    )
    known = [effect for effect in effects if effect not in moved]
    columns = {column.name: column for column in statement.table.c}
    names = sorted({name for effect in known for name in effect.columns if name in columns})
    result, rows = _returned(state, statement, {name: columns[name] for name in names})
    events: list[Event] = []
    if rows:
        events += [row_events.everything(effect) for effect in moved]
    for row in rows:
        for effect in known:
            if state.is_delete:
                events += row_events.deleted(effect, row)
            elif state.is_insert and not touches(updated, effect.decides):
                events += row_events.inserted(effect, row)
            elif state.is_insert:
                # ON CONFLICT may have updated a row that granted more.
                events += row_events.deleted(effect, row)
            else:
                events += row_events.updated(effect, changed, row, row)
    return result, events


def _returned(
    state: ORMExecuteState, statement: Any, columns: dict[str, Any]
) -> tuple[Any, list[RowValues]]:
    """Execute a statement; return the result that the caller expects, and the changed rows."""
    if not columns:
        result: Any = state.invoke_statement()
        return result, [] if getattr(result, "rowcount", -1) == 0 else [{}]
    labels = {name: f"mirror_{number}" for number, name in enumerate(columns)}
    extra = [cast(column, Text).label(labels[name]) for name, column in columns.items()]
    has_returning = len(statement.exported_columns) > 0
    as_objects = state.is_insert and state.is_orm_statement and state.parameters
    if has_returning or as_objects or getattr(statement, "select", None) is not None:
        result = state.invoke_statement(statement.returning(*extra))
    else:
        # With this, the result keeps its rowcount and its inserted_primary_key.
        key = statement.table.primary_key
        result = state.invoke_statement(statement.return_defaults(*key, supplemental_cols=extra))
    if not has_returning:
        return result, _rows(result, labels)
    frozen = result.freeze()
    ours = frozen()
    callers: Any = frozen().columns(*range(len(ours.keys()) - len(extra)))
    if hasattr(result, "rowcount"):
        callers.rowcount = result.rowcount
    return callers, _rows(ours, labels)


def _rows(result: Any, labels: dict[str, str]) -> list[RowValues]:
    return [{name: row[label] for name, label in labels.items()} for row in result.mappings()]


def _by_primary_key(
    state: ORMExecuteState, row_events: RowEvents, mapper: Mapper[Any], plans: Sequence[Plan]
) -> ExecutedStatement | None:
    """Execute an UPDATE with a list of objects' values, which cannot have a RETURNING.

    None: not executed, because some values have no primary key.
    """
    keys = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    parameters: Any = state.parameters
    if not all(key in values for values in parameters for key in keys):
        return None
    identities = [tuple(values[key] for key in keys) for values in parameters]
    connection = state.session.connection(bind_arguments={"mapper": mapper})
    changes = [
        (plan, [plan.changed_by(set(values).difference(keys)) for values in parameters])
        for plan in plans
    ]
    to_read = [plan for plan, sets in changes if any(plan.must_be_read(names) for names in sets)]
    before = {plan: plan.read(connection, identities, lock=True) for plan in to_read}
    result = state.invoke_statement()
    events: list[Event] = []
    for plan, sets in changes:
        moved = any(not plan.named.isdisjoint(names) for names in sets)
        after = plan.read(connection, identities) if moved else {}
        for identity, changed in zip(identities, sets, strict=True):
            if plan in before:
                old = before[plan].get(identity)
            else:
                old = plan.by_identity(identity, connection.dialect)
            new = after.get(identity) if moved else old
            for effect in plan.effects:
                events += row_events.updated(effect, changed, old, new)
    return result, events


def _by_parameters(
    state: ORMExecuteState, row_events: RowEvents, plans: Sequence[Plan]
) -> ExecutedStatement:
    """Execute an INSERT of objects' values into several tables; events follow from the values."""
    parameters: Any = state.parameters
    result = state.invoke_statement()
    dialect = state.session.get_bind(mapper=state.bind_mapper).dialect
    events: list[Event] = []
    for values in [parameters] if isinstance(parameters, Mapping) else parameters:
        for plan in plans:
            row = plan.by_attribute(values, dialect)
            for effect in plan.effects:
                events += row_events.inserted(effect, row)
    return result, events
