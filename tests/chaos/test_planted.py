"""A run notices each violation; otherwise its silence would prove nothing.

Each test plants one bug and runs without faults: the bug alone must violate the invariant.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.chaos.report import Report
from tests.chaos.run import Plan, run
from tests.chaos.servers import Servers


def planted(home: Path, side: str, statements: str, *, bound: float = 60.0) -> Report:
    """Run for a few seconds with a bug in one of the databases."""

    def plant(servers: Servers) -> None:
        {"primary": servers.primary, "target": servers.target}[side].query(statements)

    plan = Plan(1, 4.0, "postgres", ("hooks",), bound, drain_seconds=8, faults=False, prepare=plant)
    return run(plan, home / "run")


def trigger(table: str, when: str, body: str) -> str:
    """Return SQL for a trigger before each row."""
    return (
        f"create function public.bug() returns trigger language plpgsql as $$begin {body} end$$;"
        f" create trigger bug before {when} on {table} for each row execute function public.bug()"
    )


@pytest.fixture
def home(data: Path) -> Iterator[Path]:
    """A directory for the servers' files."""
    with TemporaryDirectory(dir=data) as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


def test_events_that_are_lost_violate_the_equality(home: Path) -> None:
    """The outbox drops those of users, so new names and users without a trip do not arrive."""
    lost = "new.mapping = 'users'"
    bug = trigger("mirror.outbox", "insert", f"if {lost} then return null; end if; return new;")
    report = planted(home, "primary", bug)
    assert "rows differ" in str(report.violations["equality"])
    assert "a reconcile finds" in str(report.violations["equality"])
    assert "writers" not in report.violations


def test_an_event_that_is_left_over_violates_the_equality(home: Path) -> None:
    """It never becomes due again."""
    bug = (
        "insert into mirror.retries (id, lane, recorded_at, mapping, key, attempts, due_at, error)"
        " values (0, 0, now(), 'users', '{x}', 1, 'infinity', 'planted')"
    )
    report = planted(home, "primary", bug)
    assert "hooks: users is still in mirror.retries: planted" in report.violations["equality"]


def test_a_helper_that_allows_too_much_violates_the_access(home: Path) -> None:
    """The rows are right."""
    bug = (
        "create or replace function mirror.has_trip_role(resource uuid, min_role text)"
        " returns boolean language sql stable as 'select true'"
    )
    report = planted(home, "target", bug)
    assert "still reads trip" in str(report.violations["access"])
    assert "equality" not in report.violations


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("raise exception 'planted'", "a transaction failed"),
        ("perform pg_sleep(1); return new", "a transaction took more than 0.9 s"),
    ],
)
def test_an_outbox_that_refuses_or_waits_violates_the_writers(
    home: Path, body: str, expected: str
) -> None:
    """No event may cost a writer its transaction, or its patience."""
    bug = trigger("mirror.outbox", "insert", f"if new.lane = 0 then {body}; end if; return new;")
    report = planted(home, "primary", bug, bound=0.9)
    assert report.violations["writers"][0].startswith(expected)
