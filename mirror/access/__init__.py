"""Access: a team's declarations of helper functions and policies, and their SQL for the target.

`Registry(access=[…])` holds `Membership`, `Grants` and `Permissions`: functions that decide by
mirrored rows whether a user has access. `Registry(guards=[…])` holds `Guard`, `Topics` and
`Folders`: policies that call these functions, on tables that the mirror does not write. The method
`ddl` of each returns its SQL, which `mirror migrate` and `mirror ddl` use. `questions` tells
commands which mirrored rows decide. This package imports `schema` for quoting.
"""

from mirror.access.grants import Grants
from mirror.access.guard import Guard
from mirror.access.membership import Membership
from mirror.access.permissions import Permissions
from mirror.access.rules import Allow, Others, Own, Permission, Readers
from mirror.access.seats import Always, Seat
from mirror.access.supabase.folders import Folder, Folders
from mirror.access.supabase.topics import Topic, Topics

__all__ = [
    "Allow",
    "Always",
    "Folder",
    "Folders",
    "Grants",
    "Guard",
    "Membership",
    "Others",
    "Own",
    "Permission",
    "Permissions",
    "Readers",
    "Seat",
    "Topic",
    "Topics",
]
