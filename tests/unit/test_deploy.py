"""The files of `deploy/` are well formed, and agree with each other and with the documentation."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mirror.capture.doorbell import DoorbellSettings
from mirror.settings import Settings, variable

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
ANALYZE = shutil.which("systemd-analyze")
COMMANDS = {
    "run": "mirror run",
    "worker": "celery -A mirror.worker worker --concurrency=2",
    "beat": "celery -A mirror.worker beat",
    "relay": "mirror relay",
}


def manifests() -> list[dict[str, Any]]:
    """Return the resources of all manifests."""
    return [part for path in MANIFESTS for part in yaml.safe_load_all(path.read_text())]


def containers() -> dict[str, dict[str, Any]]:
    """Return the containers of all manifests by name."""
    pods = [resource["spec"]["template"]["spec"] for resource in manifests()]
    return {each["name"]: each for pod in pods for each in pod["containers"]}


@pytest.mark.skipif(sys.platform != "linux", reason="hadolint's package has no wheel for every Mac")
def test_hadolint_finds_no_fault_in_the_dockerfile() -> None:
    """No engine was there to build it."""
    done = subprocess.run(
        [Path(sys.executable).parent / "hadolint", "--format=json", DEPLOY / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("resource", manifests(), ids=lambda each: str(each["metadata"]["name"]))
def test_kubernetes_accepts_the_manifests(resource: dict[str, Any]) -> None:
    """By the schemas of the newest version that the package knows, without unknown fields."""
    kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.skipif(ANALYZE is None, reason="no systemd on this machine")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """The command's path is that of this environment."""
    for path in (DEPLOY / "systemd").iterdir():
        text = path.read_text().replace("/opt/mirror/.venv/bin", str(Path(sys.executable).parent))
        (tmp_path / path.name.replace("@.", "@run.")).write_text(text)
        (tmp_path / path.name).write_text(text)
    units = [path for path in tmp_path.iterdir() if "@." not in path.name]
    done = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_file_starts_the_same_commands() -> None:
    """Procfile, Compose, systemd and Kubernetes; the guide shows the same."""
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert lines == COMMANDS | {"release": "mirror migrate"}
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    run = {name: shlex.join(services[name]["command"]) for name in COMMANDS}
    assert run == COMMANDS
    units = {name: (DEPLOY / "systemd" / f"mirror-{name}.service").read_text() for name in COMMANDS}
    for name, text in units.items():
        assert f"ExecStart=/opt/mirror/.venv/bin/{COMMANDS[name]}\n" in text
    assert {name: shlex.join(containers()[name]["command"]) for name in COMMANDS} == COMMANDS
    guide = (ROOT / "docs" / "guide.md").read_text()
    assert all(command in guide for command in COMMANDS.values())


def test_each_health_check_asks_for_its_own_part() -> None:
    """One that asked for another part would restart the wrong process."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name in COMMANDS:
        ask = ["mirror", "health", "--part", name]
        for probe in ("livenessProbe", "startupProbe"):
            found = containers()[name].get(probe)
            assert found is None or found["exec"]["command"] == ask
        found = services[name].get("healthcheck", {}).get("test")
        assert found is None or found == ["CMD", *ask]
    assert '"--part", "run"' in (DEPLOY / "Dockerfile").read_text()


def test_platforms_wait_longer_than_the_end_of_a_process_takes() -> None:
    """Kubernetes, Compose and systemd."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert {services[name]["stop_grace_period"] for name in COMMANDS} == {"40s"}
    pods = [
        each["spec"]["template"]["spec"] for each in manifests() if each["kind"] == "Deployment"
    ]
    assert {pod["terminationGracePeriodSeconds"] for pod in pods} == {40}
    for name in COMMANDS:
        assert "TimeoutStopSec=40\n" in (DEPLOY / "systemd" / f"mirror-{name}.service").read_text()
    assert "KillMode=mixed\n" in (DEPLOY / "systemd" / "mirror-worker.service").read_text()


def variables_of(column: str) -> dict[str, str]:
    """Return the variables that docs/deploy.md names for a process, and what it says of each."""
    text = (ROOT / "docs" / "deploy.md").read_text().split("## Health")[0]
    rows = [row.split("|")[1:-1] for row in text.splitlines() if row.startswith("| ")]
    rows = [row for row in rows if "---" not in row[0]]
    place = [cell.strip().strip("`") for cell in rows[0]].index(column)
    return {
        name: row[place].strip()
        for row in rows[1:]
        for name in re.findall(r"`([A-Z_]+)`", row[0])
        if row[place].strip()
    }


def test_the_table_of_variables_names_only_settings() -> None:
    """Those of a worker, and those of a backend's doorbell."""
    known = {variable(name) for name in Settings.model_fields}
    known |= {f"MIRROR_DOORBELL{suffix}" for suffix in ("", "_SECONDS", "_QUIET_SECONDS")}
    assert DoorbellSettings().mode == "thread"
    for column in ("backend", "mirror run", "worker", "beat", "mirror relay", "mirror health"):
        assert set(variables_of(column)) <= known


@pytest.mark.parametrize(
    ("service", "column"),
    [("run", "mirror run"), ("worker", "worker"), ("beat", "beat"), ("relay", "mirror relay")],
)
def test_compose_sets_what_the_table_says(service: str, column: str) -> None:
    """All that a process cannot do without, and nothing that it does not use."""
    text = (DEPLOY / "compose.yaml").read_text()
    given = set(yaml.safe_load(text)["services"][service]["environment"])
    table = variables_of(column)
    assert {name for name, says in table.items() if says.startswith("**yes**")} <= given
    assert given <= set(table)
