"""Events that the ORM capture derives from a changed row, beyond the tests of the mappings."""

from dataclasses import replace

from mappings.trips import registry as trips
from mirror.capture.orm.row_events import RowEvents
from mirror.capture.outbox import Event, Lane
from mirror.model.mapping import EVERYTHING


def test_a_null_names_nothing_or_everything_if_it_may_yield_rows() -> None:
    """No value can find the rows that a query yields for a NULL."""
    row_events = RowEvents(trips)
    (effect,) = trips.effects["users"]
    assert list(row_events.deleted(effect, {"id": None})) == []
    counts = replace(effect, nulls=True)
    whole = Event(Lane.REVOCATION, "users", (), EVERYTHING)
    assert list(row_events.deleted(counts, {"id": None})) == [whole]
