"""What a changed row means to the ORM capture, where the mappings' own tests do not tell."""

from dataclasses import replace

import pytest

from mappings.trips import registry as trips
from mirror.capture.orm.row_events import RowEvents
from mirror.capture.outbox import Event, Lane
from mirror.model.mapping import EVERYTHING

pytestmark = pytest.mark.fast


def test_a_null_names_nothing_or_where_it_may_count_everything() -> None:
    """Rows that a query yields for a NULL have no value to be found by."""
    row_events = RowEvents(trips)
    (effect,) = trips.effects["users"]
    assert list(row_events.deleted(effect, {"id": None})) == []
    counts = replace(effect, nulls=True)
    whole = Event(Lane.REVOCATION, "users", (), EVERYTHING)
    assert list(row_events.deleted(counts, {"id": None})) == [whole]
