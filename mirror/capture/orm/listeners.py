"""ORM capture: a SQLAlchemy session's own changes become events, without a hook in sight.

    from mirror.capture import attach

    make_session = sessionmaker(engine)
    attach(make_session, registry)

It sees what sessions flush (cascades of relationships included) and the INSERT, UPDATE and DELETE
statements that they execute; what that means, the mappings' queries decide. It does not see SQL as
text, statements on a Connection, what the database does by itself (ON DELETE CASCADE, triggers),
`session.bulk_save_objects()` and its kin, and statements inside a WITH.
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
from mirror.capture.orm.links import SecondaryTables
from mirror.capture.orm.meaning import RowEvents
from mirror.capture.orm.plans import Plans
from mirror.capture.recorder import Hooks, default
from mirror.errors import ConfigError, UsageError
from mirror.model.registry import Registry

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker

SessionSource: TypeAlias = (
    "Session | AsyncSession | type[Session | AsyncSession] | sessionmaker[Any]"
    " | scoped_session[Any] | async_sessionmaker[Any] | async_scoped_session[Any]"
)

# The flushes under way; each session may be watched by several captures.
_flushes: WeakKeyDictionary[Session, dict["Capture", Flush]] = WeakKeyDictionary()
_attached: set[int] = set()


def attach(
    target: SessionSource, registry: Registry | None = None, *, hooks: Hooks | None = None
) -> "Capture":
    """Record what sessions of `target` change, until `detach()`.

    `target` is a sessionmaker, a scoped_session, a subclass of Session (Session itself: all of the
    process), a session, or the asyncio counterpart of one of these. Attach at start: sessions that
    an async_sessionmaker has made before are not seen.

    `registry` says what is mirrored; None: what MIRROR_MAPPINGS names. `hooks` are those that the
    backend calls as well, if it made its own; None: those of the functions in `mirror.hooks`, if
    they are of the same registry. An event of both is recorded once.

    Raises:
        UsageError: `target` is none of these, or `hooks` are of another registry.
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
        self._meaning = RowEvents(hooks.registry)
        self._plans = Plans(self._meaning)
        self._links = SecondaryTables(self._meaning)
        self._target, self._restore = _listened(target)
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
        """Remove every listener. What was recorded before is still written at commit."""
        if not self._is_attached:
            return
        self._is_attached = False
        for name, listener in self._listeners.items():
            event.remove(self._target, name, listener)
        self._restore()
        _watch_rows_no_longer(self)

    def _before_flush(self, session: Session, *_: object) -> None:
        flush = Flush(self._meaning, self._plans, self._links)
        flush.prepare(session)
        _flushes.setdefault(session, {})[self] = flush

    def _after_flush(self, session: Session, *_: object) -> None:
        flush = _flushes.get(session, {}).pop(self, None)
        events = flush.events() if flush is not None else None
        if events:
            self._hooks.record(session, events)

    def _forget(self, session: Session, *_: object) -> None:
        # A flush that failed never comes to its after_flush.
        _flushes.get(session, {}).pop(self, None)

    def _execute(self, state: ORMExecuteState) -> Any:
        outcome = execute(state, self._meaning, self._plans)
        if outcome is None:
            return None
        result, events = outcome
        if events:
            self._hooks.record(state.session, events)
        return result


# Which rows a flush writes, SQLAlchemy tells to listeners of mappers alone.


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


def _listened(target: Any) -> tuple[Any, Callable[[], None]]:
    """Return what listeners attach to, and how to undo what that took."""
    asyncio: Any = sys.modules.get("sqlalchemy.ext.asyncio")
    if isinstance(target, scoped_session) or (
        asyncio and isinstance(target, asyncio.async_scoped_session)
    ):
        return _listened(target.session_factory)
    if asyncio and isinstance(target, asyncio.AsyncSession):
        return _listened(target.sync_session)
    if asyncio and isinstance(target, asyncio.async_sessionmaker):
        configured = target.kw.get("sync_session_class")
        if isinstance(configured, sessionmaker):
            return _listened(configured)
        return _own_class(target.class_, target.kw)
    if asyncio and isinstance(target, type) and issubclass(target, asyncio.AsyncSession):
        return _listened(Session) if target is asyncio.AsyncSession else _own_class(target, {})
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
    """Give asyncio sessions a class of their own to work with: they share Session by default."""
    inherited = asynchronous.sync_session_class
    configured = options.get("sync_session_class")
    own: type[Session] = type("CapturedSession", (configured or inherited,), {})
    if configured:
        options["sync_session_class"] = own
    else:
        asynchronous.sync_session_class = own

    def restore() -> None:
        # Somebody may have put theirs on top of ours.
        if configured and options.get("sync_session_class") is own:
            options["sync_session_class"] = configured
        elif not configured and asynchronous.sync_session_class is own:
            asynchronous.sync_session_class = inherited

    return own, restore
