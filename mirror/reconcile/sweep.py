"""Sweep: removes expired rows from the target.

Policies ignore expired rows, so this changes no permission. It keeps the tables small. Where the
target sends users a message about each revocation, it also sends them one for the removal of an
expired row. A row whose expiry the primary has moved to a later time is updated instead.
"""

from mirror.errors import Permanent
from mirror.model.mapping import Mapping
from mirror.reconcile.primary_reader import PrimaryReader
from mirror.reconcile.repair import Repairer
from mirror.sync.drain import Drain

_PAGE = 500


def sweep(drain: Drain) -> int:
    """Remove, or else update, each row that has expired in the target; return their number.

    The number includes rows that could not be written; these are logged. An error closes the
    drain's connections.

    Raises:
        Transient: a database does not answer, or other workers were faster every time.
        Permanent: the target refuses the search for expired rows of a mapping (those of the others
            are removed), a database is not migrated, or a person must act.
    """
    try:
        return _sweep(drain)
    except BaseException:
        # An interrupted connection may be in the middle of a transaction.
        drain.close()
        raise


def _sweep(drain: Drain) -> int:
    swept = 0
    refused = None
    repairer = Repairer(drain, PrimaryReader(drain.registry, drain.source))
    for mapping in drain.registry:
        if mapping.expires is not None:
            try:
                swept += _sweep_mapping(drain, repairer, mapping)
            except Permanent as error:
                refused = refused or error
    if refused is not None:
        raise refused
    return swept


def _sweep_mapping(drain: Drain, repairer: Repairer, mapping: Mapping) -> int:
    swept = 0
    after: tuple[str, ...] = ()
    # Pages follow the keys, so a row that cannot be removed is not read again.
    while True:
        keys = drain.target.expired(mapping, after=after, limit=_PAGE)
        if keys:
            repairer.repair([[(mapping.name, key)] for key in keys])
        swept += len(keys)
        if len(keys) < _PAGE:
            return swept
        after = keys[-1]
