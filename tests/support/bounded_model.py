"""The trips model with a bound of one minute, and with declarations that ignore it."""

from dataclasses import replace
from typing import Any

from mappings import trips
from mirror.access import Folder, Folders
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from tests.support.databases import TestDatabase

BOUND = 60
MAPPINGS = ("users", "trips", "trip_memberships")


def bounded(*more: Mapping, **changes: Any) -> Registry:
    """Return the trips model with a bound and more mappings; `changes` are arguments of Registry.

    The mapping `trips`, the guard of `user_presence`, channels `open:<id>` and the bucket `open`
    ignore it.
    """
    assert trips.trips.readable is not None
    readable = replace(trips.trips.readable, stale="ignore")
    topic = trips.channels.topics[0]
    folder = Folder(
        bucket="closed",
        path="trips/{id}",
        via="trip_memberships",
        read="MEMBER",
        insert="MEMBER",
    )
    declared: dict[str, Any] = {
        "access": trips.registry.access,
        "guards": [
            trips.chat_messages,
            trips.chat_reactions,
            replace(trips.user_presence, stale="ignore"),
            replace(trips.channels, topics=(topic, replace(topic, prefix="open", stale="ignore"))),
            Folders(folders=(folder, replace(folder, bucket="open", stale="ignore"))),
        ],
        "max_staleness": BOUND,
    }
    mappings = [trips.users, replace(trips.trips, readable=readable), trips.trip_memberships]
    return Registry("trips", [*mappings, *more], **{**declared, **changes})


def report(target: TestDatabase, **ages: float | None) -> None:
    """Report that each mapping is up to date as of so many seconds ago; default: 0, None: never."""
    target.query("delete from mirror.freshness")
    for mapping in (*MAPPINGS, *(name for name in ages if name not in MAPPINGS)):
        age = ages.get(mapping, 0)
        if age is not None:
            target.query(
                "insert into mirror.freshness values (%s, clock_timestamp() - %s * interval '1 s')",
                mapping,
                age,
            )
