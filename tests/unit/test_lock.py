"""The locks in `requirements/` pin every package that each supported platform needs, and no other.

Set-up resolves nothing: it installs no package that is not pinned. So these tests follow the
requirements of each distribution from the roots, with the markers of each Python and platform.
They read the metadata of the installed packages and need no network.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Each lock with the extras and the dependency group that it provides.
LOCKS = {"demo.txt": ("embedded", "editable"), "dev.txt": ("embedded,serve", "dev")}
PYTHONS = ("3.11.2", "3.11.15", "3.12.1", "3.13.0", "3.14.0")
PLATFORMS = {
    "linux-x86_64": ("linux", "Linux", "x86_64"),
    "linux-arm64": ("linux", "Linux", "aarch64"),
    "macos-arm64": ("darwin", "Darwin", "arm64"),
    "macos-x86_64": ("darwin", "Darwin", "x86_64"),
}

every_lock = pytest.mark.parametrize("lock", LOCKS)
every_platform = pytest.mark.parametrize("platform", PLATFORMS)
every_python = pytest.mark.parametrize("python", PYTHONS)


def lines(lock: str) -> Iterator[list[str]]:
    """Yield each pin as its requirement, followed by its hashes."""
    text = (ROOT / "requirements" / lock).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        requirement, *hashes = line.split("--hash=")
        yield [requirement.strip(), *(one.strip() for one in hashes)]


@cache
def pins(lock: str) -> list[Requirement]:
    """Return what a lock pins."""
    return [Requirement(requirement) for requirement, *_ in lines(lock)]


def roots(extras: str, group: str) -> Iterator[Requirement]:
    """Yield what set-up has to provide: extras, a group, and the tools that build a checkout."""
    yield Requirement(f"permission-mirror[{extras}]")
    yield from map(Requirement, PROJECT["build-system"]["requires"])
    for one in PROJECT["dependency-groups"][group]:
        if isinstance(one, str):
            yield Requirement(one)
        else:
            yield from roots(extras, one["include-group"])


def environment_here() -> dict[str, str]:
    """Return the values of the markers where this runs."""
    return {key: str(value) for key, value in default_environment().items()}


def environment(python: str, platform: str) -> dict[str, str]:
    """Return the values of a platform's environment markers."""
    sys_platform, system, machine = PLATFORMS[platform]
    return {
        **environment_here(),
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "implementation_version": python,
        "os_name": "posix",
        "sys_platform": sys_platform,
        "platform_system": system,
        "platform_machine": machine,
    }


def holds(requirement: Requirement, values: dict[str, str], extra: str = "") -> bool:
    """Tell whether a requirement counts in an environment."""
    return requirement.marker is None or requirement.marker.evaluate({**values, "extra": extra})


@cache
def asked_by(name: str, pin: str) -> list[Requirement]:
    """Return all requirements of a distribution, none if it is pinned for others than this one."""
    try:
        return list(map(Requirement, distribution(name).requires or ()))
    except PackageNotFoundError:
        assert not holds(Requirement(pin), environment_here()), f"{name} is not installed"
        return []


@dataclass
class Walk:
    """Follows requirements through one lock, as one platform reads them."""

    values: dict[str, str]
    pinned: dict[str, Requirement]
    reached: set[tuple[str, str]] = field(default_factory=set)
    unmet: list[str] = field(default_factory=list)

    def follow(self, asked: Requirement, source: str) -> None:
        """Note whether a requirement is met, and follow those of its distribution."""
        name = canonicalize_name(asked.name)
        if name != "permission-mirror" and not self.meets(asked):
            self.unmet.append(f"{source} asks for {asked}")
            return
        for extra in ("", *asked.extras):
            if (name, extra) in self.reached:
                continue
            self.reached.add((name, extra))
            for requirement in asked_by(name, str(self.pinned.get(name, ""))):
                if holds(requirement, self.values, extra):
                    self.follow(requirement, name)

    def meets(self, asked: Requirement) -> bool:
        """Tell whether a pin has the version, and the extras, without which old pips refuse it."""
        pin = self.pinned.get(canonicalize_name(asked.name))
        if pin is None:
            return False
        (specifier,) = pin.specifier
        version = Version(specifier.version)
        return asked.specifier.contains(version, prereleases=True) and asked.extras <= pin.extras


@cache
def walk(lock: str, python: str, platform: str) -> Walk:
    """Follow everything that a lock is to provide."""
    values = environment(python, platform)
    counted = [pin for pin in pins(lock) if holds(pin, values)]
    walked = Walk(values, {canonicalize_name(pin.name): pin for pin in counted})
    assert len(walked.pinned) == len(counted), "a distribution is pinned twice"
    for root in roots(*LOCKS[lock]):
        if holds(root, values):
            walked.follow(root, "pyproject.toml")
    return walked


@every_lock
@every_platform
@every_python
def test_all_that_is_asked_for_is_pinned(lock: str, python: str, platform: str) -> None:
    """By pyproject.toml, and by whatever is pinned, with its extras."""
    assert walk(lock, python, platform).unmet == []


@every_lock
@every_platform
@every_python
def test_nothing_else_is_pinned(lock: str, python: str, platform: str) -> None:
    """The demo needs no tool of the tests."""
    walked = walk(lock, python, platform)
    assert set(walked.pinned) - {name for name, _ in walked.reached} == set()


def test_the_demo_runs_on_what_the_tests_run_on() -> None:
    """After a set-up for the tests, nothing is left to install for the demo."""
    demo, tests = ({(p.name, str(p.specifier)) for p in pins(lock)} for lock in LOCKS)
    assert demo <= tests


def test_the_installer_is_one_package() -> None:
    """So any pip installs it: nothing is left to resolve."""
    (pin,) = pins("uv.txt")
    assert pin.name == "uv"
    assert distribution("uv").requires is None


@pytest.mark.parametrize("lock", [*LOCKS, "uv.txt"])
def test_every_pin_is_exact_and_has_hashes(lock: str) -> None:
    """From any index, a machine gets these files or an error."""
    for requirement, *hashes in lines(lock):
        (specifier,) = Requirement(requirement).specifier
        assert specifier.operator == "==", requirement
        assert hashes, requirement
        assert all(one.startswith("sha256:") for one in hashes), requirement


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").iterdir()), ids=lambda p: p.name)
def test_no_file_names_a_host(path: Path) -> None:
    """Each machine has its own index."""
    assert "://" not in path.read_text()
