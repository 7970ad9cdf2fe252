"""Everything this library raises, as one tree.

::

    MirrorError
    ├── UsageError            the caller's mistake; nothing was written
    │   ├── ConfigError       a setting is missing or malformed
    │   ├── MappingError      a declaration that cannot work
    │   ├── InvalidKey        a key of the wrong arity or type
    │   ├── NotInTransaction  a hook called where no transaction would carry its event
    │   └── ServerTooOld      a database's PostgreSQL is older than what is supported
    ├── Transient             try again: nothing is wrong with the events
    │   ├── Unreachable       a database, the target's API or Redis does not answer
    │   ├── StaleCache        the target's API does not know yet what was migrated
    │   └── StillWaiting      a receipt's events have not reached the target in time
    └── Permanent             trying again changes nothing
        ├── NotMigrated       a database lacks our schema, or has an older or newer one
        ├── Rejected          a database refused these rows (constraint, type); isolate the event
        ├── TooSlow           a statement ran into a limit; isolate the event, never bury it
        │   └── TooLarge      a call is larger than may be sent; the same
        ├── Unexplained       an error that we do not know; isolate the event, never bury it
        ├── Buried            an event of a receipt was given up
        └── Halted            the whole mirror must stop until a person acts
            ├── WrongKey      the target refuses our API key
            ├── WrongMapping  the target holds another version of the declarations
            ├── WrongSource   the target mirrors another primary
            └── WentBack      the primary is older than what the target has already seen

`exit_code` is what the `mirror` command returns for the error.
All of them survive pickling, as Celery needs.
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
    """Raised when the target's API has not noticed yet what was migrated."""


class StillWaiting(Transient):
    """Raised when events of a receipt's transaction have not reached the target in time.

    `pending` is how many; `events` are the ids of those that the transaction itself recorded.
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
    """Raised when a database refused rows for what they are; the event is isolated."""


class TooSlow(Permanent):
    """Raised when a statement ran into its timeout: smaller batches may pass.

    Not for ever wrong, so its event is retried alone and never buried.
    """


class TooLarge(TooSlow):
    """Raised when a call is larger than may be sent: smaller batches are not."""


class Unexplained(Permanent):
    """Raised when a database failed in a way that we do not know.

    One row may be the reason, or everything: its event is retried alone and never buried.
    """


class Buried(Permanent):
    """Raised when an event that a receipt's transaction recorded, or led to, was given up.

    `events` are the ids of the buried ones.
    """

    def __init__(self, message: str, events: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.events = events


class Halted(Permanent):
    """Raised when nothing may be written until a person has acted; events stay."""


class WrongKey(Halted):
    """Raised when the target refuses our API key, or what that key may do is too little."""


class WrongMapping(Halted):
    """Raised when the target's declarations differ from this worker's."""


class WrongSource(Halted):
    """Raised when the target mirrors another primary than this one."""


class WentBack(Halted):
    """Raised when the primary is older than what the target has already seen."""
