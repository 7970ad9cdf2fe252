"""Errors: everything that this library raises on purpose, as one tree.

::

    MirrorError
    ├── UsageError            the call is wrong; nothing was written
    │   ├── ConfigError       a setting is missing or malformed
    │   ├── MissingExtra      a package of an extra is not installed
    │   ├── MappingError      a declaration cannot work
    │   ├── InvalidKey        a key has the wrong arity or type
    │   ├── NotInTransaction  a hook or a migration was called without a transaction
    │   └── ServerTooOld      a database's PostgreSQL is older than the oldest supported version
    ├── Transient             try again: nothing is wrong with the events
    │   ├── Unreachable       a database, the target's API or Redis does not answer
    │   ├── StaleCache        the target's API has not noticed a migration yet
    │   └── StillWaiting      a receipt's events have not reached the target in time
    └── Permanent             trying again changes nothing
        ├── NotMigrated       a database lacks our schema, or has an older or newer one
        ├── Rejected          a database refused these rows (constraint, type); isolate the event
        ├── TooSlow           a statement ran into a limit; isolate the event, never bury it
        │   └── TooLarge      a call exceeds the allowed size; isolate the event, never bury it
        ├── Unexplained       the error is unknown to us; isolate the event, never bury it
        ├── Withheld          a revoked key cannot be written, so it grants nothing until then
        ├── Buried            the drain gave up an event of a receipt
        └── Halted            the whole mirror must stop until a person acts
            ├── WrongKey      the target refuses our API key
            ├── WrongMapping  the target holds another version of the declarations
            ├── WrongSource   the target mirrors another primary
            ├── NotPaired     primary and target did not take their last step together
            └── WentBack      the primary is older than the state that the target has already seen

To isolate an event means: the drain retries it alone, apart from its batch. To bury an event means:
the drain stops retrying it. The `mirror` command exits with the `exit_code` of the error. Every
error can be pickled, because Celery needs that.
"""

from typing import ClassVar


class MirrorError(Exception):
    """The base class of every error that this library raises on purpose."""

    exit_code: ClassVar[int] = 1
    """The code with which the `mirror` command exits."""


class UsageError(MirrorError):
    """Raised when the caller has made a mistake; nothing was written."""

    exit_code = 2


class ConfigError(UsageError):
    """Raised when a setting is missing, malformed, or contradicts another."""


class MissingExtra(UsageError, ImportError):
    """Raised at an import that needs a package of one of this distribution's extras; names it."""


class MappingError(UsageError):
    """Raised when a declaration cannot work; names the mapping and the remedy."""


class InvalidKey(UsageError):
    """Raised when a key has the wrong number of values, or a key or reference has a wrong type."""


class NotInTransaction(UsageError):
    """Raised when a hook or a migration is called without a transaction, as in AUTOCOMMIT mode.

    A hook's event could not commit together with the change, a migration not as a whole.
    """


class ServerTooOld(UsageError):
    """Raised when a database's PostgreSQL is older than what is supported; names both versions."""


class Transient(MirrorError):
    """Raised when the same call may succeed later; events stay in the outbox until then."""

    exit_code = 4


class Unreachable(Transient):
    """Raised when a database, the target's API or Redis does not answer."""


class StaleCache(Transient):
    """Raised when the target's API still uses its schema cache from before a migration."""


class StillWaiting(Transient):
    """Raised when events of a receipt's transaction have not reached the target in time.

    `pending` is the number of events still on their way. `events` are the ids of those among them
    that the transaction itself recorded; others follow from them.
    """

    def __init__(self, message: str, pending: int = 0, events: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.pending = pending
        self.events = events


class Permanent(MirrorError):
    """Raised when trying again changes nothing."""


class NotMigrated(Permanent):
    """Raised when a database lacks our schema, has it in another version, or cannot be migrated."""

    exit_code = 4


class Rejected(Permanent):
    """Raised when a database refused rows for their values; the event is then retried alone."""


class LostParent(Rejected):
    """Raised when a row refers to a parent that its table does not have."""


class TooSlow(Permanent):
    """Raised when a statement ran into a limit of time or memory; a smaller batch may succeed.

    The error may go away, so the event is retried alone and never given up.
    """


class TooLarge(TooSlow):
    """Raised when a call to the target's API exceeds the allowed size; a smaller batch may fit."""


class Unexplained(Permanent):
    """Raised when a database reports an error that is unknown to us.

    One row may be the cause, or the whole database. So the event is retried alone and never given
    up.
    """


class Withheld(Permanent):
    """Raised when the row of a key that may have lost access can be neither read nor written.

    The event is retried alone and never given up.
    """

    def __init__(self, message: str, *, closed: bool = True) -> None:
        super().__init__(message)
        self.closed = closed
        """The target grants nothing by the key meanwhile, or just what the primary does."""


class Buried(Permanent):
    """Raised to the waiter of a receipt when the drain gave up an event of the transaction.

    It may also be an event that follows from one of these. `events` are the ids of the events that
    were given up.
    """

    def __init__(self, message: str, events: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.events = events


class Halted(Permanent):
    """Raised when nothing may be written until a person has acted; events stay in the outbox."""


class WrongKey(Halted):
    """Raised when the target's API refuses our key, or the key has too few privileges."""


class WrongMapping(Halted):
    """Raised when the target's declarations differ from this worker's."""


class WrongSource(Halted):
    """Raised when the target mirrors another primary than this one."""


class NotPaired(Halted):
    """Raised when primary and target are not the two that took their last step together.

    One of them is a copy, or was restored from a backup.
    """


class UnreadableMapping(Halted):
    """Raised when the primary refuses the query of a mapping, whatever the key.

    A table or column is missing, a right is lost, or row-level security would hide rows. The
    mapping's events are set apart and never given up; other mappings go on.
    """

    def __init__(self, message: str, mapping: str) -> None:
        super().__init__(message)
        self.mapping = mapping
        """The mapping's name."""


class WentBack(Halted):
    """Raised when the primary is older than the state that the target has already seen."""
