"""The page on findings has an entry for each check of the doctor, and for nothing else."""

from pathlib import Path

import pytest

from mirror.diagnostics.doctor import CHECKS
from mirror.diagnostics.doctor.kinds import Check

PAGE = Path(__file__).parent.parent.parent / "docs" / "findings.md"


def entry(code: str, check: Check) -> str:
    """Return the entry of one kind of finding: its case, its effect and its remedy."""
    return f"""\
### `{code}`

{check.severity.value.capitalize()}: {check.problem}.

- **Effect:** {check.effect}.
- **Remedy:** {check.generic_remedy}
"""


def test_the_page_has_an_entry_for_every_check_in_the_words_of_the_doctor() -> None:
    """Copy the printed text to bring the page up to date: it is what the page lacks."""
    expected = "\n".join(entry(code, check) for code, check in CHECKS.items())
    listed = PAGE.read_text(encoding="utf-8").split("## The findings\n\n")[1]
    assert listed == expected


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_each_check_says_what_follows_and_what_to_do(check: Check) -> None:
    """A remedy is an instruction: a sentence, or a statement that can be copied."""
    assert check.effect != check.problem
    for text in (check.problem, check.effect):
        assert not text.endswith(".")
    assert check.remedy[-1] in ".;}"
    # Without that, psql goes on after an error, rolls back at the end, and exits with 0.
    assert check.remedy.count("psql -1") == check.remedy.count("psql -1 -v ON_ERROR_STOP=1")
