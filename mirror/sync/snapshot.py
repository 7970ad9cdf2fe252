"""Snapshot: the primary's rows as they were at one moment."""

from collections.abc import Mapping as MappingABC
from collections.abc import Sequence

from mirror.errors import Halted, Rejected
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.sync.connections import Database
from mirror.sync.row_queries import BoundQuery, Row, RowQueries
from mirror.sync.stamp import Stamp


class Snapshot:
    """Reads of one moment. Valid inside `Source.snapshot()` only."""

    def __init__(self, database: Database, desired: RowQueries, stamp: Stamp) -> None:
        self.stamp = stamp
        self._database = database
        self._desired = desired
        self._expired = False
        self._known: dict[str, dict[Key, Row | None]] = {}

    def with_expired(self) -> "Snapshot":
        """Return the same view with the rows that have expired, for whoever explains."""
        view = Snapshot(self._database, self._desired, self.stamp)
        view._expired = True
        return view

    def keep(self, mapping: Mapping, keys: Sequence[Key], found: list[Row]) -> None:
        """Know from now on, without asking again, what was found for `keys`."""
        rows = _by_key(mapping, found)
        self._known[mapping.name] = {key: rows.get(key) for key in keys}

    def rows(self, mapping: Mapping, keys: Sequence[Key]) -> dict[Key, Row]:
        """Return the desired row of each of `keys` that has one."""
        known = self._known.get(mapping.name, {})
        rows = {key: row for key in keys if (row := known.get(key)) is not None}
        if missing := [key for key in keys if key not in known]:
            rows |= self._read(
                mapping, self._desired.of_keys(mapping, missing, expired=self._expired)
            )
        return rows

    def rows_in_scope(
        self,
        mapping: Mapping,
        reference: str,
        values: Sequence[str],
        *,
        after: Key = (),
        limit: int,
    ) -> dict[Key, Row]:
        """Return the desired rows under any of a reference's values, in key order.

        `reference` `*` means all rows. At most `limit`, those after key `after` if it is one.
        """
        query = self._desired.in_scope(
            mapping, reference, values, after=after, limit=limit, expired=self._expired
        )
        return self._read(mapping, query)

    def rows_with(
        self, mapping: Mapping, values: MappingABC[str, str], *, limit: int
    ) -> dict[Key, Row]:
        """Return at most `limit` desired rows in which these columns hold these values."""
        query = self._desired.holding(mapping, values, limit=limit, expired=self._expired)
        return self._read(mapping, query)

    def _read(self, mapping: Mapping, query: BoundQuery) -> dict[Key, Row]:
        try:
            found = self._database.execute(*query)
        except (Rejected, Halted) as error:
            raise type(error)(f"{error}, while reading mapping {mapping.name!r}") from None
        return _by_key(mapping, found)


def _by_key(mapping: Mapping, found: list[Row]) -> dict[Key, Row]:
    names = [column.name for column in mapping.columns]
    places = [names.index(name) for name in mapping.key]
    rows: dict[Key, Row] = {tuple(str(row[i]) for i in places): row for row in found}
    if len(rows) < len(found):
        raise Rejected(
            f"mapping {mapping.name!r}: its query yields two rows for one key; "
            f"make the query DISTINCT or group it."
        )
    return rows
