"""The reader of a page notices a page that is wrong; no server is needed for that."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.blocks import blocks
from tests.support.databases import TestDatabase
from tests.support.forking import ForkingCommand
from tests.support.pages import Reader


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """A reader whose databases do not exist."""
    nowhere = TestDatabase("postgresql://127.0.0.1:1/nowhere")
    command = ForkingCommand.__new__(ForkingCommand)
    reader = Reader(tmp_path, {"NAME": "Ada"}, nowhere, nowhere, command)
    yield reader
    reader.close()


def page(language: str, text: str, note: str = "") -> str:
    """Return a page of one block."""
    comment = f"<!-- {note} -->\n\n" if note else ""
    return f"{comment}```{language}\n{text}\n```\n"


DIFF = "--- app.py\n+++ app.py\n@@\n one\n-two\n+three"


def test_a_diff_changes_the_lines_that_it_shows(reader: Reader) -> None:
    """All others stay."""
    (reader.home / "app.py").write_text("zero\none\ntwo\n")
    reader.play(page("diff", DIFF))
    assert (reader.home / "app.py").read_text() == "zero\none\nthree\n"


@pytest.mark.parametrize("text", ["one\n", "one\ntwo\none\ntwo\n"])
def test_a_diff_of_lines_that_are_not_in_the_file_once_fails(reader: Reader, text: str) -> None:
    """A page that shows outdated code would be followed by nobody."""
    (reader.home / "app.py").write_text(text)
    with pytest.raises(AssertionError, match=r"app\.py has not once"):
        reader.play(page("diff", DIFF))


def test_a_command_with_another_exit_code_fails(reader: Reader) -> None:
    """Only the last command of a block may have one."""
    reader.play(page("sh", "true\nexit 3", "exits with 3"))
    for text, note in (
        ("exit 3", ""),
        ("true", "exits with 3"),
        ("exit 3\nexit 3", "exits with 3"),
    ):
        with pytest.raises(AssertionError):
            reader.play(page("sh", text, note))


def test_output_that_was_not_printed_fails(reader: Reader) -> None:
    """A block of text is compared line by line with what the last command has printed."""
    printing = page("sh", "echo Hello; echo Ada >&2")
    reader.play(printing + page("text", "Hello\nAda"))
    with pytest.raises(AssertionError, match="Eve"):
        reader.play(printing + page("text", "Hello\nEve"))


def test_only_variables_that_the_page_has_set_can_be_used(reader: Reader) -> None:
    """A page that forgets one would work for its author alone."""
    use = page("sh", 'test "$NAME" = Ada')
    with pytest.raises(KeyError, match="NAME"):
        reader.play(use)
    reader.play(page("sh", "export NAME=…", "set") + use)


def test_a_block_without_a_language_fails() -> None:
    """Otherwise it would not be played."""
    with pytest.raises(AssertionError):
        list(blocks(page("", "mirror migrate")))


def test_an_ellipsis_stands_for_text_that_is_another_one_each_time(reader: Reader) -> None:
    """The text around it is compared, and its order."""
    printing = page("sh", "echo Hello Ada, goodbye")
    reader.play(printing + page("text", "Hello …, good…"))
    with pytest.raises(AssertionError, match="good…Ada"):
        reader.play(printing + page("text", "good…Ada"))


def test_a_file_whose_name_is_only_in_the_comment_fails(reader: Reader) -> None:
    """A reader of the site sees no comments."""
    block = page("python", "import app", "file: app.py")
    reader.play(f"The file `app.py`:\n\n{block}")
    with pytest.raises(AssertionError, match=r"app\.py"):
        reader.play(block)


def test_a_file_of_variables_gets_their_values_and_can_be_read(reader: Reader) -> None:
    """The values come from the test or from the background; a file that fails is noticed."""
    write = "`env.sh`\n\n" + page("sh", "export NAME=…\nexport OTHER=…", "file: env.sh")
    printing = page("sh", "echo export OTHER=Eve", "in the background")
    reader.play(printing + write + page("sh", '. ./env.sh\ntest "$NAME$OTHER" = AdaEve'))
    with pytest.raises(AssertionError):
        reader.play(
            "`env.sh`\n\n" + page("sh", "exit 3", "file: env.sh") + page("sh", ". ./env.sh")
        )


def test_a_reader_who_is_alone_starts_nothing(reader: Reader) -> None:
    """Its own output is not looked for; that of the next command is."""
    reader.alone = True
    reader.play(page("sh", "exit 3", "in the background") + page("text", "ready."))
    assert not reader.background
    with pytest.raises(AssertionError, match="ready"):
        reader.play(page("sh", "true") + page("text", "ready."))
