"""The real `mirror reconcile`, `sync` and `verify`, as a person or a scheduler runs them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery
from celery.schedules import crontab
from sqlalchemy.orm import Session

from examples.trip_chat.models import Membership
from mirror.devstack import RedisServer
from mirror.errors import ConfigError
from mirror.settings import load_settings
from mirror.worker import create_app
from tests.acceptance.conftest import Command, StartService, StartWorker
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory
from tests.support.forking import HOME
from tests.support.services import Service
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("no_environment")

AT_ONCE = {"MIRROR_RECONCILE_GRACE_SECONDS": "0"}


@pytest.fixture
def people(session: Session, mirror: Command) -> list[Membership]:
    """Three members, mirrored by a first reconcile."""
    made = [MembershipFactory() for _ in range(3)]
    session.commit()
    done = mirror("reconcile", **AT_ONCE)
    assert done.code == 0, done.text
    assert "3 row(s): the target never had it" in done.out
    assert "repaired: 12 rows compared" in done.out
    return made


def test_it_says_which_rows_differed_why_and_whether_they_were_repaired(
    mirror: Command, people: list[Membership], target: TestDatabase
) -> None:
    """It prints text or JSON; a difference that is not repaired is exit code 1."""
    target.query("update trip_memberships set role = 'OWNER' where user_id = %s", people[0].user_id)
    done = mirror("reconcile", "--dry-run", **AT_ONCE)
    assert done.code == 1
    assert "the target was edited by hand" in done.out
    assert f"changed (over-grant) {people[0].trip_id},{people[0].user_id}" in done.out
    assert "drift, nothing was changed" in done.out

    done = mirror("reconcile", "--json", "--mapping", "trip_memberships", **AT_ONCE)
    assert done.code == 0, done.text
    report = json.loads(done.out)
    (part,) = report["mappings"]
    assert (report["outcome"], part["over_grants"], part["repaired"]) == ("repaired", 1, 1)
    assert part["keys"][0]["key"] == [str(people[0].trip_id), str(people[0].user_id)]
    assert (part["keys_left_out"], report["bytes_moved"] > 0) == (0, True)
    assert mirror("reconcile", **AT_ONCE).code == 0


def test_deletes_that_are_held_back_are_exit_code_3(
    mirror: Command, people: list[Membership], primary: TestDatabase, target: TestDatabase
) -> None:
    """The report names the flag; `status` also exits with 1 until a user confirms the deletes."""
    primary.query("delete from trip_memberships")
    done = mirror("reconcile", **AT_ONCE)
    assert done.code == 3
    assert "mirror reconcile --confirm trip_memberships" in done.out
    assert target.value("select count(*) from trip_memberships") == 3
    assert mirror("status").code == 1
    assert mirror("reconcile", "--confirm", "trip_memberships", **AT_ONCE).code == 0
    assert target.value("select count(*) from trip_memberships") == 0
    done = mirror("status")
    assert (done.code, "reconciled" in done.out) == (0, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--mapping", "journeys"],
        ["--confirm", "journeys"],
        ["--since-key", "x"],
        ["--mapping", "trips", "--since-key", "x"],
        ["--mapping", "trip_memberships", "--since-key", "[1"],
        ["--max-deletes", "-1"],
    ],
)
def test_arguments_that_it_cannot_understand_are_exit_code_2(
    mirror: Command, arguments: list[str]
) -> None:
    """It exits before it reads any row."""
    assert mirror("reconcile", *arguments).code == 2


Start = Callable[[], Service]


@pytest.fixture
def start(
    primary: TestDatabase,
    target: TestDatabase,
    people: list[Membership],
    start_service: StartService,
) -> Start:
    """Return a function that starts a reconcile, which has found drift and waits for a minute."""
    target.query("update trip_memberships set role = 'OWNER'")

    def run() -> Service:
        variables = {
            "PRIMARY_DATABASE_URL": primary.url,
            "SUPABASE_DB_URL": target.url,
            "MIRROR_RECONCILE_GRACE_SECONDS": "60",
        }
        process = start_service("reconcile", variables)
        running = "select count(*) from mirror.runs where outcome = 'running'"
        until(lambda: primary.value(running) == 1)
        # Every mapping was compared: the sessions of both sides are idle, and the process waits.
        until(
            lambda: target.value(
                "select count(*) from pg_stat_activity where datname = current_database()"
                " and application_name = 'permission-mirror' and query like '%trip_memberships%'"
                " and state = 'idle'"
            )
        )
        return process

    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_gives_its_lease_back(
    mirror: Command,
    start: Start,
    primary: TestDatabase,
    target: TestDatabase,
    number: signal.Signals,
) -> None:
    """The next run can begin at once, and repairs the drift that this one found."""
    process = start()
    assert process.end(number) == 130, process.log.read_text()
    assert primary.query("select outcome from mirror.runs order by id desc limit 1") == [
        ("stopped",)
    ]
    assert mirror("reconcile", **AT_ONCE).code == 0
    assert target.value("select count(*) from trip_memberships where role = 'OWNER'") == 0


def test_a_run_that_was_killed_holds_up_others_no_longer_than_its_lease(
    mirror: Command, start: Start, primary: TestDatabase, target: TestDatabase
) -> None:
    """Until the lease ends, other runs name its holder and exit; this is not an error."""
    process = start()
    done = mirror("reconcile", **AT_ONCE)
    assert (done.code, f":{process.process.pid} reconciles now" in done.err) == (0, True), done.text
    process.kill()
    assert f":{process.process.pid} reconciles now" in mirror("reconcile", **AT_ONCE).err
    assert target.value("select count(*) from trip_memberships where role = 'OWNER'") == 3
    primary.query("update mirror.leases set expires_at = now()")
    assert mirror("reconcile", "--wait", **AT_ONCE).code == 0
    assert target.value("select count(*) from trip_memberships where role = 'OWNER'") == 0


def test_sync_repairs_named_keys_and_verify_looks_at_some(
    mirror: Command, people: list[Membership], target: TestDatabase
) -> None:
    """Keys are given in the form in which a user types them."""
    target.query("update trip_memberships set role = 'OWNER'")
    first, second = (f"{person.trip_id},{person.user_id}" for person in people[:2])
    done = mirror("verify", "trip_memberships", "--sample", "20")
    assert done.code == 1
    assert f"changed (over-grant) {first}" in done.out
    done = mirror("sync", "trip_memberships", first, json.dumps(second.split(",")))
    assert (done.code, "2 key(s) brought up to date, 2 had drifted" in done.out) == (0, True)
    assert target.value("select count(*) from trip_memberships where role = 'OWNER'") == 1
    assert mirror("sync", "trip_memberships", "x,y").code == 2
    assert mirror("sync", "trip_memberships", first.split(",")[0]).code == 2
    assert mirror("verify", "users", "--sample", "20").code == 0


def test_a_worker_reconciles_when_the_task_arrives(
    people: list[Membership],
    primary: TestDatabase,
    target: TestDatabase,
    redis_server: RedisServer,
    start_worker: StartWorker,
    worker_log: Path,
) -> None:
    """Its task comes as beat would send it; the log has the counts and no key."""
    target.query("update trip_memberships set role = 'OWNER'")
    start_worker(beat="no", **AT_ONCE)
    Celery(broker=redis_server.url).send_task("mirror.reconcile", queue="mirror")
    until(lambda: "reconciled" in worker_log.read_text())
    assert target.value("select count(*) from trip_memberships where role = 'OWNER'") == 0
    assert primary.value("select started_by from mirror.runs order by id desc limit 1") == "beat"
    assert str(people[0].trip_id) not in worker_log.read_text()


def test_beat_reconciles_at_night_unless_a_setting_changes_it() -> None:
    """The default is a cron expression; `off` is for platforms that have their own scheduler."""

    def entry(**settings: str) -> object:
        schedule = create_app(lambda: load_settings(**settings)).conf.beat_schedule
        return schedule.get("reconcile", {}).get("schedule")

    assert entry() == crontab(minute="40", hour="3")
    assert entry(reconcile_cron="0 */6 * * mon-fri") == crontab(
        minute="0", hour="*/6", day_of_week="mon-fri"
    )
    assert entry(reconcile_cron="off") is None
    for wrong in ("99 * * * *", "* * * * nighttime", "daily"):
        with pytest.raises(ConfigError, match="MIRROR_RECONCILE_CRON"):
            entry(reconcile_cron=wrong)


def test_a_terminal_shows_a_progress_bar(
    people: list[Membership], primary: TestDatabase, target: TestDatabase
) -> None:
    """Standard error shows a progress bar; standard output has the report alone."""
    ours, theirs = os.openpty()
    done = subprocess.run(
        [str(Path(sys.executable).parent / "mirror"), "reconcile", "--json"],
        cwd=HOME,
        env={
            "PATH": os.environ["PATH"],
            "TERM": "xterm",
            "PRIMARY_DATABASE_URL": primary.url,
            "SUPABASE_DB_URL": target.url,
        },
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=60,
        check=True,
    )
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "compare trip_memberships" in shown
    assert json.loads(done.stdout)["outcome"] == "in line"
