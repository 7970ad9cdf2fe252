"""Errors: everything that this library raises on purpose, as one tree.

::

    MirrorError
    ├── UsageError            the call is wrong; nothing was written
    │   ├── ConfigError       a setting is missing or malformed
    │   ├── MappingError      a declaration cannot work
    │   ├── InvalidKey        a key has the wrong arity or type
    │   ├── NotInTransaction  a hook was called where no transaction would carry its event
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
        ├── Buried            the drain gave up an event of a receipt
        └── Halted            the whole mirror must stop until a person acts
            ├── WrongKey      the target refuses our API key
            ├── WrongMapping  the target holds another version of the declarations
            ├── WrongSource   the target mirrors another primary
            └── WentBack      the primary is older than the state that the target has already seen

To isolate an event means: the drain retries it alone, apart from its batch. To bury it means: the
drain stops retrying it. The `mirror` command exits with the `exit_code` of the error. Every error
can be pickled, because Celery needs that.
"""

from typing import ClassVar


class MirrorError(Exception):
    """The root of everything raised on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(MirrorError):
    """Raised when the call itself is wrong; nothing was written."""

    exit_code = 2


class ConfigError(UsageError):
    """Raised when a setting is missing, malformed, or contradicts another."""


class MappingError(UsageError):
    """Raised when a declaration cannot work; names the mapping and the remedy."""


class InvalidKey(UsageError):
    """Raised when a key or reference value has the wrong arity or type."""


class NotInTransaction(UsageError):
    """Raised when a hook is called where no transaction would carry its event."""


class ServerTooOld(UsageError):
    """Raised when a database's PostgreSQL is older than what is supported; names both versions."""


class Transient(MirrorError):
    """Raised when the same call may succeed later; events stay where they are."""

    exit_code = 4


class Unreachable(Transient):
    """Raised when a database, the target's API or Redis does not answer."""


class StaleCache(Transient):
    """Raised when the target's API has not noticed a migration yet."""


class StillWaiting(Transient):
    """Raised when events of a receipt's transaction have not reached the target in time.

    `pending` is the number of events; `events` are the ids of those that the transaction itself
    recorded.
    """

    def __init__(self, message: str, pending: int = 0, events: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.pending = pending
        self.events = events


class Permanent(MirrorError):
    """Raised when trying again changes nothing."""


class NotMigrated(Permanent):
    """Raised when a database lacks our schema or has one of another version."""

    exit_code = 4


class Rejected(Permanent):
    """Raised when a database refused rows for their values; the event is isolated."""


class LostParent(Rejected):
    """Raised when a row refers to a parent that its table does not have."""


class TooSlow(Permanent):
    """Raised when a statement ran into its timeout; a smaller batch may succeed.

    The error may go away, so its event is retried alone and never buried.
    """


class TooLarge(TooSlow):
    """Raised when a call exceeds the allowed size; a smaller batch may fit."""


class Unexplained(Permanent):
    """Raised when a database reports an error that is unknown to us.

    One row may be the cause, or the whole database. So the event is retried alone, never buried.
    """


class Buried(Permanent):
    """Raised when the drain gave up an event that a receipt's transaction recorded or led to.

    `events` are the ids of the buried events.
    """

    def __init__(self, message: str, events: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.events = events


class Halted(Permanent):
    """Raised when nothing may be written until a person has acted; events stay in the outbox."""


class WrongKey(Halted):
    """Raised when the target refuses our API key, or the key has too few privileges."""


class WrongMapping(Halted):
    """Raised when the target's declarations differ from this worker's."""


class WrongSource(Halted):
    """Raised when the target mirrors another primary than this one."""


class WentBack(Halted):
    """Raised when the primary is older than the state that the target has already seen."""
