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
        │   └── LostParent    a foreign key misses the row's parent; isolate the event
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
            ├── UnreadableMapping  one mapping cannot be read or written; the others go on
            └── WentBack      the primary is older than the state that the target has already seen

To isolate an event means: the drain retries it alone, apart from its batch. To bury an event means:
the drain stops retrying it. The `mirror` command exits with the `exit_code` of the error. Every
error can be pickled, because Celery needs that.

The site's page on errors shows the docstrings below: when the error is raised, and, after
`Remedy:`, what to do.
"""

from typing import ClassVar


class MirrorError(Exception):
    """The base class of every error that this library raises on purpose.

    Remedy: read the message; it names the side, the ids and the next step.
    """

    exit_code: ClassVar[int] = 1
    """The code with which the `mirror` command exits."""


class UsageError(MirrorError):
    """Raised when the caller has made a mistake; nothing was written.

    Remedy: correct the call or the command, as the message says.
    """

    exit_code = 2


class ConfigError(UsageError):
    """Raised when a setting is missing, malformed, or contradicts another.

    Remedy: correct the variable that the message names; `mirror check` finds all of them at once.
    """


class MissingExtra(UsageError, ImportError):
    """Raised at an import that needs a package of one of this distribution's extras; names it.

    Remedy: install the extra, for example `pip install 'permission-mirror[worker]'`.
    """


class MappingError(UsageError):
    """Raised when a declaration cannot work.

    Remedy: change the declaration as the message says; `mirror check` checks it without a server.
    """


class InvalidKey(UsageError):
    """Raised when a key has the wrong number of values, or a key or reference has a wrong type.

    Remedy: pass one value for each column of the mapping's `key`, of the column's type.
    """


class NotInTransaction(UsageError):
    """Raised when a hook or a migration is called without a transaction, as in AUTOCOMMIT mode.

    A hook's event could not commit together with the change, a migration not as a whole.

    Remedy: call it within a transaction, on a connection that is not in AUTOCOMMIT mode.
    """


class ServerTooOld(UsageError):
    """Raised when a database's PostgreSQL is older than what is supported; names both versions.

    Remedy: upgrade the server.
    """


class Transient(MirrorError):
    """Raised when the same call may succeed later; events stay in the outbox until then.

    A server is busy, cancels a statement for a deadlock or a fail-over, or is a standby.

    Remedy: none, if it passes: workers try again. If it lasts, `mirror doctor` names the cause.
    """

    exit_code = 4


class Unreachable(Transient):
    """Raised when a database, the target's API or Redis does not answer.

    Also when a database refuses the password, or does not exist.

    Remedy: start the server, or correct the URL of the side that the message names.
    """


class StaleCache(Transient):
    """Raised when the target's API still uses its schema cache from before a migration.

    Remedy: wait a moment. If it lasts, run `notify pgrst, 'reload schema'` in the target.
    """


class StillWaiting(Transient):
    """Raised when events of a receipt's transaction have not reached the target in time.

    `pending` is the number of events still on their way. `events` are the ids of those among them
    that the transaction itself recorded; others follow from them.

    Remedy: wait longer, or answer that the change is under way. If it happens often, run
    `mirror status`: perhaps no worker is running.
    """

    def __init__(self, message: str, pending: int = 0, events: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.pending = pending
        self.events = events


class Permanent(MirrorError):
    """Raised when trying again changes nothing.

    Remedy: that of the subclass that is raised.
    """


class NotMigrated(Permanent):
    """Raised when a database lacks our schema, has it in another version, or cannot be migrated.

    Remedy: run `mirror migrate` with the version of the workers. If a migration refuses, change the
    object that it names; nothing was changed.
    """

    exit_code = 4


class Rejected(Permanent):
    """Raised when a database refused rows for their values; the event is then retried alone.

    A value does not fit its type, a constraint or a trigger of yours refuses the row, or a trigger
    alters it.

    Remedy: `mirror status ID` names the key, the constraint or table, and how the sides differ.
    Correct the row in the primary, or the constraint; then run `mirror retry ID` if it is buried.
    """


class LostParent(Rejected):
    """Raised when a foreign key of a row finds no parent.

    The drain then corrects the ledgers of parents that were deleted by hand, and writes again. So
    you see it only of a foreign key that the mapping does not declare.

    Remedy: drop that foreign key, or declare it as a `Parent`; `mirror doctor` names it
    (`reference-outside`).
    """


class TooSlow(Permanent):
    """Raised when a statement ran into a limit of time or memory; a smaller batch may succeed.

    The error may go away, so the event is retried alone and never given up.

    Remedy: end the transaction that holds the lock, or make the query or trigger faster; or raise
    MIRROR_STATEMENT_SECONDS.
    """


class TooLarge(TooSlow):
    """Raised when a call to the target's API exceeds the allowed size; a smaller batch may fit.

    Remedy: none, if a smaller batch fits. Otherwise shorten the row that the event names, or set
    SUPABASE_DB_URL: this limit is that of the API. If a proxy refuses calls, set MIRROR_REST_BYTES
    lower.
    """


class Unexplained(Permanent):
    """Raised when a database reports an error that is unknown to us.

    One row may be the cause, or the whole database. So the event is retried alone and never given
    up. Also raised for an exception that the library does not foresee; the message has its type and
    line.

    Remedy: look up the SQLSTATE, or the server's log at that time. If it is a fault of this
    library, report the message.
    """


class Withheld(Permanent):
    """Raised when the row of a key that may have lost access can be neither read nor written.

    The event is retried alone and never given up.

    Remedy: the message begins with the error of the row; remove its cause. The next retry succeeds
    and ends the withholding.
    """

    def __init__(self, message: str, *, closed: bool = True) -> None:
        super().__init__(message)
        self.closed = closed
        """The target grants nothing by the key meanwhile, or just what the primary does."""


class Buried(Permanent):
    """Raised to the waiter of a receipt when the drain gave up an event of the transaction.

    It may also be an event that follows from one of these. `events` are the ids of the events that
    were given up.

    Remedy: `mirror status ID` says why it failed. Remove the cause, then run `mirror retry ID`.
    """

    def __init__(self, message: str, events: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.events = events


class Halted(Permanent):
    """Raised when nothing may be written until a person has acted; events stay in the outbox.

    A table, column, function or privilege is missing, for example.

    Remedy: create or grant what the message names; `mirror doctor` lists all of it.
    """


class WrongKey(Halted):
    """Raised when the target's API refuses our key, or the key has too few privileges.

    Also when a database role may not act as a signed-in user, which `mirror explain` has to.

    Remedy: give the workers a secret key of the project, or a new token of `mirror_writer`.
    """


class WrongMapping(Halted):
    """Raised when the target's declarations differ from this worker's.

    Remedy: run `mirror migrate supabase` with the declarations that are to hold, and deploy the
    workers with the same.
    """


class WrongSource(Halted):
    """Raised when the target mirrors another primary than this one.

    Remedy: if this is a copy with production settings, correct its settings. If the primary really
    moved, run `mirror rebase`.
    """


class NotPaired(Halted):
    """Raised when primary and target are not the two that took their last step together.

    One of them is a copy, or was restored from a backup.

    Remedy: `mirror status` says which side differs. Correct the settings of a copy; after a restore
    run `mirror rebase` (of the primary) or `mirror retarget` (of the target).
    """


class UnreadableMapping(Halted):
    """Raised when a mapping cannot be read or written, whatever the key.

    In the primary a table or column is missing, a right is lost, or row-level security would hide
    rows; or the target can write no row of it. The mapping's events are parked and never given up;
    other mappings go on.

    Remedy: repair what the message names. Within half a minute a retry succeeds, and all events of
    the mapping are due.
    """

    def __init__(self, message: str, mapping: str) -> None:
        super().__init__(message)
        self.mapping = mapping
        """The mapping's name."""


class WentBack(Halted):
    """Raised when the primary is older than the state that the target has already seen.

    It was restored, or failed over to a standby that lagged.

    Remedy: if this primary is the truth now, run `mirror rebase`. Otherwise connect to the right
    one.
    """
