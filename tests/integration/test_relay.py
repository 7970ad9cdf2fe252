"""What a relay asks of a real primary, and when it rings, by a clock that a test moves."""

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
    """Time that passes while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class CountingDatabase(Database):
    """Counts what it is asked."""

    asked = 0

    def call(self, *arguments: Any, **options: Any) -> list[Any]:
        """Ask, and count it."""
        self.asked += 1
        return super().call(*arguments, **options)


class CountingDoorbell(Doorbell):
    """Counts rings."""

    def __init__(self) -> None:
        super().__init__(DoorbellSettings(mode="off"))
        self.rings = 0

    def ring(self, after: object = None) -> None:  # noqa: ARG002 - like the other
        """Count."""
        self.rings += 1


class TimelessListener(Listener):
    """Waits by the test's clock, but for what has arrived already."""

    clock: Clock

    def wait(self, seconds: float) -> bool:
        """Take a notification that has arrived; else let the whole time pass."""
        waited = super().wait(0.0 if self.works else 0.05)
        if waited:
            self.clock.sleep(seconds)
        return waited


@dataclass
class Bench:
    """A relay, and what there is to see of it."""

    relay: Relay
    primary: CountingDatabase
    doorbell: CountingDoorbell
    clock: Clock
    asked: int = 0
    rung: int = 0

    def run(self, seconds: float) -> None:
        """Let it work for so long by its clock, and count anew."""
        asked, rings, end = self.primary.asked, self.doorbell.rings, self.clock() + seconds
        while self.clock() < end:
            self.relay.turn()
        self.asked = self.primary.asked - asked
        self.rung = self.doorbell.rings - rings


def bench(url: str, *, seconds: float = 0.2, listen: str | None = None) -> Bench:
    """Return a relay on a bench; `listen` is the URL of its listener."""
    clock, doorbell = Clock(), CountingDoorbell()
    primary = CountingDatabase(url, role="primary")
    listener = None
    if listen is not None:
        listener = TimelessListener(Database(listen, role="primary, to listen"), clock)
        listener.clock = clock
    relay = Relay(
        primary, doorbell, seconds=seconds, listener=listener, clock=clock, sleep=clock.sleep
    )
    return Bench(relay, primary, doorbell, clock)


@pytest.fixture
def polling(primary: TestDatabase) -> Iterator[Bench]:
    """A relay without an listener."""
    made = bench(primary.url)
    yield made
    made.relay.close()


@pytest.fixture
def listening(primary: TestDatabase) -> Iterator[Bench]:
    """A relay whose listener works."""
    made = bench(primary.url, listen=primary.url)
    made.run(SLOW)
    assert made.relay.listener is not None
    assert made.relay.listener.works
    yield made
    made.relay.close()


def record(primary: TestDatabase, *, lane: int = 1) -> None:
    """Insert an event, as a writer would that knows nothing but SQL."""
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
    """Record an event; return what a listener was told, up to a mark of the test's own."""
    with primary.connect() as connection:
        connection.execute("listen mirror")
        record(primary)
        primary.query("select pg_notify('mirror', 'mark')")
        told: list[str] = []
        while "mark" not in told:
            told += [each.payload for each in connection.notifies(timeout=30, stop_after=1)]
    return told


def test_an_idle_relay_polls_no_more_often_than_it_was_told(polling: Bench) -> None:
    """One statement per interval, once it has calmed down; and it rings nobody."""
    polling.run(1)
    polling.run(60)
    assert polling.asked <= 60 / 0.2 + 1
    assert polling.rung == 0


def test_a_relay_that_looks_leaves_word_of_itself(polling: Bench, primary: TestDatabase) -> None:
    """Once a minute, for `mirror doctor`; nobody else knows of one that polls."""
    polling.run(1)
    assert primary.query("select name from mirror.heartbeats") == [("relay",)]


def test_an_idle_relay_with_an_ear_asks_little(listening: Bench) -> None:
    """One look and one renewal of the lease in ten seconds, and a word of itself each minute."""
    listening.run(SLOW)
    listening.run(600)
    assert listening.asked <= 2 * 600 / SLOW + 600 / 60 + 2
    assert listening.rung == 0


def test_an_interval_may_be_long_enough_for_a_compute_to_sleep(primary: TestDatabase) -> None:
    """After an event it looks often, then ever more seldom, down to the interval."""
    made = bench(primary.url, seconds=3600)
    record(primary)
    made.run(2 * 3600)
    made.primary.close()
    made.run(24 * 3600)
    # Each time a look, and with it a word of itself.
    assert made.asked <= 2 * 25
    made.relay.close()


def test_a_new_event_is_rung_for_at_the_next_look(polling: Bench, primary: TestDatabase) -> None:
    """Also beside one that has waited for long, in either lane."""
    for lane in (1, 1, 0):
        record(primary, lane=lane)
        polling.relay.turn()
        rings = polling.doorbell.rings
        polling.run(600)
        record(primary, lane=lane)
        polling.relay.turn()
        assert polling.doorbell.rings >= rings + 2


def test_an_event_whose_transaction_began_earlier_is_new_all_the_same(
    polling: Bench, primary: TestDatabase
) -> None:
    """Its number is below others that the relay has seen."""
    with primary.connect(autocommit=False) as slow:
        slow.execute("insert into mirror.outbox (lane, mapping, key) values (1, 'users', '{b}')")
        record(primary)
        polling.run(600)
        slow.commit()
    rings = polling.doorbell.rings
    polling.relay._ring_pause = 1e9
    polling.relay.turn()
    assert polling.doorbell.rings == rings + 1


def test_what_nobody_can_mirror_is_rung_for_ever_more_seldom(
    polling: Bench, primary: TestDatabase
) -> None:
    """The target is away, say: each ring would end in a line of the worker's log."""
    record(primary)
    polling.run(60)
    polling.run(600)
    assert 600 / SLOW - 2 <= polling.rung <= 600 / SLOW + 2


def test_a_retry_is_rung_for_when_it_is_due(polling: Bench, primary: TestDatabase) -> None:
    """Not before; and not for every time that it is postponed."""
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


def test_nothing_is_rung_for_what_is_buried(polling: Bench, primary: TestDatabase) -> None:
    """Somebody has to say `mirror retry` first."""
    retry(primary, "-1 hour", buried=True)
    polling.run(60)
    assert polling.rung == 0


def test_a_relay_that_listens_is_back_when_a_retry_is_due(
    listening: Bench, primary: TestDatabase
) -> None:
    """Nothing notifies of that."""
    listening.run(60)
    retry(primary, "3 seconds")
    listening.relay.turn()
    before = listening.clock()
    listening.relay.turn()
    assert listening.clock() - before <= 3


def test_without_a_relay_that_listens_nobody_is_notified(
    primary: TestDatabase, polling: Bench
) -> None:
    """NOTIFY makes commits wait for each other: who polls does not cause it."""
    polling.run(60)
    assert notified(primary) == ["mark"]


def test_the_lease_of_a_relay_that_is_gone_runs_out(
    primary: TestDatabase, listening: Bench
) -> None:
    """Then writers no longer notify."""
    assert notified(primary) == ["", "mark"]
    left = primary.value("select extract(epoch from listened_until - now()) from mirror.state")
    assert 0 < left <= LEASE
    listening.relay.close()
    primary.query("update mirror.state set listened_until = now()")
    assert notified(primary) == ["mark"]


def test_a_relay_that_listens_renews_its_lease(primary: TestDatabase, listening: Bench) -> None:
    """Long before it runs out."""
    assert LEASE >= 3 * SLOW
    primary.query("update mirror.state set listened_until = now()")
    listening.run(2 * SLOW)
    assert notified(primary) == ["", "mark"]


def test_a_pooler_in_place_of_a_direct_url_is_found_out(primary: TestDatabase) -> None:
    """LISTEN succeeds there and delivers nothing: the relay says so, polls, and takes no lease."""
    with TransactionPooler(primary.url) as pooler:
        made = bench(pooler.url, listen=pooler.url)
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


def test_an_ear_that_cannot_connect_does_not_keep_the_relay_from_polling(
    primary: TestDatabase,
) -> None:
    """A firewall, an IPv6-only host: it tries again, seldom."""
    made = bench(primary.url, listen="postgresql://someone@127.0.0.1:9/nothing")
    made.run(60)
    assert made.asked >= 60 / 0.2 - 1
    record(primary)
    made.run(2 * 0.2)
    assert made.rung
    assert primary.value("select listened_until < now() from mirror.state")
    made.relay.close()


def test_an_ear_whose_connection_ends_is_replaced(primary: TestDatabase, listening: Bench) -> None:
    """Meanwhile the relay polls."""
    primary.query(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and query like 'listen%'"
    )
    assert listening.relay.listener is not None
    listener = listening.relay.listener

    def lost() -> bool:
        listening.relay.turn()
        return not listener.works

    until(lost)
    record(primary)
    listening.run(2 * 0.2)
    assert listening.rung
    listening.run(10 * SLOW)
    assert listener.works


def test_a_primary_that_is_away_is_asked_seldom() -> None:
    """No busy loop, however short the interval is."""
    made = bench("postgresql://someone@127.0.0.1:9/nothing", seconds=0.02)
    made.run(600)
    assert made.asked <= 2 * (600 / 5 + 10)
    assert made.relay._pause > FAST


def test_a_primary_that_is_not_migrated_ends_the_relay(
    primary: TestDatabase, polling: Bench
) -> None:
    """Waiting would not mend that."""
    primary.query("drop schema mirror cascade")
    with pytest.raises(NotMigrated, match="mirror migrate primary"):
        polling.relay.turn()
