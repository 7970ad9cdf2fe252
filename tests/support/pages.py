"""Pages: plays a page of the documentation as a reader would, block by block, on real servers.

A comment before a block says what is special about it:

    file: NAME                 python, yaml, sql: writes the file, whose name the page shows
                               sh: the same; each … is the value that the test has prepared, or
                               else the one that a command in the background prints
    file: NAME, at its end     python: appends to the file
    set; set again             sh: the variables get the values that the test has prepared
    exits with N               sh: its last command has this exit code
    soon; soon, exits with N   sh: the same, once a worker has mirrored what waits
    in the background          sh: the last command runs until the end of the page
    not run: REASON            nothing is done
    tested by: FILE            nothing is done; this test reads the block from the page
    in the primary             sql: runs there; otherwise in the project, as in its SQL editor
    refused                    sql: a policy refuses it
    allowed soon; refused soon    sql: the same, once a worker has mirrored what waits

A block of the kind `text` has lines that the block before it has printed, whole or in part, with …
for text that is another one each time. A `diff` names its file, and changes these lines of it. The
command `. ./FILE` sets the variables of a file.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

import psycopg

from mirror.devstack.binaries import postgres_programs
from tests.support.blocks import Block, blocks
from tests.support.databases import TestDatabase
from tests.support.forking import HOME, ForkingCommand, Ran
from tests.support.waiting import until

_SHELL = re.compile(r"[|&;<>`*]")
_NOT_STARTED = "(not started)"


def _missing(block: Block, printed: str) -> list[str]:
    """Return the lines of a block that were not printed."""
    return [
        line
        for line in block.text.splitlines()
        if not re.search(".*".join(map(re.escape, line.split("…"))), printed)
    ]


@dataclass
class Reader:
    """A reader of a page, with a directory, a primary and a project of their own."""

    home: Path
    prepared: dict[str, str]
    """The values of the variables that pages say to set."""
    primary: TestDatabase
    project: TestDatabase
    command: ForkingCommand
    """Runs `mirror` without the time that its start takes."""
    prepared_again: dict[str, str] = field(default_factory=dict)
    """The values of variables that a page sets a second time."""
    variables: dict[str, str] = field(default_factory=dict)
    """The variables that have been set."""
    printed: str = ""
    """The output of the last block of commands."""
    background: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """The started processes. While there are none, no worker runs, and `mirror drain` mirrors."""
    alone: bool = False
    """Whether nothing is started in the background, nor looked for in its output."""
    _log: Path | None = None
    """The output of the last block, if that runs in the background."""

    def play(self, page: str) -> None:
        """Do all that a page, or a part of it, says."""
        shown = re.sub(r"<!--.*?-->", "", page, flags=re.DOTALL)
        for block in blocks(page):
            if block.note.startswith("file: "):
                name = block.note.removeprefix("file: ").partition(", ")[0]
                assert f"`{name}`" in shown, f"the page does not show the file's name {name}"
            self.do(block)

    def do(self, block: Block) -> None:
        """Do what one block says."""
        if block.note.startswith(("not run: ", "tested by: ")):
            return
        if block.note.startswith("file: "):
            self._write(block)
            return
        match block.language:
            case "python":
                return  # tests/unit/test_snippets.py runs it
            case "diff":
                self._change(block)
            case "sh":
                self._run(block)
            case "sql":
                self._edit(block)
            case _:
                assert block.language == "text", block
                self._look(block)

    def close(self) -> None:
        """End what runs in the background; it was started on top of that before it."""
        for process in reversed(self.background):
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)

    def _look(self, block: Block) -> None:
        """Look for lines in the output of the last block; wait for those from the background."""
        if self._log is not None:
            log = self._log
            until(lambda: not _missing(block, log.read_text()))
        elif not (self.alone and self.printed == _NOT_STARTED):
            assert not _missing(block, self.printed), (_missing(block, self.printed), self.printed)

    def _write(self, block: Block) -> None:
        name, _, place = block.note.removeprefix("file: ").partition(", ")
        assert place in {"", "at its end"}, block.note
        path = self.home / name
        path.parent.mkdir(exist_ok=True)
        before = path.read_text() + "\n" if place else ""
        text = self._filled(block.text) if block.language == "sh" else block.text
        self._save(path, before + text)

    def _filled(self, text: str) -> str:
        """Return the lines of a shell file with the values for which … stands."""
        names = re.findall(r"^export (\w+)=.*…", text, re.MULTILINE)
        values: dict[str, str] = {}

        def known() -> bool:
            printed = self._log.read_text() if self._log is not None else ""
            found = re.findall(r"^export (\w+)=(.*)\n", printed, re.MULTILINE)
            values.update(dict(found) | self.prepared)
            return set(names) <= set(values)

        until(known)
        return re.sub(
            r"^export (\w+)=.*….*$",
            lambda found: f"export {found[1]}={values[found[1]]}",
            text,
            flags=re.MULTILINE,
        )

    def _change(self, block: Block) -> None:
        """Change a file as `patch` does: the old lines of each part must be in it, once."""
        header, *parts = re.split(r"^@@\n", block.text, flags=re.MULTILINE)
        old_name, new_name = (line.split() for line in header.splitlines())
        assert (old_name[0], new_name[0], old_name[1:]) == ("---", "+++", new_name[1:]), header
        path = self.home / new_name[1]
        for part in parts:
            lines = [(line[:1], line[1:]) for line in part.splitlines()]
            old = "".join(f"{line}\n" for sign, line in lines if sign != "+")
            new = "".join(f"{line}\n" for sign, line in lines if sign != "-")
            text = path.read_text()
            assert text.count(old) == 1, f"{path.name} has not once:\n{old}\n\n{text}"
            self._save(path, text.replace(old, new))

    def _save(self, path: Path, text: str) -> None:
        """Write a file; of two versions of one size within a second, Python would take the old."""
        path.write_text(text)
        shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)

    @property
    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{Path(sys.executable).parent}:{postgres_programs(16)}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "PYTHONPATH": str(HOME),
            "PYTHONWARNINGS": "error::DeprecationWarning:app",
        } | self.variables

    def _run(self, block: Block) -> None:
        if block.note in {"set", "set again"}:
            values = self.prepared if block.note == "set" else self.prepared_again
            names = re.findall(r"(\w+)=", block.text)
            self.variables |= {name: values[name] for name in names}
            return
        commands = block.text.replace("\\\n", " ").splitlines()
        self._log = None
        if block.note == "in the background":
            *before, last_command = commands
            assert self._codes(before) == [0] * len(before), (block, self.printed)
            self._start(last_command)
            return
        soon, note = block.note.startswith("soon"), re.sub("^soon(, )?", "", block.note)
        last = int(note.removeprefix("exits with ")) if note else 0
        expected = [0] * (len(commands) - 1) + [last]
        if soon:
            self._mirror()
            until(lambda: self._codes(commands) == expected, pause=0.5)
        else:
            codes = self._codes(commands)
            assert codes == expected, (block, self.printed)

    def _codes(self, commands: list[str]) -> list[int]:
        """Run commands; return their exit codes, and keep what they have printed."""
        ran = [self._ran(command) for command in commands]
        self.printed = "".join(each.text for each in ran)
        return [each.code for each in ran]

    def _mirror(self) -> None:
        """Mirror what waits, as a worker with the declarations of this moment; see `background`."""
        if not self.background:
            done = self._ran("mirror drain")
            assert done.code == 0, done.text

    def _ran(self, line: str) -> Ran:
        """Run one line of the shell; `mirror` and modules are forked where it needs no shell."""
        environment = self._environment
        if line.startswith(". ./"):
            return self._source(line)
        if not _SHELL.search(line):
            match shlex.split(Template(line).substitute(environment), comments=True):
                case ["mirror", *arguments]:
                    return self.command.run(arguments, environment, self.home)
                case ["python", "-m", module, *arguments]:
                    return self.command.run(arguments, environment, self.home, module)
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=self.home,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def _source(self, line: str) -> Ran:
        """Set the variables of a file, which may enter the environment that the test has anyway."""
        activate = self.home / ".venv" / "bin" / "activate"
        activate.parent.mkdir(parents=True, exist_ok=True)
        activate.touch()
        done = subprocess.run(
            ["/bin/sh", "-ec", f"{line}; env"],
            cwd=self.home,
            env={},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        found = dict(re.findall(r"^(\w+)=(.*)$", done.stdout, re.MULTILINE))
        exported = re.findall(r"^export (\w+)=", (self.home / line[4:]).read_text(), re.MULTILINE)
        self.variables |= {name: found[name] for name in exported if name in found}
        return Ran(done.returncode, "", done.stderr)

    def _start(self, command: str) -> None:
        """Start a command that runs until the end."""
        if self.alone:
            self.printed = _NOT_STARTED
            return
        self._log = self.home / f"background-{len(self.background)}.log"
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                cwd=self.home,
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        self.background.append(process)

    def _edit(self, block: Block) -> None:
        """Run statements, as the SQL editor does; the reader's variables are names in them."""
        text = block.text
        for name, value in self.variables.items():
            text = re.sub(rf"\b{name}\b", value, text)
        if block.note == "in the primary":
            self.primary.query(text)
            return

        def allowed() -> bool:
            try:
                self.project.query(text)
            except psycopg.errors.InsufficientPrivilege:
                return False
            return True

        if block.note.endswith(" soon"):
            self._mirror()
            until(lambda: allowed() is block.note.startswith("allowed"))
        else:
            assert block.note in {"", "refused"}, block.note
            assert allowed() is (block.note == ""), block
