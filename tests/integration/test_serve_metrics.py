"""Metrics and probes: what is scraped from real databases, and whether the alerts see it."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from examples.trip_chat.models import Membership
from mirror import __version__
from mirror.devstack import RedisServer
from mirror.serve.metrics import HELP, LABELS
from mirror.sync.drain import Drain
from tests.support.databases import TestDatabase
from tests.support.reconciling import Reconciling
from tests.support.serving import Visit, Visitor

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
NOWHERE = "postgresql://someone:hunter2@127.0.0.1:9/nothing"
WAITS = """
insert into mirror.outbox (recorded_at, lane, mapping, key)
values (now() - %s::interval, %s, %s, '{a}')
"""
BURIED = """
insert into mirror.retries
  (id, lane, recorded_at, mapping, key, attempts, due_at, error, buried_at)
values (1, 0, now() - interval '9 min', 'trips', '{a}', 5, now(), 'Rejected: no', now())
"""

Samples = dict[tuple[str, ...], float]
"""By name and values of labels: the value."""


def scrape(visitor: Visitor) -> Samples:
    """Return all samples."""
    answer = visitor.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *(sample.labels[label] for label in LABELS[sample.name])): sample.value
        for family in text_string_to_metric_families(answer.text)
        if family.type != "histogram"
        for sample in family.samples
    }


def test_a_scrape_has_the_figures_of_both_sides(
    members: list[Membership],
    drain: Drain,
    reconcile: Reconciling,
    primary: TestDatabase,
    redis_server: RedisServer,
    visit: Visit,
) -> None:
    """With names, labels and units as documented."""
    primary.query("delete from trip_memberships where user_id = %s", members[0].user_id)
    assert reconcile().outcome == "repaired"
    primary.query("insert into mirror.outcomes values ('users', 'in_force', 3)")
    primary.query(WAITS, "2 min", 0, "trips")
    primary.query(WAITS, "9 min", 1, "users")
    primary.query(
        "insert into mirror.heartbeats values ('drain', now() - interval '1 min')"
        " on conflict (name) do update set seen_at = excluded.seen_at"
    )
    primary.query(BURIED)
    found = scrape(visit(redis_url=redis_server.url))
    assert found["mirror_info", __version__] == 1
    assert [found["mirror_up", side] for side in ("primary", "target", "broker")] == [1, 1, 1]
    assert found["mirror_outbox_waiting", "revocation"] == 1
    assert 120 <= found["mirror_outbox_oldest_age_seconds", "revocation"] < 180
    assert 540 <= found["mirror_outbox_oldest_age_seconds", "grant"] < 600
    assert 540 <= found["mirror_open_revocation_age_seconds",] < 600
    assert (found["mirror_retries", "retrying"], found["mirror_retries", "dead"]) == (0, 1)
    assert (found["mirror_faults", "buried"], found["mirror_faults", "stuck"]) == (1, 0)
    assert found["mirror_reconcile_drift_rows", "trip_memberships", "over_grant"] == 1
    assert found["mirror_reconcile_drift_rows", "trips", "over_grant"] == 0
    assert found["mirror_reconcile_remaining_over_grants", "trip_memberships"] == 0
    now = primary.value("select extract(epoch from now())::float8")
    assert 60 <= now - found["mirror_part_seen_timestamp_seconds", "worker"] < 120
    assert 0 <= now - found["mirror_reconcile_timestamp_seconds",] < 60
    assert found["mirror_broker_messages",] == 0
    assert found["mirror_events_total", "users", "in_force"] == 3


@pytest.mark.parametrize("side", ["primary", "target"])
def test_figures_of_a_side_that_does_not_answer_are_absent_and_never_zero(
    side: str, visit: Visit
) -> None:
    """Only that the side is down is known."""
    url = {"primary": "primary_database_url", "target": "supabase_db_url"}[side]
    found = scrape(visit(**{url: NOWHERE}))
    other = {"primary": "target", "target": "primary"}[side]
    assert (found["mirror_up", side], found["mirror_up", other]) == (0, 1)
    names = {name for name, *_ in found}
    assert "mirror_faults" not in names
    of_primary = {"mirror_outbox_waiting", "mirror_retries", "mirror_open_revocation_age_seconds"}
    assert of_primary & names == (set() if side == "primary" else of_primary)
    assert ("mirror_target_withheld_keys" in names) is (side == "primary")


def test_no_writer_can_add_labels(primary: TestDatabase, visit: Visit) -> None:
    """A writer decides which names of mappings are in the outbox; ids are in no label."""
    primary.query(WAITS, "1 s", 0, "invented")
    primary.query("insert into mirror.heartbeats (name) values ('invented')")
    primary.query("insert into mirror.outcomes values ('invented', 'dead', 1)")
    primary.query(
        "insert into mirror.runs (finished_at, started_by, holder, outcome, report)"
        """ values (now(), 'hand', 'x', 'drift', '{"mappings": [{"mapping": "invented"}]}')"""
    )
    text = visit().get("/metrics").text
    assert "invented" not in text
    for labels in re.findall(r"\{(.*?)\}", text):
        assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}", labels)


def test_healthz_outlives_every_outage_and_readyz_names_it(
    primary: TestDatabase, project: TestDatabase, visit: Visit
) -> None:
    """Nothing is restarted because Supabase is down, and nothing unmigrated is called ready."""
    assert visit().get("/readyz").text == "ready"
    for changes, says in [
        ({"supabase_db_url": NOWHERE}, "target: the database cannot be reached"),
        ({"primary_database_url": NOWHERE}, "primary: the database cannot be reached"),
        ({"supabase_db_url": project.url}, "mirror migrate supabase"),
    ]:
        visitor = visit(**changes)
        assert visitor.get("/healthz").text == "alive"
        answer = visitor.get("/readyz")
        assert (answer.status_code, says in answer.text) == (503, True), answer.text
        assert "hunter2" not in answer.text
    primary.query("delete from mirror.migrations where name = '0009_receipts'")
    answer = visit().get("/readyz")
    assert (answer.status_code, "0009_receipts is missing" in answer.text) == (503, True)


# Prometheus's own tool


@pytest.fixture(scope="session")
def promtool() -> str:
    """The path of promtool; without it, the tests are skipped, except in CI."""
    found = shutil.which("promtool")
    if found is None and "CI" not in os.environ:
        pytest.skip("promtool is missing; on Debian it is in the package prometheus")
    assert found is not None, "promtool is missing"
    return found


def run(*command: str | Path, text: str | None = None) -> None:
    """Run a program, which must succeed."""
    done = subprocess.run(
        [str(part) for part in command], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_a_scrape(
    promtool: str,
    members: list[Membership],
    primary: TestDatabase,
    redis_server: RedisServer,
    visit: Visit,
) -> None:
    """Names, types and help by convention."""
    run(promtool, "check", "metrics", text=visit(redis_url=redis_server.url).get("/metrics").text)


@pytest.mark.long
def test_promtool_accepts_the_alerts_and_they_fire_when_they_should(promtool: str) -> None:
    """The cases are in `deploy/alerts.test.yml`."""
    run(promtool, "check", "rules", "--lint-fatal", DEPLOY / "alerts.yml")
    run(promtool, "test", "rules", DEPLOY / "alerts.test.yml")


def test_a_stopped_worker_makes_the_alerts_true_and_its_start_makes_them_false(
    promtool: str,
    tmp_path: Path,
    members: list[Membership],
    primary: TestDatabase,
    drain: Drain,
    visit: Visit,
) -> None:
    """The values are those of real scrapes."""
    drain.run()
    visitor = visit()
    primary.query(
        "insert into mirror.outbox (recorded_at, mapping, key)"
        " values (now() - interval '50 s', 'users', array[%s])",
        str(members[0].user_id),
    )
    stopped = scrape(visitor)
    drain.run()
    started = scrape(visitor)
    for samples, fires in ((stopped, True), (started, False)):
        series = [
            {"series": f'{name}{{{label}="{value}"}}', "values": f"{number}x4"}
            for (name, *values), number in samples.items()
            for label, value in zip(LABELS.get(name, ()), values, strict=False)
            if name == "mirror_outbox_oldest_age_seconds"
        ]
        alerts = [
            {
                "eval_time": "30s",
                "alertname": name,
                "exp_alerts": [{"exp_labels": {"severity": severity}}] if fires else [],
            }
            for name, severity in (
                ("MirrorRevocationLate", "warning"),
                ("MirrorRevocationOverdue", "page"),
            )
        ]
        # The text of the annotations is another test's subject.
        rules = re.sub(
            r"(?m)^ +(annotations|summary|remedy):.*\n", "", (DEPLOY / "alerts.yml").read_text()
        )
        (tmp_path / "rules.yml").write_text(rules)
        case = {"interval": "15s", "input_series": series, "alert_rule_test": alerts}
        test = {"rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": [case]}
        (tmp_path / "test.yml").write_text(json.dumps(test))
        run(promtool, "test", "rules", tmp_path / "test.yml")


def queries() -> list[str]:
    """Return each query of the dashboard."""
    board: dict[str, Any] = json.loads((DEPLOY / "dashboard.json").read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [query.replace("$__rate_interval", "5m") for query in found]


def test_each_metric_of_the_alerts_and_of_the_dashboard_exists() -> None:
    """With the labels that it has."""
    texts = [*queries(), (DEPLOY / "alerts.yml").read_text()]
    used = set(re.findall(r"\bmirror_\w+", " ".join(texts)))
    assert len(used) > 8
    suffix = re.compile(r"_(bucket|count|sum)$")
    assert {suffix.sub("", name) for name in used} <= set(HELP)
    for name, label in re.findall(r"(mirror_\w+)\{(\w+)=", " ".join(texts)):
        assert label in LABELS[name]


def test_promtool_parses_each_query_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    """As the expression of a recording rule."""
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries())]
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    run(promtool, "check", "rules", path)


def test_the_documentation_lists_each_metric_with_its_labels_and_meaning() -> None:
    """The rows of the table are those of the code."""
    page = (ROOT / "docs" / "serve.md").read_text()
    for name, meaning in HELP.items():
        labels = ", ".join(f"`{label}`" for label in LABELS[name])
        row = f"| `{name}` | {labels} | {meaning} |"
        assert row in page, row
    assert set(re.findall(r"(?m)^\| `(mirror_\w+)` \|", page)) == set(HELP)
