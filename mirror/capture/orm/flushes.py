"""Events of a flush: rows that the unit of work inserts, updates and deletes.

What was loaded may be old: somebody else may have moved the row since. So where an event names
columns that are not the object's identity, they are read under the lock that the UPDATE or DELETE
is about to take, for all objects at once that are known beforehand. Which others there are is
only certain when SQLAlchemy comes to them: cascades, orphans and foreign keys that a relationship
sets are found on the way.
"""

from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, inspect
from sqlalchemy.orm import InstanceState, Mapper, Session

from mirror.capture.orm.links import SecondaryTables
from mirror.capture.orm.meaning import RowEvents, RowValues
from mirror.capture.orm.plans import Plan, Plans
from mirror.capture.outbox import Event

State = InstanceState[Any]
_Place = tuple[Plan, State]


class Flush:
    """What one flush has come to so far."""

    def __init__(self, meaning: RowEvents, plans: Plans, links: SecondaryTables) -> None:
        self._meaning = meaning
        self._plans = plans
        self._links = links
        self._connections: dict[Plan, Connection] = {}
        self._inserted: list[_Place] = []
        self._updated: dict[_Place, frozenset[str]] = {}
        self._deleted: list[_Place] = []
        self._old: dict[_Place, RowValues | None] = {}
        """Known before the change; None where that could not be found out."""
        self._linked: list[tuple[State, Connection, bool]] = []
        # A state does not hold its object, and a flush is free to let go of one.
        self._objects: list[object] = []

    def prepare(self, session: Session) -> None:
        """Read, under lock, the rows that are known to change beyond their identity."""
        wanted: dict[tuple[Mapper[Any], Plan], list[State]] = defaultdict(list)
        for objects, deleted in ((session.dirty, False), (session.deleted, True)):
            for one in objects:
                state: State = inspect(one)
                for plan in self._plans.of(state.mapper):
                    if plan.must_be_read(None if deleted else plan.changed(state)):
                        wanted[state.mapper, plan].append(state)
        for (mapper, plan), states in wanted.items():
            self._lock(session.connection(bind_arguments={"mapper": mapper}), plan, states)

    def inserting(self, session: Session, connection: Connection, state: State) -> None:
        """Note a row that is about to be inserted."""
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
                self._know(connection, plan, state, changed)

    def deleting(self, connection: Connection, state: State) -> None:
        """Note a row that is about to be deleted."""
        for plan in self._note(connection, state, deleted=True):
            self._deleted.append((plan, state))
            self._know(connection, plan, state, None)

    def events(self) -> list[Event]:
        """Return the events of everything noted, after the rows were written."""
        found: list[Event] = []
        meaning = self._meaning
        # What other listeners have changed behind us counts as well.
        for place, before in self._updated.items():
            plan, state = place
            self._updated[place] = before | plan.changed(state)
        new = self._rows_now()
        for place in self._deleted:
            for effect in place[0].effects:
                found += meaning.deleted(effect, self._old.get(place))
        for place, changed in self._updated.items():
            for effect in place[0].effects:
                found += meaning.updated(effect, changed, self._old.get(place), new.get(place))
        for place in self._inserted:
            for effect in place[0].effects:
                found += meaning.inserted(effect, new.get(place))
        for state, connection, deleted in self._linked:
            for link in self._links.of(state.mapper):
                found += link.events(meaning, state, connection.dialect, deleted=deleted)
        return found

    def _note(
        self, connection: Connection, state: State, *, deleted: bool = False
    ) -> tuple[Plan, ...]:
        plans = self._plans.of(state.mapper)
        links = self._links.of(state.mapper)
        if plans or links:
            self._objects.append(state.obj())
        if links:
            self._linked.append((state, connection, deleted))
        for plan in plans:
            self._connections[plan] = connection
        return plans

    def _know(
        self, connection: Connection, plan: Plan, state: State, changed: frozenset[str] | None
    ) -> None:
        """See to it that a row's old values are known, if the change is of interest."""
        if (plan, state) in self._old:
            return
        if state.key is None:
            return
        shown = plan.by_identity(state.key[1], connection.dialect)
        if plan.must_be_read(changed) or not shown.keys() >= plan.identity.keys():
            self._lock(connection, plan, [state])
        else:
            self._old[plan, state] = shown

    def _lock(self, connection: Connection, plan: Plan, states: list[State]) -> None:
        identities = {state: state.key[1] for state in states if state.key is not None}
        rows = plan.read(connection, list(identities.values()), lock=True)
        for state, identity in identities.items():
            self._old[plan, state] = rows.get(identity)

    def _rows_now(self) -> dict[_Place, RowValues]:
        """Return the rows as they are, from the database where the objects do not show it."""
        now: dict[_Place, RowValues] = {}
        missing: dict[Plan, dict[State, Any]] = defaultdict(dict)
        for place in (*self._inserted, *self._updated):
            plan, state = place
            changed = self._updated.get(place, plan.named)
            if plan.named.isdisjoint(changed):
                continue
            row = plan.by_attribute(state.dict, self._connections[plan].dialect)
            # What stayed is what was read before: truer than what was loaded some time ago.
            old = self._old.get(place) or {}
            row.update((name, text) for name, text in old.items() if name not in changed)
            now[place] = row
            instance = state.obj()
            if instance is not None and not row.keys() >= plan.named:
                identity = state.mapper.primary_key_from_instance(instance)
                missing[plan][state] = tuple(identity)
        for plan, identities in missing.items():
            rows = plan.read(self._connections[plan], list(identities.values()))
            for state, identity in identities.items():
                if identity in rows:
                    now[plan, state] = rows[identity]
        return now


def _replaced(session: Session, state: State) -> State | None:
    """Return the deleted object whose row a new one of the same identity takes over."""
    instance = state.obj()
    if instance is None or not session.deleted:
        return None
    replaced = session.identity_map.get(state.mapper.identity_key_from_instance(instance))
    return inspect(replaced) if replaced is not None and replaced in session.deleted else None
