"""Events of the INSERT, UPDATE and DELETE statements that a session executes.

Their rows are asked for by RETURNING, of the statement itself: a SELECT before it would miss rows
that another transaction commits in between. RETURNING shows a row as it is afterwards. That is
what it was before, except in columns that the statement sets; where a row may have moved that
way, nobody can tell from where, and the whole mapping is read again.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Text, cast
from sqlalchemy.orm import Mapper, ORMExecuteState

from mirror.capture.orm.assigned import assigned, on_conflict
from mirror.capture.orm.meaning import RowEvents, RowValues, touches
from mirror.capture.orm.plans import Plan, Plans
from mirror.capture.outbox import Event
from mirror.model.query.effects import Effect

ExecutedStatement: TypeAlias = tuple[Any, list[Event]]


def execute(state: ORMExecuteState, meaning: RowEvents, plans: Plans) -> ExecutedStatement | None:
    """Execute a statement that changes mirrored rows; return its result and the events.

    None, and nothing is executed, if it does not.
    """
    if not (state.is_insert or state.is_update or state.is_delete):
        return None
    # A lambda_stmt() holds the statement itself; select().from_statement() holds it as an element.
    statement: Any = getattr(state.statement, "_resolved", state.statement)
    changing: Any = statement if hasattr(statement, "table") else statement.element
    several = isinstance(state.parameters, Sequence)
    mapper = state.bind_mapper if state.is_orm_statement else None
    if mapper is not None and state.parameters and (state.is_insert or several):
        made = plans.of(mapper)
        if state.is_update and made:
            return _by_primary_key(state, meaning, mapper, made)
        if state.is_insert and len(mapper.tables) > 1 and made:
            return _by_parameters(state, meaning, made)
    effects = meaning.of(changing.table)
    changed: frozenset[str] | None = None
    if effects and state.is_update:
        changed = assigned(changing, state.parameters, mapper)
        effects = tuple(effect for effect in effects if touches(changed, effect.reads))
    if not effects:
        return None
    if statement is not changing or (several and not state.is_insert):
        # Neither takes a RETURNING of ours.
        return state.invoke_statement(), [meaning.everything(effect) for effect in effects]
    return _by_returning(state, meaning, changing, effects, changed)


def _by_returning(
    state: ORMExecuteState,
    meaning: RowEvents,
    statement: Any,
    effects: Sequence[Effect],
    changed: frozenset[str] | None,
) -> ExecutedStatement:
    set_anew = on_conflict(statement) if state.is_insert else changed
    moved = (
        [] if state.is_delete else [e for e in effects if touches(set_anew, frozenset(e.columns))]
    )
    plain = [effect for effect in effects if effect not in moved]
    columns = {column.name: column for column in statement.table.c}
    named = sorted({name for effect in plain for name in effect.columns if name in columns})
    result, rows = _returned(state, statement, {name: columns[name] for name in named})
    events: list[Event] = []
    if rows:
        events += [meaning.everything(effect) for effect in moved]
    for row in rows:
        for effect in plain:
            if state.is_delete:
                events += meaning.deleted(effect, row)
            elif state.is_insert and not touches(set_anew, effect.decides):
                events += meaning.inserted(effect, row)
            elif state.is_insert:
                # It may have been there, and granted more.
                events += meaning.deleted(effect, row)
            else:
                events += meaning.updated(effect, changed, row, row)
    return result, events


def _returned(
    state: ORMExecuteState, statement: Any, columns: dict[str, Any]
) -> tuple[Any, list[RowValues]]:
    """Execute a statement; return its result as the caller expects it, and its rows."""
    if not columns:
        result: Any = state.invoke_statement()
        return result, [] if getattr(result, "rowcount", -1) == 0 else [{}]
    labels = {name: f"mirror_{number}" for number, name in enumerate(columns)}
    extra = [cast(column, Text).label(labels[name]) for name, column in columns.items()]
    is_callers = len(statement.exported_columns) > 0
    as_objects = state.is_insert and state.is_orm_statement and state.parameters
    if is_callers or as_objects or getattr(statement, "select", None) is not None:
        result = state.invoke_statement(statement.returning(*extra))
    else:
        # Leaves the result its rowcount and its inserted_primary_key.
        key = statement.table.primary_key
        result = state.invoke_statement(statement.return_defaults(*key, supplemental_cols=extra))
    if not is_callers:
        return result, _rows(result, labels)
    frozen = result.freeze()
    again = frozen()
    visible: Any = frozen().columns(*range(len(again.keys()) - len(extra)))
    if hasattr(result, "rowcount"):
        visible.rowcount = result.rowcount
    return visible, _rows(again, labels)


def _rows(result: Any, labels: dict[str, str]) -> list[RowValues]:
    return [{name: row[label] for name, label in labels.items()} for row in result.mappings()]


def _by_primary_key(
    state: ORMExecuteState, meaning: RowEvents, mapper: Mapper[Any], plans: Sequence[Plan]
) -> ExecutedStatement | None:
    """Execute an UPDATE of objects given as a list of values, which takes no RETURNING."""
    keys = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    given: Any = state.parameters
    if not all(key in values for values in given for key in keys):
        return None
    identities = [tuple(values[key] for key in keys) for values in given]
    connection = state.session.connection(bind_arguments={"mapper": mapper})
    changes = [
        (plan, [plan.changed_by(set(values).difference(keys)) for values in given])
        for plan in plans
    ]
    read = [plan for plan, changed in changes if any(plan.must_be_read(one) for one in changed)]
    before = {plan: plan.read(connection, identities, lock=True) for plan in read}
    result = state.invoke_statement()
    events: list[Event] = []
    for plan, changed in changes:
        moved = any(not plan.named.isdisjoint(one) for one in changed)
        after = plan.read(connection, identities) if moved else {}
        for identity, one in zip(identities, changed, strict=True):
            if plan in before:
                old = before[plan].get(identity)
            else:
                old = plan.by_identity(identity, connection.dialect)
            new = after.get(identity) if moved else old
            for effect in plan.effects:
                events += meaning.updated(effect, one, old, new)
    return result, events


def _by_parameters(
    state: ORMExecuteState, meaning: RowEvents, plans: Sequence[Plan]
) -> ExecutedStatement:
    """Execute an INSERT of objects given as values, into several tables."""
    given: Any = state.parameters
    result = state.invoke_statement()
    dialect = state.session.get_bind(mapper=state.bind_mapper).dialect
    events: list[Event] = []
    for values in [given] if isinstance(given, Mapping) else given:
        for plan in plans:
            row = plan.by_attribute(values, dialect)
            for effect in plan.effects:
                events += meaning.inserted(effect, row)
    return result, events
