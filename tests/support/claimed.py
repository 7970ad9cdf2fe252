"""Claimed: the waiting events that a claim holds, or that a claim of a crashed worker has held."""

from tests.support.databases import TestDatabase


def claimed(primary: TestDatabase) -> int:
    """Return the number of events that a claim holds."""
    return _count(primary, "in progress")


def suspected(primary: TestDatabase) -> int:
    """Return the number of waiting events that the next claim takes for the cause of a crash."""
    return _count(primary, "aborted")


def _count(primary: TestDatabase, status: str) -> int:
    return int(
        primary.value(
            "select count(*) from mirror.outbox where mirror.transaction_status(xmax) = %s", status
        )
    )
