"""Pages: plays a page of the documentation as a reader would, block by block, on real servers.

A comment before a block says what is special about it:

    file: NAME                 python, yaml: writes the file
    file: NAME, at its end     python: appends to the file
    set; set again             sh: the variables get the values that the test has prepared
    exits with N               sh: its last command has this exit code
    soon; soon, exits with N   sh: the same, once a worker has mirrored what waits
    in the background          sh: the command runs until the end of the page
    not run: REASON            nothing is done
    in the primary             sql: runs there; otherwise in the project, as in its SQL editor
    refused                    sql: a policy refuses it
    allowed soon; refused soon    sql: the same, once a worker has mirrored what waits

A block of the kind `text` has lines that the last command has printed; a `diff` names its file, and
changes these lines of it.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

import psycopg

from tests.support.databases import TestDatabase
from tests.support.forking import HOME, ForkingCommand, Ran
from tests.support.waiting import until

_BLOCK = re.compile(r"(?:<!-- (.*?) -->\n\n)?```(\w+)\n(.*?)```", re.DOTALL)
_SHELL = re.compile(r"[|&;<>`*]")


@dataclass(frozen=True)
class Block:
    """One block of code, with the comment before it; empty: there is none."""

    note: str
    language: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of a page, or of a part of it, in order.

    A block without a language would be passed over, so there may be none.
    """
    assert page.count("```") == 2 * len(_BLOCK.findall(page))
    for note, language, text in _BLOCK.findall(page):
        yield Block(note, language, text)


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
    """The output of the last command."""
    background: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """What the page has started. While it is empty, no worker runs, and `mirror drain` mirrors."""

    def play(self, page: str) -> None:
        """Do all that a page, or a part of it, says."""
        for block in blocks(page):
            self.do(block)

    def do(self, block: Block) -> None:
        """Do what one block says."""
        if block.note.startswith("not run: "):
            return
        match block.language:
            case "python" | "yaml":
                self._write(block)
            case "diff":
                self._change(block)
            case "sh":
                self._run(block)
            case "sql":
                self._edit(block)
            case _:
                assert block.language == "text", block
                for line in block.text.splitlines():
                    assert line in self.printed, (line, self.printed)

    def close(self) -> None:
        """End what runs in the background."""
        for process in self.background:
            process.send_signal(signal.SIGTERM)
        for process in self.background:
            process.wait(timeout=30)

    def _write(self, block: Block) -> None:
        name, _, place = block.note.removeprefix("file: ").partition(", ")
        assert place in {"", "at its end"}, block.note
        path = self.home / name
        path.parent.mkdir(exist_ok=True)
        before = path.read_text() + "\n" if place else ""
        self._save(path, before + block.text)

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
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
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
        if block.note == "in the background":
            self._start(commands)
            return
        soon, note = block.note.startswith("soon"), re.sub("^soon(, )?", "", block.note)
        last = int(note.removeprefix("exits with ")) if note else 0
        expected = [0] * (len(commands) - 1) + [last]
        if soon:
            self._mirror()
            until(lambda: self._codes(commands) == expected)
        else:
            codes = self._codes(commands)
            assert codes == expected, (block, self.printed)

    def _codes(self, commands: list[str]) -> list[int]:
        """Run commands; return their exit codes, and keep what the last one has printed."""
        ran = [self._ran(command) for command in commands]
        self.printed = ran[-1].text
        return [each.code for each in ran]

    def _mirror(self) -> None:
        """Mirror what waits, as a worker with the declarations of this moment; see `background`."""
        if not self.background:
            done = self._ran("mirror drain")
            assert done.code == 0, done.text

    def _ran(self, line: str) -> Ran:
        """Run one line of the shell; `mirror` and modules are forked where it needs no shell."""
        environment = self._environment
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

    def _start(self, commands: list[str]) -> None:
        for command in commands:
            with (self.home / "background.log").open("wb") as log:
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
