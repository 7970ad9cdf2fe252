"""Capture: records changes as events in the transaction that makes them. Runs in the backend.

outbox -> receipts, doorbell -> transaction -> recorder -> trips; `orm/` records what SQLAlchemy
sessions change by themselves. A backend imports `mirror.hooks` and `attach`; the worker imports
the events (`outbox`) and the doorbell.
"""

from mirror.capture.orm.listeners import Capture, attach
from mirror.capture.outbox import OUTBOX

__all__ = ["OUTBOX", "Capture", "attach"]
