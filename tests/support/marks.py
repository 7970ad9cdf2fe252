"""Marks: the ids of transactions that claims leave in the rows of waiting events."""

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
