"""The authorising side: what turns mirrored rows into decisions."""

from mirror.access.membership import Membership

__all__ = ["Membership"]
