"""The start of the `mirror` command: what it loads, completion, Ctrl-C, and missing extras."""

import importlib
import inspect
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mirror.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent.parent
MIRROR = str(Path(sys.executable).parent / "mirror")
# Each takes longer to import than the interpreter to start.
HEAVY = ("celery", "psycopg", "pydantic", "redis", "sqlalchemy", "structlog", "supabase")


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program from the checkout's root, with only these variables."""
    return subprocess.run(
        arguments,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def python(program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program of Python that does something, then calls the command with `arguments`."""
    call = f"import sys\nsys.argv = {['mirror', *arguments]!r}\n{program}\n"
    return run(sys.executable, "-c", f"{call}from mirror.cli import main\nmain()", **variables)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_has_the_first_paragraph_of_each_commands_docstring(name: str) -> None:
    """The help text of all commands is printed from the table, that of one from its module."""
    module, _, function = COMMANDS[name].place.partition(":")
    callback = getattr(importlib.import_module(f"mirror.cli.{module}"), function)
    paragraph = (inspect.getdoc(callback) or "").split("\n\n")[0]
    assert COMMANDS[name].summary == " ".join(paragraph.split())


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_the_version_and_the_help_load_no_library_of_a_command(option: str) -> None:
    """They answer at once, and the help names each command with its summary all the same."""
    report = (
        "import atexit, json\n"
        f"atexit.register(lambda: print(json.dumps([m for m in {HEAVY!r} if m in sys.modules])))"
    )
    done = python(report, option, COLUMNS="200")
    assert done.returncode == 0, done.stderr
    *printed, loaded = done.stdout.splitlines()
    assert json.loads(loaded) == []
    if option == "--help":
        for name, command in COMMANDS.items():
            assert any(f" {name} " in line and command.summary in line for line in printed), name


def test_a_command_collects_garbage_but_does_not_search_modules_for_it() -> None:
    """Neither while it imports them nor at its end."""
    program = """
import atexit, gc
atexit.register(lambda: print("frozen", gc.isenabled(), len(gc.get_objects()) < 1_000))
gc.callbacks.append(lambda _, found: found["generation"] == 2 and print("searched"))
"""
    done = python(program, "status", "--help").stdout
    assert "frozen True True" in done
    assert "searched" not in done


def test_the_help_of_each_command_names_its_options_and_no_type_of_a_flag() -> None:
    """Some versions of Typer print `--json <bool>`."""
    done = run(MIRROR, "doctor", "--help")
    assert "--strict" in done.stdout, done.stderr
    assert "bool" not in done.stdout + run(MIRROR, "--help").stdout


WORDS = {
    "bash": {"COMP_WORDS": "mirror {}", "COMP_CWORD": "{n}"},
    "zsh": {"_TYPER_COMPLETE_ARGS": "mirror {}"},
    "fish": {"_TYPER_COMPLETE_ARGS": "mirror {}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}


@pytest.mark.parametrize(
    ("typed", "offered", "others"),
    [("re", {"retry", "reconcile"}, {"doctor"}), ("doctor --s", {"--strict"}, {"--json"})],
)
@pytest.mark.parametrize("shell", WORDS)
def test_a_shell_completes_commands_and_their_options(
    shell: str, typed: str, offered: set[str], others: set[str]
) -> None:
    """The shell's script asks the command itself by these variables."""
    variables = {
        name: value.format(typed, n=len(typed.split())) for name, value in WORDS[shell].items()
    }
    done = run(MIRROR, _MIRROR_COMPLETE=f"complete_{shell}", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    for word in offered:
        assert word in done.stdout
    for word in others:
        assert word not in done.stdout


@pytest.mark.parametrize("shell", WORDS)
def test_the_script_of_a_shell_can_be_printed(shell: str) -> None:
    """It registers a completion for the command's name. Bash, which every machine has, runs it."""
    detection = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = run(MIRROR, "--show-completion", shell, **detection)
    assert (done.returncode, "_MIRROR_COMPLETE" in done.stdout) == (0, True), done.stderr
    if shell == "bash":
        folder = str(Path(MIRROR).parent)
        script = (
            f"PATH={folder}:$PATH\n{done.stdout}\nCOMP_WORDS=(mirror re)\nCOMP_CWORD=1\n"
            '_mirror_completion mirror\necho "${COMPREPLY[@]}"'
        )
        assert "reconcile" in run(str(shutil.which("bash")), "-c", script).stdout


INTERRUPTING = """
import atexit, os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
if os.environ["INTERRUPT_AT"] == "exit":
    atexit.register(os.kill, os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize(
    "moment",
    [
        "typer",
        "mirror.cli.app",
        "typer.core",
        "mirror.cli.operate",
        "redis",
        "sqlalchemy.orm",
        "psycopg",
        "structlog",
        "mappings.trips",
        "exit",
    ],
)
def test_ctrl_c_while_modules_load_or_at_the_end_prints_no_traceback(
    moment: str, tmp_path: Path
) -> None:
    """The signal arrives exactly when this module is about to be imported."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTING)
    done = run(
        MIRROR,
        "status",
        PYTHONPATH=f"{tmp_path}:{ROOT}",
        INTERRUPT_AT=moment,
        MIRROR_MAPPINGS="mappings.trips",
        PRIMARY_DATABASE_URL="postgresql://u@127.0.0.1:9/db",
    )
    assert (done.returncode, "Traceback" in done.stderr) == (130, False), done.stderr


@pytest.mark.parametrize("command", ["status", "drain", "relay", "reconcile"])
def test_ctrl_c_while_a_server_does_not_answer_prints_no_traceback(command: str) -> None:
    """The command has connected and waits for an answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        url = f"postgresql://u@127.0.0.1:{port}/db"
        with subprocess.Popen(
            [MIRROR, command],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "MIRROR_MAPPINGS": "mappings.trips",
                "MIRROR_CONNECT_SECONDS": "60",
                "PRIMARY_DATABASE_URL": url,
                "SUPABASE_DB_URL": url,
                "REDIS_URL": "redis://127.0.0.1:9/0",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            connection, _ = server.accept()
            process.send_signal(signal.SIGINT)
            printed, _ = process.communicate(timeout=30)
            connection.close()
    assert (process.returncode, "Traceback" in printed) == (130, False), printed


def test_ctrl_c_at_a_question_is_no_answer() -> None:
    """Its exit code is that of Ctrl-C, too; that of the answer `no` is 1."""
    arguments = [sys.executable, "-u", MIRROR, "rebase"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    for stop, code in ((signal.SIGINT, 130), (None, 1)):
        with subprocess.Popen(
            arguments,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdout is not None
            asked = b""
            while b"Continue?" not in asked:
                asked += process.stdout.read(1)
            if stop is not None:
                process.send_signal(stop)
                process.wait(30)
            printed, _ = process.communicate(b"n\n", timeout=30)
        assert (process.returncode, b"Traceback" in printed) == (code, False), printed


def test_ctrl_c_while_the_example_loads_prints_no_traceback(tmp_path: Path) -> None:
    """It runs in the command's place, in a new interpreter."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTING)
    done = run(MIRROR, "demo", PYTHONPATH=f"{tmp_path}:{ROOT}", INTERRUPT_AT="examples.trip_chat")
    assert (done.returncode, "Traceback" in done.stderr) == (130, False), done.stderr


WITHOUT = "import sys\nsys.modules.update(dict.fromkeys({!r}))\n"


@pytest.mark.parametrize("missing", [("typer", "rich"), ("psycopg",), ("pydantic_settings",)])
def test_the_command_of_the_base_install_names_the_extra(missing: tuple[str, ...]) -> None:
    """The base install has the command, and none of the packages that it needs."""
    done = python(WITHOUT.format(missing), "status")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the command `mirror` needs packages that are not ins")
    assert done.stderr.endswith("pip install 'permission-mirror[worker]'.\n")
    assert done.stderr.count("\n") == 1


def test_celery_without_the_extra_names_it() -> None:
    """The backend may have Celery for itself."""
    program = WITHOUT.format(("psycopg", "supabase"))
    program += (
        "sys.argv = ['celery', '-A', 'mirror.worker', 'worker']\n"
        "from celery.__main__ import main\nmain()"
    )
    done = run(sys.executable, "-c", program)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "permission-mirror[worker]" in done.stderr


def test_importing_the_worker_without_the_extra_raises_an_import_error() -> None:
    """Other programs than Celery's command catch it as one."""
    program = WITHOUT.format(("psycopg",)) + "try:\n    import mirror.worker\n"
    done = run(sys.executable, "-c", f"{program}except ImportError as error:\n    print(error)")
    assert "permission-mirror[worker]" in done.stdout, done.stderr
