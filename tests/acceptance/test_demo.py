"""`mirror demo` and `mirror dev`, as a new user runs them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
import redis

from tests.support.blocks import PAGES, blocks
from tests.support.forking import HOME
from tests.support.waiting import until

# Each test starts whole demos; `make demo` plays one, too.
pytestmark = pytest.mark.long

MIRROR = str(Path(sys.executable).parent / "mirror")
# The stories of the models, as docs/models/consultations.md, structure.md and others show them.
STORIES = sorted(
    {
        story
        for path in PAGES
        for story in re.findall(r"python -m (examples\.\w+)", path.read_text(encoding="utf-8"))
    }
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Only a PATH, and a directory for temporary files that must be empty at the end."""
    tmp_path.chmod(0o755)
    return {"PATH": os.environ["PATH"], "COLUMNS": "100"}


@pytest.mark.parametrize("options", [[], ["--rest"]], ids=["sql", "rest"])
def test_the_demo_shows_every_expectation_held(
    environment: dict[str, str], options: list[str]
) -> None:
    """The exit code is 0, each line has a tick and a time, and no process is left running."""
    done = subprocess.run(
        [MIRROR, "demo", *options],
        cwd=HOME,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("✓") for line in lines) == 14
    assert not any(line.startswith("✗") for line in lines)
    assert lines[-1].startswith("All expectations held")


@pytest.mark.parametrize("story", STORIES)
def test_the_story_of_a_model_plays_as_its_page_says(
    environment: dict[str, str], story: str
) -> None:
    """On servers of its own; each line is a step that held."""
    done = subprocess.run(
        [sys.executable, "-m", story],
        cwd=HOME,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") > 3


def test_each_story_that_can_be_played_is_on_a_page() -> None:
    """That of the trips is `mirror demo`."""
    programs = (HOME / "examples").glob("*/__main__.py")
    found = {f"examples.{program.parent.name}" for program in programs}
    assert found - {"examples.trip_chat"} == set(STORIES)


@contextmanager
def running(environment: dict[str, str], *options: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a running `mirror dev`, and stop it at the end of the test.

    It starts with SIGINT ignored, as when a shell starts a process in the background.
    """
    process = subprocess.Popen(
        ["/bin/sh", "-c", 'trap "" INT; exec "$0" dev "$@"', MIRROR, *options],
        cwd=HOME,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def exported(process: subprocess.Popen[str]) -> dict[str, str]:
    """Return the variables that it asks the user to export, once it says that it runs."""
    assert process.stdout is not None
    urls: dict[str, str] = {}
    for line in process.stdout:
        found = re.match(r"export (\w+)=(\S+)", line)
        if found:
            urls[found[1]] = found[2]
        if "Ctrl-C" in line:
            break
    return urls


def test_dev_empty_prints_text_for_a_shell_and_has_nothing_but_two_users(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """A shell takes all that it prints; neither database has an object of the mirror or a table."""
    with running(environment, "--empty") as process:
        text = ""
        assert process.stdout is not None
        for line in process.stdout:
            text += line
            if "Ctrl-C" in line:
                break
        printed = tmp_path / "env.sh"
        printed.write_text(text)
        page = (HOME / "docs" / "commands.md").read_text(encoding="utf-8")
        (shown,) = (each.text for each in blocks(page) if each.note.endswith("test_demo.py"))
        names = re.findall(r"^export (\w+)=", text, re.MULTILINE)
        assert names == re.findall(r"^export (\w+)=", shown, re.MULTILINE)
        assert text.splitlines()[-1] == shown.splitlines()[-1]
        shell = f'. {printed}; printf "%s\\n" {" ".join(f"${name}" for name in names)}'
        done = subprocess.run(
            ["/bin/sh", "-ec", shell], env={}, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        values = dict(zip(names, done.stdout.split(), strict=True))

        for name in ("PRIMARY_DATABASE_URL", "SUPABASE_DB_URL"):
            with psycopg.connect(values[name]) as connection:
                found = connection.execute(
                    "select (select count(*) from pg_tables where schemaname in ('public',"
                    " 'mirror')), to_regnamespace('mirror') is null"
                ).fetchone()
            assert found == (0, True)
        with psycopg.connect(values["SUPABASE_DB_URL"]) as connection:
            users = connection.execute("select id::text from auth.users").fetchall()
        assert {user for (user,) in users} == {values["ADA"], values["EVE"]}
        with redis.Redis.from_url(values["REDIS_URL"]) as client:
            assert client.dbsize() == 0

        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")


def test_dev_empty_has_no_api(environment: dict[str, str]) -> None:
    """The command ends at once, and names the option to leave out."""
    with running(environment, "--empty", "--rest") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors == "error: --empty starts no REST API: leave out --rest.\n"


def process_list() -> str:
    """Return the arguments of every process, which any user of the machine can read."""
    found = []
    for arguments in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(arguments.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return "\n".join(found)


def test_dev_over_rest_prints_its_keys_and_shows_them_to_no_other_user(
    environment: dict[str, str],
) -> None:
    """The commands need only the printed variables; the machine's process list shows no key."""
    with running(environment, "--rest") as process:
        urls = exported(process)
        keys = [urls["SUPABASE_SECRET_KEY"], urls["SUPABASE_PUBLISHABLE_KEY"]]
        listed = process_list()
        assert "lite.mjs" in listed
        assert not any(key in listed for key in keys)
        del urls["SUPABASE_DB_URL"]
        done = subprocess.run(
            [MIRROR, "status"],
            cwd=HOME,
            env=environment | urls,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert not any(key in done.stdout for key in keys)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("stop_signal", [signal.SIGINT, signal.SIGTERM])
def test_dev_prints_its_urls_and_cleans_up_on_a_signal(
    environment: dict[str, str], stop_signal: signal.Signals
) -> None:
    """The printed URLs answer while it runs, and do not answer afterwards."""
    with running(environment) as process:
        urls = exported(process)
        assert set(urls) == {"PRIMARY_DATABASE_URL", "SUPABASE_DB_URL", "REDIS_URL"}
        with psycopg.connect(urls["SUPABASE_DB_URL"]) as connection:
            row = connection.execute("select count(*) from mirror.mappings").fetchone()
        assert row == (3,)

        process.send_signal(stop_signal)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")

    def gone() -> bool:
        try:
            psycopg.connect(urls["PRIMARY_DATABASE_URL"], connect_timeout=2).close()
        except psycopg.OperationalError:
            return True
        return False

    until(gone)
