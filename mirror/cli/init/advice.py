"""Advice: what the written module leaves out, and a person should look at."""

import re
from typing import Final

from mirror.cli.init.model import Counts, Model
from mirror.cli.init.tables import is_unique
from mirror.cli.init.words import snake

# Names of columns that may decide access.
_DECIDING: Final = re.compile(
    r"status|state$|active|archive|block|ban|suspend|verif|confirm|approv|accept|visib|public|private"
    r"|expire|until|lock|role|permission|revoke|left_|frozen|disabled|enabled|admin"
)


def advice(model: Model) -> list[str]:
    """Return one sentence for each thing to look at."""
    found = []
    if model.others:
        found.append(
            f"Not in the module: {', '.join(model.others)} also seem to say which users belong to "
            f"which resources. If they give access, add them by hand: docs/models/."
        )
    unread = _unread(model)
    if unread:
        found.append(
            f"Not in the module: {', '.join(unread)}. If a column of these decides, add it to the "
            f"mapping's query."
        )
    users = model.users
    if users is not None and users.translated:
        ends = model.conditions.get(users.table.key, ())
        gone = {one.column.name for one in ends if one.counts is Counts.NULL}
        if not is_unique(users.table, {users.auth.name}, gone=gone):
            found.append(
                f"Make {users.table.name}.{users.auth.name} unique: two users with one id there "
                f"would have one key in the target, so that neither can be mirrored."
            )
    return found


def _unread(model: Model) -> list[str]:
    """Return the columns that may decide, by their names, and that the module does not read."""
    read = {id(column) for column, _ in model.owners}
    read |= {id(one.column) for several in model.conditions.values() for one in several}
    members = model.members
    if members is not None:
        read |= {id(members.role), id(members.status), id(members.expires)}
    if model.users is not None:
        read.add(id(model.users.auth))
    return [
        f"{table.name}.{column.name}"
        for table in model.tables
        for column in table.c
        if id(column) not in read and _DECIDING.search(snake(column.name))
    ]
