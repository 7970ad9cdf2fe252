"""Capture: records changes as events, in the transaction that makes them.

Runs in the backend; the worker imports only the events (`outbox`) and the doorbell. outbox ->
receipts, doorbell -> transaction -> recorder -> trips; `orm/` records what SQLAlchemy sessions
flush and execute. A backend imports `mirror.hooks`, and `attach` from here.
"""

from mirror.capture.orm.listeners import Capture, attach
from mirror.capture.outbox import OUTBOX

__all__ = ["OUTBOX", "Capture", "attach"]
