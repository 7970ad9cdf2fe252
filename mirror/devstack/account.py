"""The account that embedded servers run under.

PostgreSQL refuses to run as root, and a Redis without a password must not run as root:
whoever reaches its port could write files as root. Under root the servers therefore run as
`nobody`, otherwise as the caller. No account is created and nobody's home is opened up.
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

# A server gets no more of the caller's environment than it needs: the caller's may hold
# secrets, and PG* or LC_* variables would change what starts.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True)
class Account:
    """An operating system account; `switched` says that it is not the caller's own."""

    uid: int
    gid: int
    switched: bool

    @classmethod
    def for_servers(cls) -> "Account":
        """The account to run servers under.

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
        """Keyword arguments that make `subprocess` run a program under this account."""
        # The caller's working directory may be closed to the account.
        options: dict[str, Any] = {"cwd": "/", "env": dict(_ENVIRONMENT)}
        if self.switched:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return options

    def runs(self, program: Path) -> bool:
        """Whether the account can execute `program`, libraries included."""
        try:
            done = subprocess.run(
                [program, "--version"], check=False, capture_output=True, **self.popen_options()
            )
        except OSError:
            return False
        return done.returncode == 0

    def can(self, access: Literal["-r", "-w", "-x"], path: Path) -> bool:
        """Whether the account has this access to `path`; `-x` on a directory is traversal."""
        # Asking the kernel as that account beats adding up mode bits, ACLs and mount options.
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
        """The first temporary directory that the account can traverse.

        Raises:
            ConfigError: there is none.
        """
        # TMPDIR often points into a home directory, which is of no use to another account.
        usual = ("/tmp", "/var/tmp")  # noqa: S108  # Only unique or checked names are used there.
        for candidate in map(Path, (tempfile.gettempdir(), *usual)):
            if candidate.is_dir() and self.can("-x", candidate):
                return candidate
        raise ConfigError(
            "No temporary directory is open to the account that embedded servers run under; "
            "set TMPDIR to one that every user can traverse."
        )

    def server_directory(self, wanted: Path) -> Path:
        """Make an empty directory, mode 0700, for one server.

        Returns:
            `wanted`, or a new directory among the temporary files where the account cannot
            get to `wanted` (root's home, or pytest's `tmp_path` as root).

        Raises:
            ConfigError: `wanted` holds files already; servers here never adopt old data.
        """
        wanted = wanted.absolute()
        wanted.parent.mkdir(parents=True, exist_ok=True)
        if self.can("-x", wanted.parent):
            wanted.mkdir(exist_ok=True)
            if any(wanted.iterdir()):
                raise ConfigError(
                    f"{wanted} is not empty; embedded servers start from nothing, "
                    "so name a directory that does not exist yet."
                )
            place = wanted
        else:
            place = Path(tempfile.mkdtemp(prefix="permission-mirror-", dir=self.temp_directory()))
        place.chmod(0o700)
        self.give(place)
        return place


def remove_tree(directory: Path) -> None:
    """Delete `directory` with all it holds; one that is gone already is fine."""
    if directory.exists():
        shutil.rmtree(directory)
