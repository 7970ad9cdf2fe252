"""Several workers write the same keys for the first time, at once.

ON CONFLICT turns only collisions on its own index into updates. With a second unique index in the
ledger, the slower worker would fail.
"""

import threading
from uuid import uuid4

import pytest

from tests.faults.tools import DirectWriter, Rows, Running
from tests.support.databases import TestDatabase

ROUNDS = 600


def race(url: str, writer: DirectWriter, mapping: str, rounds: list[Rows]) -> None:
    """Let three workers apply each of `rounds`; all start at the same moment."""
    barrier = threading.Barrier(3)

    def write() -> None:
        worker = DirectWriter.at(url, writer.registry)
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
def test_three_workers_write_keys_that_are_references_too(
    writer: DirectWriter,
    target: TestDatabase,
    gone: bool,  # noqa: FBT001 - a parameter
) -> None:
    """The key of a membership is its trip and its user."""
    trip, users = str(uuid4()), [str(uuid4()) for _ in range(ROUNDS)]
    writer.apply(
        2,
        trips={trip: (trip, "T", trip)},
        users={user: (user, "e", "n") for user in users},
    )
    rounds: list[Rows] = [
        {(trip, user): None if gone else (trip, user, "MEMBER", "ACTIVE")} for user in users
    ]
    race(target.url, writer, "trip_memberships", rounds)
    assert target.value("select count(*) from mirror.ledger_trip_memberships") == ROUNDS
    assert target.value("select count(*) from trip_memberships") == (0 if gone else ROUNDS)


def test_three_workers_write_keys_beside_references(
    teams_writer: DirectWriter, teams_target: TestDatabase
) -> None:
    """The workspace and the company of a seat are not in its key."""
    rounds: list[Rows] = [{str(n): (str(n), "somebody", "7", "1")} for n in range(ROUNDS)]
    race(teams_target.url, teams_writer, "seats", rounds)
    assert teams_target.value("select count(*) from seats") == ROUNDS
