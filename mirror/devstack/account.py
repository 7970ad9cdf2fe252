"""Account: chooses the operating system account of the embedded servers.

PostgreSQL refuses to run as root. Redis without a password must not run as root, because every
program that reaches its port could write files as root. If the caller is root, the servers run as
`nobody`, otherwise as the caller. No account is created, and no home directory is opened to others.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mirror.errors import ConfigError

# The servers get these variables only: the caller's environment may contain secrets, and PG* or
# LC_* variables would change the servers' behaviour.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True)
class Account:
    """An operating system account; `switched`: whether it is another one than the caller's."""

    uid: int
    gid: int
    switched: bool

    @classmethod
    def for_servers(cls) -> "Account":
        """Return the account to run servers under.

        Raises:
            ConfigError: the caller is root and the system has no account `nobody`.
        """
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid(), switched=False)
        try:
            nobody = pwd.getpwnam("nobody")
        except KeyError as error:
            raise ConfigError(
                "The embedded servers do not run as root, and this system has no account "
                "'nobody' to run them under; start them as an ordinary user."
            ) from error
        return cls(nobody.pw_uid, nobody.pw_gid, switched=True)

    def popen_options(self) -> dict[str, Any]:
        """Return the keyword arguments that make `subprocess` run a program under this account."""
        # The account may have no access to the caller's working directory.
        options: dict[str, Any] = {"cwd": "/", "env": dict(_ENVIRONMENT)}
        if self.switched:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return options

    def runs(self, program: Path) -> bool:
        """Return whether the account can execute `program` and load its libraries."""
        try:
            done = subprocess.run(
                [program, "--version"], check=False, capture_output=True, **self.popen_options()
            )
        except OSError:
            return False
        return done.returncode == 0

    def can(self, access: Literal["-r", "-w", "-x"], path: Path) -> bool:
        """Return whether the account may read, write or execute `path`, or enter that directory."""
        # Running `test` as the account accounts for mode bits, ACLs and mount options alike.
        done = subprocess.run(
            ["/bin/sh", "-c", 'test "$1" "$2"', "sh", access, str(path)],
            check=False,
            **self.popen_options(),
        )
        return done.returncode == 0

    def give(self, path: Path) -> None:
        """Make the account the owner of `path`."""
        if self.switched:
            os.chown(path, self.uid, self.gid)

    def temp_directory(self) -> Path:
        """Return the system's temporary directory, or another one if the account cannot enter it.

        Raises:
            ConfigError: there is none.
        """
        # TMPDIR is often inside a home directory, which another account cannot traverse.
        usual = ("/tmp", "/var/tmp")  # noqa: S108  # Only unique or checked names are used there.
        for candidate in map(Path, (tempfile.gettempdir(), *usual)):
            if candidate.is_dir() and self.can("-x", candidate):
                return candidate
        raise ConfigError(
            "The account of the embedded servers has no access to any temporary directory; "
            "set TMPDIR to a directory that every user can traverse."
        )

    def server_directory(self, requested: Path) -> Path:
        """Create an empty directory with mode 0700 for one server.

        Returns:
            `requested`; or a new temporary directory if the account has no access to it (root's
            home, or pytest's `tmp_path` as root).

        Raises:
            ConfigError: `requested` is not empty; the servers never use existing data.
        """
        requested = requested.absolute()
        requested.parent.mkdir(parents=True, exist_ok=True)
        if self.can("-x", requested.parent):
            requested.mkdir(exist_ok=True)
            if any(requested.iterdir()):
                raise ConfigError(
                    f"{requested} is not empty; embedded servers start without data, "
                    "so name a directory that does not exist yet."
                )
            directory = requested
        else:
            directory = Path(
                tempfile.mkdtemp(prefix="permission-mirror-", dir=self.temp_directory())
            )
        directory.chmod(0o700)
        self.give(directory)
        return directory


def remove_tree(directory: Path) -> None:
    """Delete `directory` and its contents; do nothing if it does not exist."""
    if directory.exists():
        shutil.rmtree(directory)
