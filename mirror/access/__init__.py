"""The authorising side: what turns mirrored rows into decisions."""

from mirror.access.guard import Guard
from mirror.access.membership import Membership
from mirror.access.rules import Allow, Own

__all__ = ["Allow", "Guard", "Membership", "Own"]
