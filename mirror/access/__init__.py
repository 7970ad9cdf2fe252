"""The authorising side: what turns mirrored rows into decisions."""

from mirror.access.folders import Folder, Folders
from mirror.access.guard import Guard
from mirror.access.membership import Membership
from mirror.access.rules import Allow, Own
from mirror.access.topics import Topic, Topics

__all__ = ["Allow", "Folder", "Folders", "Guard", "Membership", "Own", "Topic", "Topics"]
