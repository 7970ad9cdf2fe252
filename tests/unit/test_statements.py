"""The SQL on the primary's schema is in one file, under titles that the code uses."""

import re
from pathlib import Path

import pytest

from mirror.capture import statements
from mirror.capture.statements import statement

PACKAGE = Path(statements.__file__).parent.parent
FILE = Path(statements.__file__).with_name("statements.sql").read_text(encoding="utf-8")
TITLES = re.findall(r"^-- (\w+) --$", FILE, re.MULTILINE)
CODE = {
    path.relative_to(PACKAGE): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")
}


def test_every_title_is_used_and_every_use_has_a_title() -> None:
    """An unused statement must go; a misspelt title would fail only when it is used."""
    used = [title for code in CODE.values() for title in re.findall(r'statement\("(\w+)"\)', code)]
    assert set(used) == set(TITLES)


def test_no_title_appears_twice() -> None:
    """The second statement would hide the first one."""
    assert sorted(TITLES) == sorted(set(TITLES))


def test_a_statement_has_no_comments() -> None:
    """A driver would read `%` or `:name` in a comment as a placeholder."""
    assert statement("delete_old_runs").startswith("delete from mirror.runs")
    assert not [title for title in TITLES if not statement(title) or "--" in statement(title)]


def test_an_unknown_title_fails_with_its_name() -> None:
    """A new caller may misspell it."""
    with pytest.raises(LookupError, match="no statement titled 'claim_event'"):
        statement("claim_event")


def test_no_other_module_writes_sql_on_the_primarys_tables() -> None:
    """Except what prints SQL or reads migrations."""
    tables = "outbox|claims|retries|state|runs|leases|heartbeats|migrations|delays|revocations"
    sql = re.compile(rf"\b(from|join|into|update) mirror\.({tables})\b")
    elsewhere = [str(path) for path, code in CODE.items() if sql.search(code)]
    assert {path.split("/")[0] for path in elsewhere} == {"cli", "schema"}
