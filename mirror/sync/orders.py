"""Orders: operations that an operator starts, such as retry, resync and rebase."""

from typing import Final

from mirror.capture.outbox import Event, Lane
from mirror.capture.statements import statement
from mirror.errors import MirrorError, UsageError
from mirror.model.mapping import EVERYTHING
from mirror.model.registry import Registry
from mirror.sync.claims import Queue
from mirror.sync.snapshot import Source
from mirror.sync.structure import note_structures, read_structures
from mirror.sync.targets.base import Target

# A worker writes its heartbeat every half minute, and one of an earlier version once a minute.
_ALIVE_SECONDS: Final = 120.0


def retry(queue: Queue, ids: list[int] | None) -> list[int]:
    """Make buried events (None: all of them) due now, with all attempts again; return their ids."""
    rows = queue.beside.execute(statement("retry_buried"), [ids, ids])
    return [row[0] for row in rows]


def discard(queue: Queue, ids: list[int]) -> None:
    """Delete events that are set apart; their keys stay in the target as they are."""
    queue.beside.execute(statement("delete_retries"), {"ids": ids})


def set_apart(queue: Queue, ids: list[int] | None) -> list[tuple[int, str, str]]:
    """Return id, name and error of those of these events (None: of all) that are set apart.

    The name is the mapping with the key, or with the reference and its value.
    """
    return [
        (id_, f"{mapping} {reference or ''}({', '.join(map(str, key))})", error)
        for id_, mapping, reference, key, error in queue.beside.execute(
            statement("read_set_apart"), [ids, ids]
        )
    ]


def resync(queue: Queue, registry: Registry, names: list[str]) -> list[str]:
    """Record an event for everything in the named mappings (in all, if no name is given).

    Returns the mappings' names, parents first.

    Raises:
        MirrorError: a name that is not declared.
    """
    for name in names:
        registry[name]
    with queue.claims.transaction():
        return _record_everything(queue, registry, names, Lane.GRANT)


def _record_everything(queue: Queue, registry: Registry, names: list[str], lane: Lane) -> list[str]:
    chosen = [mapping.name for mapping in registry if not names or mapping.name in names]
    # Workers read all rows after this moment.
    note_structures(queue.claims, read_structures(queue.claims, registry, chosen))
    queue.record([Event(lane, name, (), EVERYTHING) for name in chosen])
    return chosen


def check_no_worker(queue: Queue) -> None:
    """Refuse an order that workers must not get in the way of.

    Raises:
        UsageError: a worker has been at work within the last two minutes.
    """
    found = queue.beside.execute(statement("read_heartbeat"), ["drain"])
    if found and found[0][0] < _ALIVE_SECONDS:
        raise UsageError(
            f"a worker was at work {found[0][0]:.0f} s ago, maybe with another target. Stop the "
            f"workers, wait two minutes, and run this again; or add --force."
        )


def pair_again(registry: Registry, source: Source, target: Target, queue: Queue) -> int:
    """Let the present primary and target belong together, in a new epoch; return that epoch.

    It does not matter which of them is another one or was restored. All rows are recorded as
    changed, as revocations: the next drains bring the target up to date, and it is not fresh
    before.

    Raises:
        MirrorError: a side does not answer, or is not migrated.
    """
    known = target.describe()
    with queue.claims.transaction():
        epoch = queue.claims.execute(statement("raise_epoch"), [known.epoch])[0][0]
        queue.claims.execute(
            statement("pair_with"), {"step": known.step or 0, "token": known.token}
        )
        _record_everything(queue, registry, [], Lane.REVOCATION)
    with source.snapshot() as snapshot:
        stamp = snapshot.stamp
    try:
        target.rebase(stamp.identity, stamp.epoch)
    except MirrorError as error:
        error.add_note("The primary is in its new epoch already; run the command again.")
        raise
    return int(epoch)
