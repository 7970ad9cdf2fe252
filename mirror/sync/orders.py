"""Orders: operations that an operator starts, such as retry, resync and rebase."""

from mirror.capture.outbox import Event, Lane
from mirror.capture.statements import statement
from mirror.errors import MirrorError
from mirror.model.mapping import EVERYTHING
from mirror.model.registry import Registry
from mirror.sync.claims import Queue
from mirror.sync.snapshot import Source
from mirror.sync.targets.base import Target


def retry(queue: Queue, ids: list[int] | None) -> list[int]:
    """Make buried events (None: all of them) due now, with all attempts again; return their ids."""
    rows = queue.notes.execute(statement("retry_buried"), [ids, ids])
    return [row[0] for row in rows]


def discard(queue: Queue, ids: list[int]) -> None:
    """Delete events that are set apart; their keys stay in the target as they are."""
    queue.notes.execute(statement("delete_retries"), {"ids": ids})


def set_apart(queue: Queue, ids: list[int]) -> list[tuple[int, str, str]]:
    """Return id, name and error of those of these events that are set apart.

    The name is the mapping with the key, or with the reference and its value.
    """
    return [
        (id_, f"{mapping} {reference or ''}({', '.join(map(str, key))})", error)
        for id_, mapping, reference, key, error in queue.notes.execute(
            statement("read_set_apart"), [ids]
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
        return _record_everything(queue, registry, names)


def _record_everything(queue: Queue, registry: Registry, names: list[str]) -> list[str]:
    chosen = [mapping.name for mapping in registry if not names or mapping.name in names]
    queue.record([Event(Lane.GRANT, name, (), EVERYTHING) for name in chosen])
    return chosen


def rebase(registry: Registry, source: Source, target: Target, queue: Queue) -> int:
    """Make the present primary the truth, in a new epoch; return that epoch.

    Records events for everything, so that the next drains bring the target up to date.

    Raises:
        MirrorError: a side does not answer, or is not migrated.
    """
    known = target.describe().epoch
    with queue.claims.transaction():
        epoch = queue.claims.execute(statement("raise_epoch"), [known])[0][0]
        _record_everything(queue, registry, [])
    with source.snapshot() as snapshot:
        stamp = snapshot.stamp
    try:
        target.rebase(stamp.identity, stamp.epoch)
    except MirrorError as error:
        error.add_note("The primary is in its new epoch already; run `mirror rebase` again.")
        raise
    return int(epoch)
