"""Keys: the primary-key values of one target row, in one canonical form.

In this library a key is always a tuple of strings; each is the text that PostgreSQL prints for the
value. Keys in this form need no driver's types. Two of them are equal if and only if the values in
the database are equal, and both databases can cast the texts back to values.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from mirror.errors import InvalidKey

Key = tuple[str, ...]
"""One target row's key: canonical texts, in the mapping's key order."""

_INTEGER_BITS: Final = {"smallint": 16, "integer": 32, "bigint": 64}
KEY_TYPES: Final = ("uuid", "text", *_INTEGER_BITS)
"""The types a key column or a reference may have."""

# Every spelling that PostgreSQL casts: an event may have the text of a column that a query casts.
# No other: int() and UUID() accept the digits of any script, for example.
_UUID: Final = re.compile(r"(\{)?([0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}(?(1)\})")
_PRINTED_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INTEGER: Final = re.compile(
    r"[+-]?([0-9_]{1,40}|0[xX][0-9a-fA-F_]{1,80}|0[oO][0-7_]{1,80}|0[bB][01_]{1,80})"
)
_BLANKS: Final = " \t\n\v\f\r"


@dataclass(frozen=True)
class KeyColumn:
    """One column of a key, or one reference: its name and its PostgreSQL type."""

    name: str
    type: str

    def canonical(self, value: object, *, owner: str) -> str:
        """Return the text that PostgreSQL would print for `value`.

        `owner` is the mapping's name, for error messages.

        Raises:
            InvalidKey: `value` is None, or not of this column's type.
        """
        where = f"mapping {owner!r}, column {self.name!r}"
        if value is None:
            raise InvalidKey(
                f"{where}: the value is None. If the row is new, call session.flush() before "
                f"the hook, so that its key exists."
            )
        if self.type == "uuid":
            return self._uuid(value, where)
        if self.type == "text":
            return self._text(value, where)
        return self._integer(value, where)

    def order(self, text: str) -> int | bytes:
        """Return a sort key for `text`, a value in canonical form.

        It gives the order that the databases use: for a text column, the order by bytes
        (COLLATE "C").
        """
        return int(text) if self.type in _INTEGER_BITS else text.encode()

    @staticmethod
    def _uuid(value: object, where: str) -> str:
        if isinstance(value, UUID):
            return str(value)
        if isinstance(value, str):
            # The form that PostgreSQL prints and nearly every event has: no need to parse it.
            if _PRINTED_UUID.fullmatch(value):
                return str.__str__(value)
            if _UUID.fullmatch(value):
                return str(UUID(value))
        raise InvalidKey(f"{where}: expected a UUID, got {_describe(value)}.")

    @staticmethod
    def _text(value: object, where: str) -> str:
        if not isinstance(value, str):
            raise InvalidKey(f"{where}: expected text, got {_describe(value)}.")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidKey(f"{where}: the text is not valid Unicode.") from None
        if "\0" in value:
            raise InvalidKey(f"{where}: PostgreSQL text cannot hold a NUL character.")
        # A member of a str enum is a str; the database holds its plain text.
        return str.__str__(value)

    def _integer(self, value: object, where: str) -> str:
        bound = 1 << (_INTEGER_BITS[self.type] - 1)
        if isinstance(value, str) and _INTEGER.fullmatch(text := value.strip(_BLANKS)):
            with suppress(ValueError):  # raised for a misplaced underscore
                value = int(text, 0 if text.lstrip("+-")[1:2].isalpha() else 10)
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidKey(f"{where}: expected {self.type}, got {_describe(value)}.")
        if not -bound <= value < bound:
            raise InvalidKey(f"{where}: the number does not fit {self.type}.")
        return int.__repr__(value)


def canonical_key(columns: Sequence[KeyColumn], key: object, *, owner: str) -> Key:
    """Return `key` in canonical form.

    `key` is a sequence (tuple, list, SQLAlchemy row) with one value for each column; for a key of
    one column, the bare value is accepted, too. `owner` is the mapping's name, for error messages.

    Raises:
        InvalidKey: the number of values or a type is wrong; names the mapping and the column.
    """
    several = isinstance(key, Sequence) and not isinstance(key, str | bytes | bytearray)
    values: Sequence[object] = key if several else (key,)  # type: ignore[assignment]
    if len(values) != len(columns):
        names = ", ".join(column.name for column in columns)
        raise InvalidKey(
            f"mapping {owner!r}: its key is ({names}), {len(columns)} value(s); got {len(values)}."
        )
    return tuple(
        column.canonical(value, owner=owner) for column, value in zip(columns, values, strict=True)
    )


def key_order(columns: Sequence[KeyColumn], key: Key) -> tuple[int | bytes, ...]:
    """Return a sort key that orders keys as `ORDER BY` over the key columns does in a database."""
    return tuple(column.order(text) for column, text in zip(columns, key, strict=True))


def _describe(value: object) -> str:
    """Return a description of a bad value that does not repeat it: it may be personal data."""
    if isinstance(value, str):
        return f"an invalid string of {len(value)} characters"
    return f"a value of type {type(value).__name__}"
