"""Set-up installs the pinned versions, with an old pip and a new one, beside later releases.

`make setup` runs in an empty environment. A directory with a release 9999 of each package stands
for everything that will be released. uv's cache has the downloads already, from the set-up that
these tests run in; the package index still has to answer.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).parent.parent.parent
UV = Path(sys.executable).parent / "uv"
MAKE = shutil.which("make") or "make"

# The oldest pip that comes with this Python, and the newest.
PIPS = {
    "oldest": {11: "pip==22.3", 12: "pip==23.2.1", 13: "pip==24.2"}.get(
        sys.version_info.minor, "pip==25.2"
    ),
    "newest": "pip",
}
# The tags of glibc 2.28 (Debian 10, RHEL 8), and of each kind of Mac.
PLATFORMS = (
    "x86_64-manylinux_2_28",
    "aarch64-manylinux_2_28",
    "aarch64-apple-darwin",
    "x86_64-apple-darwin",
)

# Where make runs these tests, its variables are not those of the make that is tested.
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS"}
}

LIST = """
import json
from importlib.metadata import distributions
print(json.dumps({one.name: one.version for one in distributions()}))
"""


@pytest.fixture(scope="module", autouse=True)
def _index() -> None:
    """Skip without an index, except in CI."""
    done = subprocess.run(
        [UV, "pip", "compile", "--quiet", "--no-cache", "--no-config", "--system-certs", "-"],
        input="uv",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 and "CI" not in os.environ:
        pytest.skip(f"no package index answers: {done.stderr}")


def pinned(*locks: str) -> dict[NormalizedName, str]:
    """Return the version of each package that locks have for this platform."""
    texts = [(ROOT / "requirements" / lock).read_text() for lock in locks]
    found = (
        Requirement(line.removesuffix("\\"))
        for text in texts
        for line in text.splitlines()
        if "==" in line
    )
    return {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version
        for pin in found
        if pin.marker is None or pin.marker.evaluate()
    }


@pytest.fixture(scope="module")
def future(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a later release of each package."""
    directory = tmp_path_factory.mktemp("future")
    for name in pinned("dev.txt", "uv.txt"):
        stem = f"{name.replace('-', '_')}-9999"
        with ZipFile(directory / f"{stem}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(
                f"{stem}.dist-info/METADATA",
                f"Metadata-Version: 2.1\nName: {name}\nVersion: 9999\n",
            )
            wheel.writestr(
                f"{stem}.dist-info/WHEEL",
                "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            )
            wheel.writestr(f"{stem}.dist-info/RECORD", "")
    return directory


@dataclass(frozen=True)
class Checkout:
    """This checkout with an environment of its own, made with a given pip."""

    venv: Path
    python: Path
    future: Path

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run make; settings for a user's other projects must not matter."""
        return subprocess.run(
            [MAKE, f"VENV={self.venv}", f"PYTHON={self.python}", *arguments],
            cwd=ROOT,
            env={
                **ENVIRONMENT,
                "PIP_FIND_LINKS": str(self.future),
                "UV_FIND_LINKS": str(self.future),
                "UV_EXCLUDE_NEWER": "2020-01-01",
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def set_up(self, target: str) -> dict[NormalizedName, str]:
        """Run a target; return what is installed, without what the interpreter brought."""
        made = self.make(target)
        assert made.returncode == 0, made.stdout + made.stderr
        done = subprocess.run(
            [self.venv / "bin" / "python", "-c", LIST], capture_output=True, text=True, check=True
        )
        installed = {canonicalize_name(name): v for name, v in json.loads(done.stdout).items()}
        assert installed.pop(canonicalize_name("permission-mirror"))
        ours = pinned("dev.txt", "uv.txt")
        return {
            name: version
            for name, version in installed.items()
            if name in ours or name not in {"pip", "setuptools"}
        }


@pytest.fixture(scope="module")
def checkout(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, future: Path
) -> Checkout:
    """A checkout whose new environment has the pip that the test names."""
    directory = tmp_path_factory.mktemp("checkout")
    python = directory / "python"
    python.write_text(
        f"""#!/bin/sh
        {sys.executable} "$@" || exit
        for last; do :; done
        case "$*" in
          "-m venv"*) exec "$last/bin/python" -m pip --quiet install --upgrade {request.param} ;;
        esac
        """
    )
    python.chmod(0o755)
    return Checkout(directory / "venv", python, future)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("checkout", PIPS.values(), ids=PIPS.keys(), indirect=True)
def test_each_set_up_installs_its_lock(checkout: Checkout) -> None:
    """For the demo no tool of the tests; after the tests' set-up, the demo's changes nothing."""
    assert checkout.set_up("setup-demo") == pinned("demo.txt", "uv.txt")
    assert checkout.set_up("setup") == pinned("dev.txt", "uv.txt")
    assert checkout.set_up("setup-demo") == pinned("dev.txt", "uv.txt")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("checkout", [PIPS["newest"]], ids=["newest"], indirect=True)
def test_a_set_up_that_was_killed_is_done_again(checkout: Checkout) -> None:
    """From the beginning: a package may be there in part, with a name and a version."""
    checkout.set_up("setup-demo")
    (typer,) = checkout.venv.glob("lib/python*/site-packages/typer/main.py")
    uv = checkout.venv / "bin" / "uv"
    uv.unlink()
    uv.write_text(f"#!/bin/sh\nrm {typer}\nkill -9 $PPID\n")
    uv.chmod(0o755)
    assert checkout.make("setup-demo", "--what-if=requirements/demo.txt").returncode != 0
    assert not typer.exists()
    assert checkout.set_up("setup-demo") == pinned("demo.txt", "uv.txt")
    assert typer.exists()


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_platform_has_a_wheel_of_each_package(
    platform: str, python: str, tmp_path: Path
) -> None:
    """So no set-up needs a compiler, nor tools to build with that nothing pins."""
    done = subprocess.run(
        [
            *(UV, "pip", "sync", "--dry-run", "--no-config", "--system-certs"),
            *("--require-hashes", "--no-build"),
            *("--python-platform", platform, "--python-version", python),
            *("--python", sys.executable, "--target", tmp_path),
            *("requirements/uv.txt", "requirements/dev.txt"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "+ mypy==" in done.stderr
