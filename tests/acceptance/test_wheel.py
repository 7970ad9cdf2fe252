"""The wheel as a user installs it: its contents, and that it works outside the checkout.

It is built from the sdist, as on PyPI, and installed with `--no-deps` into its own environment.
The dependencies come from the running environment, whose site-packages a `.pth` file adds:
Python ignores the `.pth` files in there, and with them our editable install. The tests need no
network, and `mirror` can come only from the wheel.
"""

import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

import mirror

ROOT = Path(__file__).parent.parent.parent

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]

MAPPINGS = """
from sqlalchemy import Text, Uuid, column, select, table
from mirror.model.mapping import Column, Mapping
from mirror.model.registry import Registry

_rooms = table("rooms", column("id", Uuid), column("title", Text))
rooms = Mapping(
    name="rooms",
    table="rooms",
    key=("id",),
    columns=(Column("id", "uuid"), Column("title", "text")),
    query=select(_rooms.c.id, _rooms.c.title),
)
registry = Registry("rooms", [rooms])
"""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it, and a directory with a mappings module."""

    python: Path
    home: Path

    def run(self, *command: str) -> str:
        """Run a program of the environment outside the checkout; return its output."""
        done = self.attempt(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def attempt(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment outside the checkout, with any exit code."""
        return subprocess.run(
            [str(self.python.parent / command[0]), *command[1:]],
            cwd=self.home,
            env={
                "HOME": str(self.home),
                "PATH": str(self.python.parent),
                "PYTHONPATH": str(self.home),
                "MIRROR_MAPPINGS": "my_mappings",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with the tools of the running environment."""
    into = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(into), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = into.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Installed:
    """The wheel in an environment of its own."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory / "venv", with_pip=True, symlinks=True)
    python = directory / "venv" / "bin" / "python"
    subprocess.run(
        [
            str(python),
            "-m",
            "pip",
            "--quiet",
            "--disable-pip-version-check",
            "install",
            "--no-deps",
            "--no-index",
            str(wheel),
        ],
        check=True,
    )
    (site,) = (directory / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    home = directory / "home"
    home.mkdir()
    (home / "my_mappings.py").write_text(MAPPINGS)
    return Installed(python, home)


def test_the_wheel_holds_the_library_and_its_sql_and_nothing_else(wheel: Path) -> None:
    """Names as common as `tasks` or `tests` must not land in a user's site-packages."""
    with ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    tops = {name.split("/")[0] for name in names}
    assert tops == {"mirror", f"permission_mirror-{mirror.__version__}.dist-info"}
    assert not [name for name in names if name.endswith(".pyc")]

    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "mirror").rglob("*")
        if path.suffix in {".css", ".html", ".js", ".py", ".sql", ".svg", ".txt", ".typed"}
    }
    # 0002_trips.sql and guards.sql are not in it: the runner prints them from the declarations.
    migrations = {
        f"mirror/_migrations/{path.relative_to(ROOT / 'migrations')}"
        for path in (ROOT / "migrations").rglob("*.sql")
        if path.name != "0002_trips.sql"
    }
    demo = {
        f"mirror/_demo/{path.relative_to(ROOT)}"
        for path in (
            ROOT / "mappings" / "__init__.py",
            ROOT / "mappings" / "trips.py",
            ROOT / "examples" / "__init__.py",
            *(ROOT / "examples" / "trip_chat").glob("*.py"),
            ROOT / "examples" / "trip_chat" / "supabase.sql",
        )
    }
    assert "mirror/py.typed" in sources
    assert len(migrations) >= 3
    assert {name for name in names if name.startswith("mirror/")} == sources | migrations | demo


def test_its_dependencies_are_those_of_the_hooks(wheel: Path) -> None:
    """A worker names an extra to get more."""
    with ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = Parser().parsestr(archive.read(path).decode())
    required = metadata.get_all("Requires-Dist", [])
    plain = {one.split(">")[0].split("<")[0] for one in required if "extra ==" not in one}
    assert plain == {"redis", "sqlalchemy", "structlog"}
    assert set(metadata.get_all("Provides-Extra", [])) >= {"celery", "worker", "serve", "embedded"}


def test_the_library_comes_from_the_wheel(installed: Installed) -> None:
    """Otherwise the tests below would test the checkout; type checkers find the types, too."""
    printed = installed.run(
        "python",
        "-c",
        "import mirror.hooks, importlib.util as u\n"
        "print(mirror.__file__, mirror.hooks.default().registry.name)\n"
        "print([u.find_spec(n) for n in ('tasks', 'mappings', 'examples')])",
    )
    assert printed.startswith(str(installed.python.parent.parent))
    assert printed.splitlines()[0].endswith(" rooms")
    assert printed.splitlines()[1] == "[None, None, None]"


def test_the_command_runs(installed: Installed) -> None:
    """It prints the version of the wheel."""
    assert "migrate" in installed.run("mirror", "--help")
    assert mirror.__version__ in installed.run("mirror", "--version")


def test_the_command_finds_the_packaged_migrations(installed: Installed) -> None:
    """It prints the model of a user's own declarations, too."""
    printed = installed.run("mirror", "migrate", "--sql")
    assert "create table if not exists mirror.outbox" in printed
    assert "create or replace function mirror.admit" in printed
    assert "create table if not exists public.rooms" in printed
    assert "trip" not in printed.partition("model rooms")[2]


def test_every_module_of_the_wheel_imports(installed: Installed) -> None:
    """No module needs the checkout."""
    installed.run(
        "python",
        "-c",
        "import importlib, pkgutil, mirror\n"
        "for one in pkgutil.walk_packages(mirror.__path__, 'mirror.'):\n"
        "    one.name.endswith('__main__') or importlib.import_module(one.name)",
    )


def test_celery_finds_the_app(installed: Installed) -> None:
    """A user's own mappings module is on the path."""
    report = installed.run("python", "-m", "celery", "-A", "mirror.worker", "report")
    assert "mirror" in report
    assert "mirror.drain" in report


def test_the_wheel_alone_plays_the_demo(installed: Installed) -> None:
    """No checkout exists, and a user's own module `examples` causes no conflict."""
    (installed.home / "examples.py").write_text("raise SystemExit('the wrong examples')\n")
    output = installed.run("mirror", "demo").splitlines()
    assert sum(line.startswith("✓") for line in output) == 14
    assert output[-1].startswith("All expectations held")


def test_from_the_wheel_the_demo_over_rest_asks_for_a_checkout(installed: Installed) -> None:
    """The stand-in for Supabase's API is an npm package of the repository."""
    done = installed.attempt("mirror", "demo", "--rest")
    assert (done.returncode, "a checkout" in done.stderr) == (2, True)
