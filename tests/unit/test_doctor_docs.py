"""The doctor's page lists all checks of the doctor, and nothing else."""

from pathlib import Path

import pytest

from mirror.diagnostics.doctor import CHECKS

pytestmark = pytest.mark.fast

PAGE = Path(__file__).parent.parent.parent / "docs" / "doctor.md"


def test_the_page_lists_every_check_in_the_words_of_the_doctor() -> None:
    """Code, severity, finding and remedy. Copy the printed rows to bring the page up to date."""
    rows = [
        f"| `{code}` | {check.severity.value} | {check.problem} | {check.generic_remedy} |".replace(
            " | psql", r" \| psql"
        )
        for code, check in CHECKS.items()
    ]
    table = ["| code | severity | what is the case | remedy |", "| --- | --- | --- | --- |", *rows]
    page = PAGE.read_text(encoding="utf-8")
    listed = page.split("## Checks\n")[1].split("\n## ")[0]
    assert "\n".join(table) == listed[listed.index("| code") :].strip()
