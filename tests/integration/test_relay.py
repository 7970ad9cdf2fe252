"""The queries and rings of a relay with a real primary, on a clock that the test moves."""

import select
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.errors import NotMigrated
from mirror.sync.connections import Database
from mirror.sync.relay import FAST, LEASE, SLOW, Listener, Relay
from tests.support.databases import TestDatabase
from tests.support.transaction_pooler import TransactionPooler
from tests.support.waiting import until


class Clock:
    """A clock that moves only in `sleep`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move the clock."""
        self.now += seconds


class CountingDatabase(Database):
    """Counts the calls."""

    asked = 0

    def call(self, *arguments: Any, **options: Any) -> list[Any]:
        """Count the call and run it."""
        self.asked += 1
        return super().call(*arguments, **options)


class CountingDoorbell(Doorbell):
    """Counts the rings."""

    def __init__(self) -> None:
        super().__init__(DoorbellSettings(mode="off"))
        self.rings = 0

    def ring(self, after: object = None) -> None:  # noqa: ARG002 - like the other
        """Count the ring."""
        self.rings += 1


class TimelessListener(Listener):
    """Waits by the test's clock, except for a notification that has already arrived."""

    clock: Clock

    def wait(self, seconds: float) -> bool | None:
        """Take a notification that has arrived; otherwise move the clock by the whole time."""
        notified = super().wait(0.0 if self.works else 0.05)
        if notified is False:
            self.clock.sleep(seconds)
        return notified


@dataclass
class RelayBench:
    """A relay with its counters."""

    relay: Relay
    primary: CountingDatabase
    doorbell: CountingDoorbell
    clock: Clock
    asked: int = 0
    rung: int = 0

    def run(self, seconds: float) -> None:
        """Run the relay for this time by its clock, and count its calls and rings."""
        asked, rings, end = self.primary.asked, self.doorbell.rings, self.clock() + seconds
        while self.clock() < end:
            self.relay.turn()
        self.asked = self.primary.asked - asked
        self.rung = self.doorbell.rings - rings


def make_relay(url: str, *, seconds: float = 0.2, listen: str | None = None) -> RelayBench:
    """Return a relay with counters; `listen` is the URL of its listener."""
    clock, doorbell = Clock(), CountingDoorbell()
    primary = CountingDatabase(url, role="primary")
    listener = None
    if listen is not None:
        listener = TimelessListener(Database(listen, role="primary, to listen"), clock)
        listener.clock = clock
    relay = Relay(
        primary, doorbell, seconds=seconds, listener=listener, clock=clock, sleep=clock.sleep
    )
    return RelayBench(relay, primary, doorbell, clock)


@pytest.fixture
def polling(primary: TestDatabase) -> Iterator[RelayBench]:
    """A relay without a listener."""
    made = make_relay(primary.url)
    yield made
    made.relay.close()


@pytest.fixture
def listening(primary: TestDatabase) -> Iterator[RelayBench]:
    """A relay with a listener that works."""
    made = make_relay(primary.url, listen=primary.url)
    made.run(SLOW)
    assert made.relay.listener is not None
    assert made.relay.listener.works
    yield made
    made.relay.close()


def record(primary: TestDatabase, *, lane: int = 1) -> None:
    """Insert an event, as a writer that knows only SQL would."""
    primary.query(
        "insert into mirror.outbox (lane, mapping, key) values (%s, 'users', '{a}')", lane
    )


def retry(primary: TestDatabase, due: str, *, buried: bool = False) -> None:
    """Insert an event that failed."""
    primary.query(
        "insert into mirror.retries"
        " (id, lane, recorded_at, mapping, key, attempts, due_at, error, buried_at)"
        " values (1, 0, now(), 'users', '{a}', 1, now() + %s::interval, '',"
        " case when %s then now() end)",
        due,
        buried,
    )


def notified(primary: TestDatabase) -> list[str]:
    """Record an event; return the notifications up to a mark that the test sends."""
    with primary.connect() as connection:
        connection.execute("listen mirror")
        record(primary)
        primary.query("select pg_notify('mirror', 'mark')")
        payloads: list[str] = []
        while "mark" not in payloads:
            payloads += [each.payload for each in connection.notifies(timeout=30, stop_after=1)]
    return payloads


def test_an_idle_relay_polls_no_more_often_than_its_interval(polling: RelayBench) -> None:
    """Once it is idle, it runs one statement per interval, and heartbeats; it sends no ring."""
    polling.run(1)
    polling.run(60)
    assert polling.asked <= 60 / 0.2 + 60 / 30 + 1
    assert polling.rung == 0


def test_a_relay_that_polls_writes_a_heartbeat(polling: RelayBench, primary: TestDatabase) -> None:
    """It does so every half minute, for `mirror doctor`; a polling relay leaves no other trace."""
    polling.run(1)
    assert primary.query("select split_part(name, '@', 1) from mirror.heartbeats") == [("relay",)]


def test_an_idle_relay_with_a_listener_runs_few_statements(listening: RelayBench) -> None:
    """In ten seconds it polls once and renews its lease once; each half minute is a heartbeat."""
    listening.run(SLOW)
    listening.run(600)
    assert listening.asked <= 2 * 600 / SLOW + 600 / 30 + 2
    assert listening.rung == 0


def test_an_interval_may_be_long_enough_for_a_compute_to_sleep(primary: TestDatabase) -> None:
    """After an event it polls often, then less and less often, down to the interval."""
    made = make_relay(primary.url, seconds=3600)
    record(primary)
    made.run(2 * 3600)
    made.primary.close()
    made.run(24 * 3600)
    # Each poll is one call, and its heartbeat another.
    assert made.asked <= 2 * 25
    made.relay.close()


@pytest.mark.long
def test_a_new_event_is_rung_for_at_the_next_poll(
    polling: RelayBench, primary: TestDatabase
) -> None:
    """This also holds beside an event that has waited for long, in both lanes."""
    for lane in (1, 1, 0):
        record(primary, lane=lane)
        polling.relay.turn()
        rings = polling.doorbell.rings
        polling.run(600)
        record(primary, lane=lane)
        polling.relay.turn()
        assert polling.doorbell.rings >= rings + 2


def test_an_event_whose_transaction_began_earlier_is_new_all_the_same(
    polling: RelayBench, primary: TestDatabase
) -> None:
    """Its id is lower than others that the relay has seen."""
    with primary.connect(autocommit=False) as slow:
        slow.execute("insert into mirror.outbox (lane, mapping, key) values (1, 'users', '{b}')")
        record(primary)
        polling.run(600)
        slow.commit()
    rings = polling.doorbell.rings
    polling.relay._ring_pause = 1e9
    polling.relay.turn()
    assert polling.doorbell.rings == rings + 1


def test_an_event_that_no_worker_can_mirror_is_rung_for_less_and_less_often(
    polling: RelayBench, primary: TestDatabase
) -> None:
    """If the target is away, for example, each ring would end in a line of the worker's log."""
    record(primary)
    polling.run(60)
    polling.run(600)
    assert 600 / SLOW - 2 <= polling.rung <= 600 / SLOW + 2


def test_a_retry_is_rung_for_when_it_is_due(polling: RelayBench, primary: TestDatabase) -> None:
    """It does not ring earlier, nor each time that the retry is postponed."""
    retry(primary, "1 hour")
    polling.run(60)
    assert polling.rung == 0
    primary.query("update mirror.retries set due_at = now()")
    polling.relay.turn()
    assert polling.doorbell.rings == 1
    for _ in range(300):
        primary.query("update mirror.retries set due_at = now() + interval '1 hour'")
        polling.relay.turn()
        primary.query("update mirror.retries set due_at = now()")
        polling.relay.turn()
    assert polling.doorbell.rings < 30


def test_a_buried_event_is_not_rung_for(polling: RelayBench, primary: TestDatabase) -> None:
    """A user must run `mirror retry` first."""
    retry(primary, "-1 hour", buried=True)
    polling.run(60)
    assert polling.rung == 0


def test_a_relay_that_listens_polls_when_a_retry_is_due(
    listening: RelayBench, primary: TestDatabase
) -> None:
    """No notification announces a retry."""
    listening.run(60)
    retry(primary, "3 seconds")
    listening.relay.turn()
    before = listening.clock()
    listening.relay.turn()
    assert listening.clock() - before <= 3


def test_a_relay_that_listens_rings_for_each_notification_and_polls_once_for_many(
    listening: RelayBench, primary: TestDatabase
) -> None:
    """No event waits for the poll, of which writers that commit in a burst cause one."""
    listening.run(SLOW)
    asked, rings, began = listening.primary.asked, listening.doorbell.rings, listening.clock()
    for _ in range(3):
        record(primary)
    listener = listening.relay.listener
    assert listener is not None
    # Another process of the server sends notifications, a moment after the commit.
    until(lambda: select.select([listener.database.connection], [], [], 0)[0])
    listening.relay._wait(SLOW)
    assert listening.doorbell.rings > rings
    assert listening.primary.asked == asked
    assert listening.clock() - began < SLOW


def test_without_a_relay_that_listens_no_writer_notifies(
    primary: TestDatabase, polling: RelayBench
) -> None:
    """NOTIFY makes commits wait for each other, so a polling relay must not cause it."""
    polling.run(60)
    assert notified(primary) == ["mark"]


def test_the_lease_of_a_relay_that_is_gone_runs_out(
    primary: TestDatabase, listening: RelayBench
) -> None:
    """Writers then stop notifying."""
    assert notified(primary) == ["", "mark"]
    left = primary.value("select extract(epoch from listened_until - now()) from mirror.state")
    assert 0 < left <= LEASE
    listening.relay.close()
    primary.query("update mirror.state set listened_until = now()")
    assert notified(primary) == ["mark"]


def test_a_relay_that_listens_renews_its_lease(
    primary: TestDatabase, listening: RelayBench
) -> None:
    """It does so long before the lease runs out."""
    assert LEASE >= 3 * SLOW
    primary.query("update mirror.state set listened_until = now()")
    listening.run(2 * SLOW)
    assert notified(primary) == ["", "mark"]


def test_a_pooler_in_place_of_a_direct_url_is_found_out(primary: TestDatabase) -> None:
    """LISTEN succeeds there and delivers nothing: the relay logs it, polls, and takes no lease."""
    with TransactionPooler(primary.url) as pooler:
        made = make_relay(pooler.url, listen=pooler.url)
        made.run(10)
        listener = made.relay.listener
        assert listener is not None
        assert (listener.unusable, listener.works) == (True, False)
        record(primary)
        made.run(2 * 0.2)
        assert made.rung
        made.run(10)
        assert made.asked >= 10 / 0.2 - 1
        made.relay.close()
    assert primary.value("select listened_until < now() from mirror.state")


def test_a_listener_that_cannot_connect_does_not_keep_the_relay_from_polling(
    primary: TestDatabase,
) -> None:
    """The cause may be a firewall or an IPv6-only host: it tries again, seldom."""
    made = make_relay(primary.url, listen="postgresql://someone@127.0.0.1:9/nothing")
    made.run(60)
    assert made.asked >= 60 / 0.2 - 1
    record(primary)
    made.run(2 * 0.2)
    assert made.rung
    assert primary.value("select listened_until < now() from mirror.state")
    made.relay.close()


def test_a_listener_whose_connection_ends_is_replaced(
    primary: TestDatabase, listening: RelayBench
) -> None:
    """The relay polls meanwhile."""
    assert listening.relay.listener is not None
    listener = listening.relay.listener
    pid = listener.database.connection.info.backend_pid
    primary.query("select pg_terminate_backend(%s)", pid)

    def lost() -> bool:
        listening.relay.turn()
        return not listener.works

    until(lost)
    record(primary)
    listening.run(2 * 0.2)
    assert listening.rung
    listening.run(10 * SLOW)
    assert listener.works


def test_a_primary_that_is_away_is_polled_seldom() -> None:
    """It makes no busy loop, even with a short interval."""
    made = make_relay("postgresql://someone@127.0.0.1:9/nothing", seconds=0.02)
    made.run(600)
    assert made.asked <= 2 * (600 / 5 + 10)
    assert made.relay._pause > FAST


def test_a_primary_that_is_not_migrated_ends_the_relay(
    primary: TestDatabase, polling: RelayBench
) -> None:
    """Waiting would not help."""
    primary.query("drop schema mirror cascade")
    with pytest.raises(NotMigrated, match="mirror migrate primary"):
        polling.relay.turn()
