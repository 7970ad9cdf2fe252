"""The commands say of a pair what its workers see; nobody sounds a false alarm."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from mappings.trips import registry
from mirror.diagnostics.figures import read_figures
from mirror.diagnostics.status import find_faults
from mirror.errors import NotPaired, WrongSource
from mirror.settings import Settings
from mirror.sync import orders
from mirror.sync.drain import Drain
from mirror.sync.stepping import find_parting
from tests.support.databases import TestDatabase


def a_second_later(primary: TestDatabase) -> None:
    """Let the primary's last step be old enough for the next one."""
    primary.query("update mirror.pairing set stepped_at = stepped_at - interval '2 seconds'")


def faults(settings: Settings, worker: Drain) -> dict[str, str]:
    """Return what `mirror status` finds."""
    return find_faults(read_figures(settings, registry, worker.source, worker.target))


def test_status_names_a_target_that_knows_another_primary_and_no_step(
    target: TestDatabase, settings: Settings, drain: Drain
) -> None:
    """As after an upgrade: then the server's own identifier decides, and workers are refused."""
    target.query("update mirror.state set identity = '1/-/elsewhere/app'")
    assert "rebase" in faults(settings, drain)["not-paired"]
    with pytest.raises(WrongSource):
        drain.run()


def test_status_names_a_primary_that_is_older_than_its_last_step(
    target: TestDatabase, settings: Settings, drain: Drain
) -> None:
    """One that was loaded from a dump has the right token, and workers are refused."""
    drain.run()
    target.query("update mirror.state set step_fence = %s", 1 << 60)
    assert "rebase" in faults(settings, drain)["not-paired"]


def test_steps_that_go_on_are_no_reason_to_doubt_a_pair(
    primary: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """Each time that the target is asked, a worker takes a step meanwhile."""
    one, other = make_drain(), make_drain()
    one.run()
    describe = one.target.describe

    def slow() -> Any:
        step(primary, other)
        return describe()

    one.target.describe = slow  # type: ignore[method-assign]
    assert find_parting(one.source, one.target) is None


def step(primary: TestDatabase, worker: Drain) -> None:
    """Take a step, as if a second had passed."""
    a_second_later(primary)
    worker._stepping._stepped_at = None
    worker._stepping.step(working=True)


def test_a_slow_worker_takes_steps_beside_a_faster_one_without_an_alarm(
    primary: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """The faster one has read the primary later, and reaches the target before it."""
    slow, fast = make_drain(), make_drain()
    slow.run()
    call, calls = slow.target._call, itertools.count()

    def late(function: str, **arguments: Any) -> Any:
        if function == "step" and next(calls) < 2:
            primary.query("select pg_current_xact_id()")
            step(primary, fast)
        return call(function, **arguments)

    slow.target._call = late  # type: ignore[method-assign]
    step(primary, slow)


@pytest.mark.parametrize("first", ["command", "worker"])
def test_what_another_primary_had_mirrored_says_nothing_of_this_ones_revocations(
    primary: TestDatabase, target: TestDatabase, make_drain: Callable[..., Drain], first: str
) -> None:
    """Whether the command or a worker is the first that tells the target of the new epoch."""
    operator, worker = make_drain(), make_drain()
    operator.run()
    assert target.value("select count(*) from mirror.freshness") > 0
    target.query("update mirror.state set verified_as_of = now(), token = gen_random_uuid()")
    if first == "worker":
        rebase = operator.target.rebase

        def late(identity: str, epoch: int) -> None:
            worker.once()
            rebase(identity, epoch)

        operator.target.rebase = late  # type: ignore[method-assign]
    orders.pair_again(registry, operator.source, operator.target, operator.queue)
    assert target.value("select count(*) from mirror.freshness") == 0
    assert target.value("select verified_as_of from mirror.state") is None
    worker.run()
    assert target.value("select count(*) from mirror.freshness") > 0


def test_a_long_pass_is_refused_once_and_goes_on_with_the_present_step(
    primary: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """It sends many writes with one stamp, while other workers take steps."""
    slow, fast = make_drain(), make_drain()
    slow.run()
    with slow.source.snapshot() as snapshot:
        stamp = snapshot.stamp
    step(primary, fast)
    step(primary, fast)
    call, refused = slow.target._call, []

    def counted(*arguments: Any, **options: Any) -> Any:
        try:
            return call(*arguments, **options)
        except NotPaired:
            refused.append(arguments)
            raise

    slow.target._call = counted  # type: ignore[method-assign]
    for _ in range(3):
        slow.target.apply(stamp, [])
    assert len(refused) == 1
