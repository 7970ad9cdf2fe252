"""The table of people and statements: how it is read, and how a difference is shown."""

import pytest

from mirror.testing.acting import DENIED, Result
from mirror.testing.table import AccessTable

TABLE = """
                 olga  nora
    read          2     no
    write a note  yes   CheckViolation
"""


def test_a_table_names_people_and_statements_whose_names_may_have_spaces() -> None:
    """Each line has a word for each person at its end."""
    table = AccessTable.parse(TABLE)
    assert table.people == ("olga", "nora")
    assert table.words == {
        "read": {"olga": "2", "nora": "no"},
        "write a note": {"olga": "yes", "nora": "CheckViolation"},
    }


@pytest.mark.parametrize("nothing", [0, DENIED])
def test_a_table_agrees_with_results_that_its_words_mean(nothing: Result) -> None:
    """`no` means no row or a refusal, and `yes` any number of rows."""
    found: dict[str, dict[str, Result]] = {
        "read": {"olga": 2, "nora": nothing},
        "write a note": {"olga": 7, "nora": "CheckViolation"},
    }
    assert AccessTable.parse(TABLE).difference(found) is None


def test_a_difference_shows_both_tables_and_marks_each_result_that_is_another() -> None:
    """An error of a constraint is no refusal: the policies have allowed the statement."""
    found: dict[str, dict[str, Result]] = {
        "read": {"olga": 3, "nora": "CheckViolation"},
        "write a note": {"olga": 0, "nora": DENIED},
    }
    difference = AccessTable.parse(TABLE).difference(found)
    assert difference is not None
    assert difference.splitlines() == [
        "expected      olga  nora             |   got           olga  nora",
        "read          2     no               |   read          !3    !CheckViolation",
        "write a note  yes   CheckViolation   |   write a note  !0    !denied",
    ]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("", "needs a line of people"),
        ("olga nora", "needs a line of people"),
        ("olga nora\nread 2", "'read 2': expected the name of a statement, and a word for each of"),
        ("olga nora\nread 2 no\nread 2 no", "statement 'read' has two lines"),
        ("olga nora\nread all 2", "statement 'read': 'all' is neither a number, nor yes"),
        ("olga olga\nread 2 no", "a person has two columns: olga olga"),
    ],
)
def test_a_table_with_a_mistake_is_refused(wrong: str, says: str) -> None:
    """Otherwise a test would assert less than it shows."""
    with pytest.raises(ValueError, match=says):
        AccessTable.parse(wrong)
