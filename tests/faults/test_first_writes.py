"""Several workers that write the same keys for the first time, at once.

ON CONFLICT turns only those collisions into updates that it looks for; a second unique index in
the ledger would make the slower worker fail.
"""

import threading
from uuid import uuid4

import pytest

from tests.faults.tools import Hand, Rows, Running
from tests.support.databases import TestDatabase

ROUNDS = 600


def race(url: str, hand: Hand, mapping: str, rounds: list[Rows]) -> None:
    """Let three workers apply each of `rounds`, all starting at the same moment."""
    barrier = threading.Barrier(3)

    def write() -> None:
        worker = Hand.at(url, hand.registry)
        try:
            for number, rows in enumerate(rounds):
                barrier.wait(timeout=30)
                worker.apply(10 + number, alone=False, **{mapping: rows})
        except BaseException:
            barrier.abort()
            raise
        finally:
            worker.target.close()

    for worker in [Running(write) for _ in range(3)]:
        worker.wait()


@pytest.mark.parametrize("gone", [False, True])
def test_keys_that_are_references_too(hand: Hand, target: TestDatabase, gone: bool) -> None:  # noqa: FBT001 - a parameter
    """A membership's trip and user make up its key."""
    trip, users = str(uuid4()), [str(uuid4()) for _ in range(ROUNDS)]
    hand.apply(
        2,
        trips={trip: (trip, "T", trip)},
        users={user: (user, "e", "n") for user in users},
    )
    rounds: list[Rows] = [
        {(trip, user): None if gone else (trip, user, "MEMBER", "ACTIVE")} for user in users
    ]
    race(target.url, hand, "trip_memberships", rounds)
    assert target.value("select count(*) from mirror.ledger_trip_memberships") == ROUNDS
    assert target.value("select count(*) from trip_memberships") == (0 if gone else ROUNDS)


def test_keys_beside_references(teams_hand: Hand, teams_target: TestDatabase) -> None:
    """A seat's workspace and company are no part of its key."""
    rounds: list[Rows] = [{str(n): (str(n), "somebody", "7", "1")} for n in range(ROUNDS)]
    race(teams_target.url, teams_hand, "seats", rounds)
    assert teams_target.value("select count(*) from seats") == ROUNDS
