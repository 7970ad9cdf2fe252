"""The authorising side: what turns mirrored rows into decisions."""

from mirror.access.folders import Folder, Folders
from mirror.access.guard import Guard
from mirror.access.membership import Membership
from mirror.access.rules import Allow, Others, Own, Readers
from mirror.access.seats import Always, Seat
from mirror.access.topics import Topic, Topics

__all__ = [
    "Allow",
    "Always",
    "Folder",
    "Folders",
    "Guard",
    "Membership",
    "Others",
    "Own",
    "Readers",
    "Seat",
    "Topic",
    "Topics",
]
