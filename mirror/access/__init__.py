"""The authorising side: what turns mirrored rows into decisions."""

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
