"""The commands on a terminal: colours, bars, and a page that is printed again and again."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from tests.acceptance.conftest import Command
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory
from tests.support.forking import HOME
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("no_environment")

COLUMNS = 60
RED, GREEN = "\x1b[1;31m", "\x1b[1;32m"


class Terminal:
    """A command on a terminal of 60 columns."""

    def __init__(self, arguments: tuple[str, ...], variables: dict[str, str]) -> None:
        self._end, process_end = pty.openpty()
        fcntl.ioctl(process_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            [str(Path(sys.executable).parent / "mirror"), *arguments],
            cwd=HOME,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(HOME), "TERM": "xterm"} | variables,
            stdin=process_end,
            stdout=process_end,
            stderr=process_end,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads
        )
        os.close(process_end)
        os.set_blocking(self._end, False)
        self.shown = ""

    def read(self) -> str:
        """Return all that it has shown until now."""
        # An error means that the command has ended and closed its side.
        with suppress(OSError):
            while data := os.read(self._end, 65_536):
                self.shown += data.decode(errors="replace")
        return self.shown

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self._end, text.encode())

    def finish(self) -> int:
        """Wait for the command's end; return its exit code."""
        until(lambda: self.read() is None or self.process.poll() is not None, seconds=60)
        self.read()
        return self.process.returncode

    def close(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._end)


On = Callable[..., Terminal]


@pytest.fixture
def on(primary: TestDatabase, target: TestDatabase, tmp_path: Path) -> Iterator[On]:
    """Return a function that runs `mirror` on a terminal."""
    started: list[Terminal] = []

    def on(*arguments: str) -> Terminal:
        variables = {
            "PRIMARY_DATABASE_URL": primary.url,
            "SUPABASE_DB_URL": target.url,
            "MIRROR_RECONCILE_GRACE_SECONDS": "0",
            "HOME": str(tmp_path),
        }
        started.append(Terminal(arguments, variables))
        return started[-1]

    yield on
    for each in started:
        each.close()


@pytest.fixture
def members(session: Session) -> None:
    """Thirty members."""
    for _ in range(30):
        MembershipFactory()
    session.commit()


def plain(shown: str) -> str:
    """Return a text without the sequences that move the cursor and change colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)


@pytest.mark.long
@pytest.mark.usefixtures("members")
def test_long_commands_show_bars(on: On) -> None:
    """A first reconcile, another, a resync and a verification; nothing of it stays."""
    load = on("reconcile")
    assert load.finish() == 0
    assert "compare trips" in plain(load.shown)
    assert "━" in load.shown
    again = on("reconcile")
    assert again.finish() == 0
    assert "compare trips" in plain(again.shown)
    resync = on("resync", "users")
    assert resync.finish() == 0
    assert "count users" in plain(resync.shown)
    verify = on("verify", "users", "--sample", "10")
    assert verify.finish() == 0
    assert "compare users" in plain(verify.shown)


def test_a_migration_shows_a_bar_of_its_statements(on: On) -> None:
    """On a large table, one statement may take minutes; the result stays alone on the terminal."""
    migrate = on("migrate", "primary", "--triggers")
    assert migrate.finish() == 0
    assert re.search(r"primary: triggers_trips .*\d+/\d+ \d:\d\d:\d\d", plain(migrate.shown))
    assert plain(migrate.shown).rstrip().endswith("primary: applied triggers_trips")


@pytest.mark.usefixtures("members")
def test_the_page_of_status_is_whole_on_a_narrow_terminal_and_has_colours(
    on: On, mirror: Command, primary: TestDatabase
) -> None:
    """The verdict is the first line; a pipe gets the same text without colours."""
    assert mirror("reconcile", MIRROR_RECONCILE_GRACE_SECONDS="0").code == 0
    page = on("status")
    assert page.finish() == 0
    assert page.shown.startswith(GREEN)
    assert plain(page.shown).startswith("All is well: every change that was recorded is in force;")
    assert "…" not in page.shown
    piped = mirror("status").out
    assert "\x1b" not in piped
    words = ["both", "sides", "were", "equal"]
    assert [word for word in words if word not in plain(page.shown)] == []
    primary.query("insert into mirror.outbox (mapping, key) values ('users', '{x}')")
    assert mirror("drain", MIRROR_MAX_ATTEMPTS="1").code == 1
    page = on("status")
    assert page.finish() == 1
    assert page.shown.startswith(RED)
    assert plain(page.shown).startswith("primary: 1 event(s) are buried")


@pytest.mark.usefixtures("members")
def test_status_can_be_watched_until_ctrl_c(on: On, primary: TestDatabase) -> None:
    """It is printed again with what has changed; the exit code is that of the last page."""
    page = on("status", "--watch")
    until(lambda: "No event waits" in plain(page.read()))
    primary.query("insert into mirror.outbox (mapping, key) values ('users', '{x}')")
    until(lambda: "1 revocation" in plain(page.read()))
    page.type("\x03")
    assert page.finish() == 0
    assert page.shown.count(" UTC") > 1
