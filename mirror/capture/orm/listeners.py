"""Listeners: record events for all changes of a SQLAlchemy session, without calls of hooks.

    from mirror.capture import attach

    make_session = sessionmaker(engine)
    attach(make_session, registry)

It sees the objects that sessions flush (including relationships' cascades) and the INSERT, UPDATE
and DELETE statements that they execute. It does not see SQL as text, statements on a Connection,
changes by the database itself (ON DELETE CASCADE, triggers), `session.bulk_save_objects()` and
similar methods, and statements inside a WITH.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, event
from sqlalchemy.orm import (
    InstanceState,
    Mapper,
    ORMExecuteState,
    Session,
    scoped_session,
    sessionmaker,
)

from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.capture.orm.bulk import execute
from mirror.capture.orm.flushes import Flush
from mirror.capture.orm.plans import Plans
from mirror.capture.orm.row_events import RowEvents
from mirror.capture.orm.secondary_tables import SecondaryTables
from mirror.capture.recorder import Hooks, default
from mirror.errors import ConfigError, UsageError
from mirror.model.registry import Registry

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker

SessionSource: TypeAlias = (
    "Session | AsyncSession | type[Session | AsyncSession] | sessionmaker[Any]"
    " | scoped_session[Any] | async_sessionmaker[Any] | async_scoped_session[Any]"
)

# The flushes in progress, by session; several captures may be attached to one session.
_flushes: WeakKeyDictionary[Session, dict["Capture", Flush]] = WeakKeyDictionary()
_attached: set[int] = set()


def attach(
    target: SessionSource, registry: Registry | None = None, *, hooks: Hooks | None = None
) -> "Capture":
    """Record the changes of all sessions of `target`, until `detach()`.

    `target` is a sessionmaker, a scoped_session, a session, a subclass of Session, or the asyncio
    counterpart of one of these. Session itself means all sessions of the process. Attach at start:
    earlier sessions of an async_sessionmaker are not seen.

    `registry` declares the mirrored data; None: the registry that MIRROR_MAPPINGS names. If the
    backend calls its own Hooks, pass them as `hooks`; None: those of the functions in
    `mirror.hooks`, if they have the same registry. An event that a hook and the capture both
    record is recorded once.

    Raises:
        UsageError: `target` has another type, or `hooks` have another registry.
        ConfigError, MappingError: as `mirror.hooks.default()`.
    """
    if hooks is None:
        hooks = _hooks_of(registry)
    elif registry is not None and hooks.registry is not registry:
        raise UsageError("attach(): these hooks are of another registry; give one of the two.")
    return Capture(target, hooks)


def _hooks_of(registry: Registry | None) -> Hooks:
    if registry is None:
        return default()
    with suppress(ConfigError):
        if default().registry is registry:
            return default()
    return Hooks(registry, Doorbell(DoorbellSettings.from_environment()))


class Capture:
    """The listeners of one `attach`."""

    def __init__(self, target: SessionSource, hooks: Hooks) -> None:
        self._hooks = hooks
        self._row_events = RowEvents(hooks.registry)
        self._plans = Plans(self._row_events)
        self._secondary_tables = SecondaryTables(self._row_events)
        self._target, self._restore = _event_target(target)
        self._listeners: dict[str, Callable[..., Any]] = {
            "before_flush": self._before_flush,
            "after_flush": self._after_flush,
            "after_soft_rollback": self._forget,
            "do_orm_execute": self._execute,
        }
        for name, listener in self._listeners.items():
            event.listen(self._target, name, listener)
        _watch_rows(self)
        self._is_attached = True

    def detach(self) -> None:
        """Remove every listener. Events that are already recorded are still written at commit."""
        if not self._is_attached:
            return
        self._is_attached = False
        for name, listener in self._listeners.items():
            event.remove(self._target, name, listener)
        self._restore()
        _watch_rows_no_longer(self)

    def _before_flush(self, session: Session, *_: object) -> None:
        flush = Flush(self._row_events, self._plans, self._secondary_tables)
        flush.prepare(session)
        _flushes.setdefault(session, {})[self] = flush

    def _after_flush(self, session: Session, *_: object) -> None:
        flush = _flushes.get(session, {}).pop(self, None)
        events = flush.events() if flush is not None else None
        if events:
            self._hooks.record(session, events)

    def _forget(self, session: Session, *_: object) -> None:
        # A failed flush has no after_flush.
        _flushes.get(session, {}).pop(self, None)

    def _execute(self, state: ORMExecuteState) -> Any:
        outcome = execute(state, self._row_events, self._plans)
        if outcome is None:
            return None
        result, events = outcome
        if events:
            self._hooks.record(state.session, events)
        return result


# Only listeners on mappers see the rows that a flush writes.


def _watch_rows(capture: Capture) -> None:
    if not _attached:
        for name, listener in _ROW_LISTENERS:
            event.listen(Mapper, name, listener, raw=True)
    _attached.add(id(capture))


def _watch_rows_no_longer(capture: Capture) -> None:
    _attached.discard(id(capture))
    if not _attached:
        for name, listener in _ROW_LISTENERS:
            event.remove(Mapper, name, listener)


def _before_insert(_: Any, connection: Connection, state: InstanceState[Any]) -> None:
    session = state.session
    if session is not None:
        for flush in _flushes.get(session, {}).values():
            flush.inserting(session, connection, state)


def _before_update(_: Any, connection: Connection, state: InstanceState[Any]) -> None:
    if state.session is not None:
        for flush in _flushes.get(state.session, {}).values():
            flush.updating(connection, state)


def _before_delete(_: Any, connection: Connection, state: InstanceState[Any]) -> None:
    if state.session is not None:
        for flush in _flushes.get(state.session, {}).values():
            flush.deleting(connection, state)


_ROW_LISTENERS: tuple[tuple[str, Callable[..., None]], ...] = (
    ("before_insert", _before_insert),
    ("before_update", _before_update),
    ("before_delete", _before_delete),
)


def _event_target(target: Any) -> tuple[Any, Callable[[], None]]:
    """Return the object for event.listen(), and a function that undoes all changes to `target`."""
    asyncio: Any = sys.modules.get("sqlalchemy.ext.asyncio")
    if isinstance(target, scoped_session) or (
        asyncio and isinstance(target, asyncio.async_scoped_session)
    ):
        return _event_target(target.session_factory)
    if asyncio and isinstance(target, asyncio.AsyncSession):
        return _event_target(target.sync_session)
    if asyncio and isinstance(target, asyncio.async_sessionmaker):
        configured = target.kw.get("sync_session_class")
        if isinstance(configured, sessionmaker):
            return _event_target(configured)
        return _own_class(target.class_, target.kw)
    if asyncio and isinstance(target, type) and issubclass(target, asyncio.AsyncSession):
        return _event_target(Session) if target is asyncio.AsyncSession else _own_class(target, {})
    if isinstance(target, Session | sessionmaker) or (
        isinstance(target, type) and issubclass(target, Session)
    ):
        return target, lambda: None
    raise UsageError(
        f"attach() takes a sessionmaker, a scoped_session, a Session or a class of sessions, or "
        f"their asyncio counterparts, not {type(target).__name__}."
    )


def _own_class(
    asynchronous: Any, options: dict[str, Any]
) -> tuple[type[Session], Callable[[], None]]:
    """Give asyncio sessions a synchronous class of their own; by default, all share Session.

    Returns the class, and a function that undoes the change.
    """
    inherited = asynchronous.sync_session_class
    configured = options.get("sync_session_class")
    own: type[Session] = type("CapturedSession", (configured or inherited,), {})
    if configured:
        options["sync_session_class"] = own
    else:
        asynchronous.sync_session_class = own

    def restore() -> None:
        # Other code may have replaced our class since.
        if configured and options.get("sync_session_class") is own:
            options["sync_session_class"] = configured
        elif not configured and asynchronous.sync_session_class is own:
            asynchronous.sync_session_class = inherited

    return own, restore
