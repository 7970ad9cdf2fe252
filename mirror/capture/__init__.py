"""Capture: records changes as events, in the transaction that makes them.

Runs in the backend; the worker imports only the events (`outbox`), the statements and the doorbell.
A backend imports `mirror.hooks`, and `attach` from here. `orm/` records the changes that SQLAlchemy
sessions flush and execute. Each of the other modules builds on those before it:

    outbox  ->  receipts, doorbell  ->  transaction  ->  recorder  ->  trips

`variables` knows the names of the variables that a backend reads.
"""

from mirror.capture.orm.listeners import Capture, attach
from mirror.capture.outbox import OUTBOX

__all__ = ["OUTBOX", "Capture", "attach"]
