"""Flushes: records events of the rows that a flush inserts, updates and deletes.

The loaded values of an object may be old, because another transaction may have changed its row. So
if an event names columns outside of the object's identity, they are read from the database, under
the lock that the UPDATE or DELETE is about to take. This is one query for all objects that are
known before the flush. SQLAlchemy finds further objects during the flush (cascades, orphans,
foreign keys that a relationship sets); their rows are read then.
"""

from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, inspect
from sqlalchemy.orm import InstanceState, Mapper, Session

from mirror.capture.orm.plans import Plan, Plans
from mirror.capture.orm.row_events import RowEvents, RowValues
from mirror.capture.orm.secondary_tables import SecondaryTables
from mirror.capture.outbox import Event

State = InstanceState[Any]
_Row = tuple[Plan, State]


class Flush:
    """The rows that one flush has changed so far."""

    def __init__(
        self, row_events: RowEvents, plans: Plans, secondary_tables: SecondaryTables
    ) -> None:
        self._row_events = row_events
        self._plans = plans
        self._secondary_tables = secondary_tables
        self._connections: dict[Plan, Connection] = {}
        self._inserted: list[_Row] = []
        self._updated: dict[_Row, frozenset[str]] = {}
        self._deleted: list[_Row] = []
        self._old: dict[_Row, RowValues | None] = {}
        """The values before the change; None if they are unknown."""
        self._with_secondary: list[tuple[State, Connection, bool]] = []
        """States whose class has relationships over mirrored tables; True: deleted."""
        # Keeps the objects alive: neither a state nor a flush refers to them strongly.
        self._objects: list[object] = []

    def prepare(self, session: Session) -> None:
        """Read and lock the rows that will change and whose events need more than the identity."""
        to_lock: dict[tuple[Mapper[Any], Plan], list[State]] = defaultdict(list)
        for mapper in {inspect(instance).mapper for instance in (*session.dirty, *session.deleted)}:
            self._plans.ask_database(session, {"mapper": mapper})
        for objects, deleted in ((session.dirty, False), (session.deleted, True)):
            for instance in objects:
                state: State = inspect(instance)
                for plan in self._plans.of(state.mapper):
                    if plan.must_be_read(None if deleted else plan.changed(state)):
                        to_lock[state.mapper, plan].append(state)
        for (mapper, plan), states in to_lock.items():
            self._lock(session.connection(bind_arguments={"mapper": mapper}), plan, states)

    def inserting(self, session: Session, connection: Connection, state: State) -> None:
        """Note a row that is about to be inserted, and the deleted one that it replaces, if any."""
        for plan in self._note(connection, state):
            self._inserted.append((plan, state))
            replaced = _replaced(session, state)
            if replaced is not None:
                self.deleting(connection, replaced)

    def updating(self, connection: Connection, state: State) -> None:
        """Note a row that may be about to be updated."""
        for plan in self._note(connection, state):
            changed = self._updated[plan, state] = plan.changed(state)
            if changed:
                self._remember_old(connection, plan, state, changed)

    def deleting(self, connection: Connection, state: State) -> None:
        """Note a row that is about to be deleted."""
        for plan in self._note(connection, state, deleted=True):
            self._deleted.append((plan, state))
            self._remember_old(connection, plan, state, None)

    def events(self) -> list[Event]:
        """Return the events of all noted rows. Call it after the flush has written them."""
        found: list[Event] = []
        row_events = self._row_events
        # Other listeners may have changed more columns after ours ran.
        for row, before in self._updated.items():
            plan, state = row
            self._updated[row] = before | plan.changed(state)
        new = self._new_values()
        for row in self._deleted:
            for effect in row[0].effects:
                found += row_events.deleted(effect, self._old.get(row))
        for row, changed in self._updated.items():
            for effect in row[0].effects:
                found += row_events.updated(effect, changed, self._old.get(row), new.get(row))
        for row in self._inserted:
            for effect in row[0].effects:
                found += row_events.inserted(effect, new.get(row))
        for state, connection, deleted in self._with_secondary:
            for table in self._secondary_tables.of(state.mapper):
                found += table.events(row_events, state, connection.dialect, deleted=deleted)
        return found

    def _note(
        self, connection: Connection, state: State, *, deleted: bool = False
    ) -> tuple[Plan, ...]:
        self._row_events.catalog.ask(connection)
        plans = self._plans.of(state.mapper)
        secondary = self._secondary_tables.of(state.mapper)
        if plans or secondary:
            self._objects.append(state.obj())
        if secondary:
            self._with_secondary.append((state, connection, deleted))
        for plan in plans:
            self._connections[plan] = connection
        return plans

    def _remember_old(
        self, connection: Connection, plan: Plan, state: State, changed: frozenset[str] | None
    ) -> None:
        """Remember a row's old values: those in its identity, or read from the database."""
        if (plan, state) in self._old:
            return
        if state.key is None:
            return
        values = plan.by_identity(state.key[1], connection.dialect)
        if plan.must_be_read(changed) or not values.keys() >= plan.identity.keys():
            self._lock(connection, plan, [state])
        else:
            self._old[plan, state] = values

    def _lock(self, connection: Connection, plan: Plan, states: list[State]) -> None:
        identities = {state: state.key[1] for state in states if state.key is not None}
        rows = plan.read(connection, list(identities.values()), lock=True)
        for state, identity in identities.items():
            self._old[plan, state] = rows.get(identity)

    def _new_values(self) -> dict[_Row, RowValues]:
        """Return new values of rows whose keys or scopes change; read those that objects lack."""
        new: dict[_Row, RowValues] = {}
        missing: dict[Plan, dict[State, Any]] = defaultdict(dict)
        for row in (*self._inserted, *self._updated):
            plan, state = row
            changed = self._updated.get(row, plan.named)
            if plan.named.isdisjoint(changed):
                continue
            values = plan.by_attribute(state.dict, self._connections[plan].dialect)
            # For unchanged columns, the values read before the change are newer than loaded ones.
            old = self._old.get(row) or {}
            values.update((name, text) for name, text in old.items() if name not in changed)
            new[row] = values
            instance = state.obj()
            if instance is not None and not values.keys() >= plan.named:
                identity = state.mapper.primary_key_from_instance(instance)
                missing[plan][state] = tuple(identity)
        for plan, identities in missing.items():
            rows = plan.read(self._connections[plan], list(identities.values()))
            for state, identity in identities.items():
                if identity in rows:
                    new[plan, state] = rows[identity]
        return new


def _replaced(session: Session, state: State) -> State | None:
    """Return the deleted object whose row a new object with the same identity takes over.

    None: there is none.
    """
    instance = state.obj()
    if instance is None or not session.deleted:
        return None
    replaced = session.identity_map.get(state.mapper.identity_key_from_instance(instance))
    return inspect(replaced) if replaced is not None and replaced in session.deleted else None
