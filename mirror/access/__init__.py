"""Access: declarations of helper functions and policies, printed as SQL for the target.

`Membership`, `Grants` and `Permissions` print functions that decide by mirrored rows whether a user
has access. `Guard`, `Topics` and `Folders` print policies that call them, on tables that the mirror
does not write. `questions` tells commands which mirrored rows decide. Runs where declarations are
printed or explained: in the commands, and in tests. It imports `schema` for quoting.
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
