"""Keys: the primary-key values of one target row, in one canonical form.

Everywhere in this library a key is a tuple of strings, each the text that PostgreSQL prints
for the value. That form needs no driver-specific types, compares equal exactly where the
database's values do, and can be cast back by either database.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from mirror.errors import InvalidKey

Key = tuple[str, ...]
"""One target row's key: canonical texts, in the mapping's key order."""

_INTEGER_BITS: Final = {"smallint": 16, "integer": 32, "bigint": 64}
KEY_TYPES: Final = ("uuid", "text", *_INTEGER_BITS)
"""The types a key column or a reference may have."""


@dataclass(frozen=True)
class KeyColumn:
    """One column of a key, or a reference: its name and its PostgreSQL type."""

    name: str
    type: str

    def canonical(self, value: object, *, owner: str) -> str:
        """Return the text PostgreSQL would print for `value`.

        `owner` names the mapping, for the message.

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
        """Return what sorts `text` as the databases do (text under COLLATE "C")."""
        return int(text) if self.type in _INTEGER_BITS else text.encode()

    @staticmethod
    def _uuid(value: object, where: str) -> str:
        if isinstance(value, UUID):
            return str(value)
        if isinstance(value, str):
            try:
                return str(UUID(value))
            except ValueError:
                pass
        raise InvalidKey(f"{where}: expected a UUID, got {_shape(value)}.")

    @staticmethod
    def _text(value: object, where: str) -> str:
        if not isinstance(value, str):
            raise InvalidKey(f"{where}: expected text, got {_shape(value)}.")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidKey(f"{where}: the text is not valid Unicode.") from None
        if "\0" in value:
            raise InvalidKey(f"{where}: PostgreSQL text cannot hold a NUL character.")
        return value

    def _integer(self, value: object, where: str) -> str:
        bound = 1 << (_INTEGER_BITS[self.type] - 1)
        if isinstance(value, str):
            try:
                value = int(value)
            except ValueError:
                raise InvalidKey(f"{where}: expected {self.type}, got {_shape(value)}.") from None
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidKey(f"{where}: expected {self.type}, got {_shape(value)}.")
        if not -bound <= value < bound:
            raise InvalidKey(f"{where}: the number does not fit {self.type}.")
        return str(value)


def canonical_key(columns: Sequence[KeyColumn], key: object, *, owner: str) -> Key:
    """Return `key` in canonical form.

    `key` is a tuple or list of as many values as there are columns; for a one-column key the
    bare value will do.

    Raises:
        InvalidKey: wrong arity or type; names the mapping and the column.
    """
    values: Sequence[object] = key if isinstance(key, tuple | list) else (key,)
    if len(values) != len(columns):
        names = ", ".join(column.name for column in columns)
        raise InvalidKey(
            f"mapping {owner!r}: its key is ({names}), {len(columns)} value(s); got {len(values)}."
        )
    return tuple(
        column.canonical(value, owner=owner) for column, value in zip(columns, values, strict=True)
    )


def key_order(columns: Sequence[KeyColumn], key: Key) -> tuple[int | bytes, ...]:
    """Return a sort key that orders keys as `ORDER BY` over the key columns does."""
    return tuple(column.order(text) for column, text in zip(columns, key, strict=True))


def _shape(value: object) -> str:
    """Describe a bad value without repeating it: it may be personal data."""
    if isinstance(value, str):
        return f"a string of {len(value)} characters that is none"
    return f"a value of type {type(value).__name__}"
