"""Keys have one canonical form, the form that PostgreSQL prints."""

from collections import namedtuple
from collections.abc import Iterator
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from mirror.devstack import PostgresCluster
from mirror.errors import InvalidKey
from mirror.model.keys import KeyColumn, canonical_key, key_order

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES = {
    "uuid": st.uuids(),
    "smallint": st.integers(-(2**15), 2**15 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "text": TEXTS,
}
FEW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

ID = UUID("6f1b1f4e-8d3a-4c55-9f6e-0d9d6f0d2a11")


def canonical(kind: str, value: object) -> str:
    """Return a value's canonical form as a column of that type."""
    return KeyColumn("id", kind).canonical(value, owner="things")


@pytest.fixture(scope="module")
def connection(primary_cluster: PostgresCluster) -> Iterator[psycopg.Connection[Any]]:
    """A connection to any database; the tests create nothing."""
    with psycopg.connect(primary_cluster.url("postgres"), autocommit=True) as connection:
        yield connection


class Level(int, Enum):
    """An enum whose str() is its name."""

    HIGH = 3


class Number(IntEnum):
    """An enum whose str() is its number."""

    ONE = 1


class Name(str, Enum):  # noqa: UP042 - StrEnum prints its value
    """An enum whose str() is its name, although it is a str."""

    ACTIVE = "ACTIVE"


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("uuid", ID, str(ID)),
        ("uuid", str(ID).upper(), str(ID)),
        ("uuid", ID.hex, str(ID)),
        ("bigint", 7, "7"),
        ("bigint", "7", "7"),
        ("bigint", "+007", "7"),
        ("bigint", "-0", "0"),
        ("bigint", -(2**63), str(-(2**63))),
        ("integer", Level.HIGH, "3"),
        ("smallint", Number.ONE, "1"),
        ("text", "", ""),
        ("text", " a ", " a "),
        ("text", Name.ACTIVE, "ACTIVE"),
    ],
)
def test_a_value_takes_the_form_postgresql_prints(kind: str, value: object, text: str) -> None:
    """Values of all Python types become the same plain string."""
    form = canonical(kind, value)
    assert form == text
    assert type(form) is str


@pytest.mark.parametrize("kind", VALUES)
def test_the_form_is_stable_and_agrees_with_postgresql(
    kind: str, connection: psycopg.Connection[Any]
) -> None:
    """canonical(canonical(x)) equals canonical(x), and equals `x::type::text`."""

    @FEW
    @given(value=VALUES[kind])
    def check(value: object) -> None:
        text = canonical(kind, value)
        assert canonical(kind, text) == text
        printed = connection.execute(
            sql.SQL("select %s::text::{}::text").format(sql.SQL(kind)), [text]
        ).fetchone()
        assert printed == (text,)

    check()


@pytest.mark.parametrize(
    ("kind", "spelling", "since"),
    [
        ("uuid", f"{{{ID}}}", 14),
        ("uuid", "6F1B-1F4E-8D3A-4C55-9F6E-0D9D-6F0D-2A11", 14),
        ("uuid", "{6f1b1f4e8d3a-4c559f6e0d9d6f0d2a11}", 14),
        ("bigint", " \t\n7\v\f\r", 14),
        ("bigint", " -007 ", 14),
        ("bigint", "1_000", 16),
        ("bigint", "-0x_1f", 16),
        ("bigint", "0O17", 16),
        ("bigint", "+0b101", 16),
    ],
)
def test_each_spelling_that_postgresql_casts_is_understood(
    kind: str, spelling: str, since: int, connection: psycopg.Connection[Any]
) -> None:
    """A mapping's query may cast a text column, whose text a trigger then records."""
    if connection.info.server_version < since * 10_000:
        pytest.skip(f"PostgreSQL casts this since {since}")
    printed = connection.execute(
        sql.SQL("select %s::text::{}::text").format(sql.SQL(kind)), [spelling]
    ).fetchone()
    assert printed == (canonical(kind, spelling),)


@pytest.mark.parametrize("kind", VALUES)
def test_keys_sort_as_postgresql_sorts_them(kind: str, connection: psycopg.Connection[Any]) -> None:
    """key_order agrees with ORDER BY; text uses COLLATE "C", which compares bytes."""
    collate = sql.SQL('collate "C"' if kind == "text" else "")
    columns = [KeyColumn("a", kind), KeyColumn("b", "integer")]

    @FEW
    @given(st.lists(st.tuples(VALUES[kind], st.integers(-9, 9)), max_size=20))
    def check(rows: list[tuple[object, int]]) -> None:
        keys = [canonical_key(columns, row, owner="things") for row in rows]
        found = connection.execute(
            sql.SQL(
                "select a::text, b::text from"
                " (select a::{kind}, b::int from unnest(%s::text[], %s::text[]) as u (a, b)) as t"
                " order by t.a {collate}, t.b"
            ).format(kind=sql.SQL(kind), collate=collate),
            [[key[0] for key in keys], [key[1] for key in keys]],
        ).fetchall()
        assert sorted(keys, key=lambda key: key_order(columns, key)) == found

    check()


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("uuid", "nonsense", "expected a UUID, got an invalid string of 8 characters"),
        ("uuid", 7, "expected a UUID, got a value of type int"),
        ("uuid", "\N{ARABIC-INDIC DIGIT ZERO}" * 32, "expected a UUID"),
        ("uuid", "1234_5678" * 4, "expected a UUID"),
        ("uuid", f"{ID}\n", "expected a UUID"),
        ("uuid", f"{ID}'; drop table trips; --", "expected a UUID"),
        ("bigint", "seven", "expected bigint, got an invalid string of 5 characters"),
        ("bigint", "1__000", "expected bigint"),
        ("bigint", "\N{ARABIC-INDIC DIGIT SEVEN}", "expected bigint"),
        ("bigint", "7 7", "expected bigint"),
        ("uuid", f"{{{ID}", "expected a UUID"),
        ("bigint", "9" * 5000, "expected bigint"),
        ("bigint", 7.0, "expected bigint, got a value of type float"),
        ("bigint", True, "expected bigint, got a value of type bool"),
        ("bigint", 2**63, "does not fit bigint"),
        ("integer", "2147483648", "does not fit integer"),
        ("smallint", -40000, "does not fit smallint"),
        ("text", 7, "expected text, got a value of type int"),
        ("text", b"bytes", "expected text, got a value of type bytes"),
        ("text", "a\0b", "cannot hold a NUL"),
        ("text", "\ud800", "not valid Unicode"),
        ("text", None, "the value is None. If the row is new, call session.flush() before"),
    ],
)
def test_a_bad_value_is_named_but_not_repeated(kind: str, value: object, expected: str) -> None:
    """The message names mapping and column; the value may be personal data."""
    with pytest.raises(InvalidKey) as caught:
        canonical(kind, value)
    message = str(caught.value)
    assert message.startswith("mapping 'things', column 'id': ")
    assert expected in message
    if isinstance(value, str):
        assert value not in message


@pytest.mark.parametrize("key", [(), (1,), (1, 2, 3), 1, "ab", b"ab"])
def test_a_key_of_the_wrong_arity_is_refused(key: object) -> None:
    """A string of two letters is one value."""
    columns = [KeyColumn("a", "text"), KeyColumn("b", "text")]
    with pytest.raises(InvalidKey, match=r"mapping 'things': its key is \(a, b\), 2 value\(s\)"):
        canonical_key(columns, key, owner="things")


def test_a_key_may_be_any_sequence_or_one_bare_value() -> None:
    """Tuples, lists and rows are keys; so is the bare value of a single column."""
    columns = [KeyColumn("a", "integer"), KeyColumn("b", "text")]
    row = namedtuple("row", "a b")  # noqa: PYI024 - stands for a driver's row
    for key in ((1, "x"), [1, "x"], row(1, "x")):
        assert canonical_key(columns, key, owner="things") == ("1", "x")
    assert canonical_key(columns[:1], 1, owner="things") == ("1",)
    assert canonical_key(columns[:1], (1,), owner="things") == ("1",)
