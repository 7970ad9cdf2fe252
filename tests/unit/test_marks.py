"""Marks: as of which moment a mapping is fresh."""

from mirror.sync.freshness import Look, Marks


def look(horizon: int, outbox: int | None = None, **retries: int) -> Look:
    """Return a look at the primary."""
    return Look(horizon, outbox, retries)


def test_while_nothing_waits_the_present_mark_counts() -> None:
    """All that had committed before the look has been applied."""
    assert Marks().fresh("10:00", look(100), ["trips"]) == {"trips": "10:00"}


def test_what_waits_is_older_than_the_moments_that_count() -> None:
    """The newest mark whose horizon the waiting event does not lie below."""
    marks = Marks()
    marks.fresh("10:00", look(100), ["trips"])
    marks.fresh("10:01", look(200), ["trips"])
    marks.fresh("10:02", look(300), ["trips"])
    assert marks.fresh("10:03", look(400, 250), ["trips"]) == {"trips": "10:01"}
    assert marks.fresh("10:04", look(500, 200), ["trips"]) == {"trips": "10:01"}
    assert marks.fresh("10:05", look(600, 99), ["trips"]) == {}


def test_an_event_that_was_set_apart_holds_back_its_own_mapping() -> None:
    """Others are as fresh as before."""
    marks = Marks()
    marks.fresh("10:00", look(100), ["trips", "users"])
    found = marks.fresh("10:01", look(200, trips=150), ["trips", "users"])
    assert found == {"trips": "10:00", "users": "10:01"}


def test_the_event_of_another_servers_transaction_lets_nothing_count() -> None:
    """A dump that was loaded: its ids say nothing about this server's."""
    marks = Marks()
    marks.fresh("10:00", look(100), ["trips"])
    assert marks.fresh("10:01", look(200, 7_000), ["trips"]) == {}


def test_marks_that_are_void_do_not_count() -> None:
    """Primary or target may be another."""
    marks = Marks()
    marks.fresh("10:00", look(100), ["trips"])
    marks.clear()
    assert marks.fresh("10:01", look(200, 150), ["trips"]) == {}
