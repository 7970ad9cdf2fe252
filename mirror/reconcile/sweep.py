"""Sweep: remove rows of the target that have expired.

They grant nothing any more, by now(); this is for tidiness, and so that who is told of revocations
is told of these. What the primary has prolonged meanwhile is brought up to date instead.
"""

from mirror.reconcile.primary import PrimaryReader
from mirror.reconcile.repair import Repair
from mirror.sync.drain import Drain

_PAGE = 500


def sweep(drain: Drain) -> int:
    """Bring every row up to date that has expired in the target; return how many there were.

    Raises:
        Transient: a database does not answer.
        Halted: a person must act.
    """
    try:
        return _sweep(drain)
    except BaseException:
        # What was interrupted left the connections in the middle of something.
        drain.close()
        raise


def _sweep(drain: Drain) -> int:
    swept = 0
    repair = Repair(drain, PrimaryReader(drain.registry, drain.source))
    for mapping in drain.registry:
        after: tuple[str, ...] = ()
        # By key: one that cannot be removed must not come again and again.
        while mapping.expires is not None:
            keys = drain.target.expired(mapping, after=after, limit=_PAGE)
            if keys:
                repair.rows([[(mapping.name, key)] for key in keys])
            swept += len(keys)
            if len(keys) < _PAGE:
                break
            after = keys[-1]
    return swept
