"""Withholding: closes a key that may have lost access and can be neither read nor written.

Before that it finds out whether the key is at fault at all. If no other key of the mapping can be
read or written either, the mapping is; then all of its events wait. If only descriptive columns
fail, they become NULL; this also serves grants, whose rows are worth more than a name.
"""

from typing import Final

import structlog

from mirror.capture.outbox import Event, Lane
from mirror.errors import (
    Halted,
    MirrorError,
    NotMigrated,
    Rejected,
    TooLarge,
    Unexplained,
    UnreadableMapping,
    Withheld,
)
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.sync.snapshot import Stamp
from mirror.sync.syncer import ISOLATED, Syncer
from mirror.sync.targets.writing import Outcome, TooOld

log = structlog.stdlib.get_logger(__name__)

# An error that nobody knows counts from this attempt on: it may pass.
_ATTEMPTS_IF_UNEXPLAINED: Final = 3

# So many other keys are read before the mapping is held to be at fault.
_OTHER_KEYS: Final = 8


def withhold(syncer: Syncer, event: Event, error: MirrorError, *, attempt: int = 1) -> MirrorError:
    """Close the key that an event names, which failed alone, if it may have lost access.

    Returns the error to store: `error` itself if nothing was to be done; `Withheld`; or
    `UnreadableMapping` if the mapping is at fault.

    Raises:
        Transient: a database does not answer; nothing is known about the key.
    """
    stamp = syncer.stamp
    if not isinstance(error, Rejected | Unexplained | TooLarge) or stamp is None:
        return error
    mapping = syncer.registry[event.mapping]
    key = mapping.canonical(event.key)
    closes = event.lane is Lane.REVOCATION and (
        isinstance(error, Rejected) or attempt >= _ATTEMPTS_IF_UNEXPLAINED
    )
    try:
        return _outcome(syncer, mapping, key, stamp, error, closes=closes)
    except (Halted, NotMigrated, *ISOLATED, TooOld) as problem:
        if type(problem) is Halted:
            # A table, column or privilege is missing: the target cannot even try another row.
            return UnreadableMapping(f"{error}; nor can any other row be written", mapping.name)
        if not closes:
            return error
        return Withheld(f"{error}; it is not withheld, because of: {problem}", closed=False)


def _outcome(
    syncer: Syncer, mapping: Mapping, key: Key, stamp: Stamp, error: MirrorError, *, closes: bool
) -> MirrorError:
    is_too_large = isinstance(error, TooLarge)
    if not is_too_large and not _others_can_be_read(syncer, mapping, key):
        return UnreadableMapping(f"{error}; no other key can be read either", mapping.name)
    if _write_narrowed(syncer, mapping, key):
        message = f"{error}; its descriptive columns are NULL meanwhile"
        return Withheld(message)
    if is_too_large:
        # Neither size nor slowness says that the key's truth is unknown.
        return error
    outcome = _close(syncer, mapping, key, stamp, reason=type(error).__name__ if closes else None)
    if not closes and outcome is not Outcome.MAPPING:
        return error
    return {
        Outcome.WITHHELD: Withheld(f"{error}; it grants nothing in the target meanwhile"),
        Outcome.NEWER: error,
        Outcome.MAPPING: UnreadableMapping(
            f"{error}; no other row can be written either", mapping.name
        ),
        Outcome.BUDGET: Withheld(
            f"{error}; it is not withheld, because too many keys are", closed=False
        ),
    }[outcome]


def withhold_unread(syncer: Syncer, event: Event) -> bool:
    """Close the key of a revocation on which workers crash, without reading its row.

    Returns whether it is withheld.
    """
    if event.lane is not Lane.REVOCATION:
        return False
    try:
        mapping = syncer.registry[event.mapping]
        key = mapping.canonical(event.key)
        with syncer.source.snapshot() as snapshot:
            stamp = snapshot.stamp
        return _close(syncer, mapping, key, stamp, reason="crash") is Outcome.WITHHELD
    except (Halted, NotMigrated, *ISOLATED):
        return False


def _close(
    syncer: Syncer, mapping: Mapping, key: Key, stamp: Stamp, *, reason: str | None
) -> Outcome:
    """Order the target to withhold a key, as of the read that failed; None: only ask whether to."""
    outcome = syncer.target.withhold(stamp, mapping, key, reason)
    if reason is not None and outcome is Outcome.WITHHELD:
        log.error("key withheld", mapping=mapping.name, reason=reason)
    return outcome


def _others_can_be_read(syncer: Syncer, mapping: Mapping, key: Key) -> bool:
    """Return whether some other key of the mapping can be read; True if there is none."""
    known = syncer.target.keys(mapping, {}, limit=_OTHER_KEYS + 1)
    others = [other for other in known if other != key]
    for other in others:
        try:
            with syncer.source.snapshot() as snapshot:
                snapshot.rows(mapping, [other])
        except (*ISOLATED, Halted):
            continue
        return True
    return not others


def _write_narrowed(syncer: Syncer, mapping: Mapping, key: Key) -> bool:
    """Write a key's row with NULL in its descriptive columns; return whether that succeeds."""
    if not any(column.descriptive for column in mapping.columns):
        return False
    try:
        syncer.sync([Event(Lane.GRANT, mapping.name, key)], batch_size=0, narrowed=mapping.name)
    except ISOLATED:
        return False
    return True
