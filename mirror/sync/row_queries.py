"""Row queries: queries on the primary for the rows that a mapping wants in the target."""

from collections.abc import Mapping as MappingABC
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from mirror.model.keys import Key, KeyColumn
from mirror.model.mapping import Mapping
from mirror.model.query.validate import is_pulled_up

Row = tuple[str | None, ...]
"""A desired row as texts of the target's types: the columns, then references that are not columns.
"""


@dataclass(frozen=True)
class JsonRows:
    """Rows of one mapping as the primary printed them: the request to the target has these texts.

    So a batch of many rows takes the worker itself hardly longer than one of few.
    """

    mapping: Mapping
    rows: str
    """A JSON array of rows."""
    deleted: str
    """A JSON array of keys that have no row."""

    def as_json(self) -> tuple[str, str]:
        """Return the JSON texts of the rows and of the keys without a row."""
        return self.rows, self.deleted


BoundQuery = tuple[sql.SQL | sql.Composed, object]
"""A statement and its parameters."""


class RowQueries:
    """Builds queries for a mapping's rows. Each selects `values`.

    In rows of the mapping `narrowed`, the descriptive columns are NULL.
    """

    def __init__(self, narrowed: str | None = None) -> None:
        self._narrowed = narrowed
        self._flattened: dict[str, bool] = {}
        self._values: dict[str, sql.Composed] = {}
        self._json: dict[str, sql.SQL] = {}

    def values(self, mapping: Mapping) -> sql.Composed:
        """Return the select list: the values of a row `q`, as texts."""
        if mapping.name not in self._values:
            narrow = mapping.name == self._narrowed
            omitted = {column.name for column in mapping.columns if narrow and column.descriptive}
            self._values[mapping.name] = sql.SQL(", ").join(
                sql.SQL("null::text")
                if name in omitted
                else sql.SQL("q.{}::{}::text").format(sql.Identifier(name), _type(kind))
                for name, kind in mapping.row_layout
            )
        return self._values[mapping.name]

    def of_keys(self, mapping: Mapping, keys: Sequence[Key], *, expired: bool) -> BoundQuery:
        """Return a query for the rows of some keys; `expired` includes expired rows."""
        statement = sql.SQL(
            "select {values} from unnest({arrays}) as k ({names}) join ({query}) as q on {same}"
        ).format(values=self.values(mapping), **self._joined(mapping, expired=expired))
        columns = zip(*keys, strict=True)
        return statement, {f"k{number}": list(column) for number, column in enumerate(columns)}

    def as_json(self, mapping: Mapping, keys: Sequence[str | list[str]]) -> BoundQuery:
        """Return a query that prints the rows of some keys as JSON.

        `keys` has, for each key column, the values of all keys: a list, or an array literal. The
        query returns one row: a JSON array of rows, a JSON array of the keys without a row, and
        whether some key has two rows.
        """
        if mapping.name not in self._json:
            first = sql.Identifier(mapping.key[0])
            query = sql.SQL(
                "with k as materialized (select distinct * from unnest({arrays}) as k ({names}))"
                " select coalesce(json_agg(array[{values}])"
                " filter (where q.{first} is not null), '[]')::text,"
                " coalesce(json_agg(array[{key}]) filter (where q.{first} is null), '[]')::text,"
                " count(*) > (select count(*) from k)"
                " from k left join ({query}) as q on {same}"
            ).format(
                values=self.values(mapping),
                first=first,
                key=sql.SQL(", ").join(
                    sql.SQL("k.{}::text").format(sql.Identifier(name)) for name in mapping.key
                ),
                **self._joined(mapping, expired=False),
            )
            # As one text: to compose it again for each batch takes as long as to run it.
            self._json[mapping.name] = sql.SQL(query.as_string(None))
        return self._json[mapping.name], {f"k{i}": array for i, array in enumerate(keys)}

    def as_prepared(self, mapping: Mapping) -> str:
        """Return the query of `as_json` as a text with parameters: `$1` for the first array."""
        query, _ = self.as_json(mapping, [])
        # As the driver fills in parameters, which are doubled percent signs, too.
        return query.as_string(None) % {
            f"k{number}": f"${number + 1}" for number in range(len(mapping.key))
        }

    def _joined(self, mapping: Mapping, *, expired: bool) -> dict[str, sql.Composable]:
        """Return the parts of a query that joins rows `q` to keys `k`.

        The query has a placeholder `k0`, `k1`, … for each key column's array, so that each array
        is sent once.
        """
        names = [sql.Identifier(name) for name in mapping.key]
        arrays = [
            sql.SQL("{}::text[]::{}[]").format(sql.Placeholder(f"k{number}"), _type(column.type))
            for number, column in enumerate(mapping.key_columns)
        ]
        query = row_query(mapping, expired=expired)
        if not self._dissolves(mapping):
            # The same condition as the join's, but the planner can move it below a DISTINCT, GROUP
            # BY or UNION. Elsewhere it is slower: the planner then reads all rows of a key's user
            # to keep one.
            query = sql.SQL("select q.* from ({query}) as q where {in_arrays}").format(
                query=query,
                in_arrays=sql.SQL(" and ").join(
                    sql.SQL("q.{} = any({})").format(name, array)
                    for name, array in zip(names, arrays, strict=True)
                ),
            )
        return {
            "arrays": sql.SQL(", ").join(arrays),
            "names": sql.SQL(", ").join(names),
            "query": query,
            "same": sql.SQL(" and ").join(_same(column) for column in mapping.key_columns),
        }

    def in_scope(
        self,
        mapping: Mapping,
        reference: str,
        values: Sequence[str],
        *,
        after: Key,
        limit: int,
        expired: bool,
    ) -> BoundQuery:
        """Return a query for the rows under any of a reference's values, in key order.

        `reference` `*` means all rows. At most `limit` rows, starting after key `after`; `()` for
        the beginning.
        """
        conditions: list[sql.Composable] = [sql.SQL("true")]
        parameters: list[object] = []
        declared = mapping.reference(reference)
        if declared is not None:
            conditions.append(
                sql.SQL("q.{} = any(%s::text[]::{}[])").format(
                    sql.Identifier(reference), _type(declared.type)
                )
            )
            parameters.append(list(values))
        order = sql.SQL(", ").join(
            sql.SQL('q.{} collate "C"' if column.type == "text" else "q.{}").format(
                sql.Identifier(column.name)
            )
            for column in mapping.key_columns
        )
        if after:
            bound = sql.SQL(", ").join(
                sql.SQL("%s::text::{}").format(_type(column.type)) for column in mapping.key_columns
            )
            conditions.append(sql.SQL("({}) > ({})").format(order, bound))
            parameters += after
        statement = sql.SQL(
            "select {values} from ({query}) as q where {conditions} order by {order} limit %s"
        ).format(
            values=self.values(mapping),
            query=row_query(mapping, expired=expired),
            conditions=sql.SQL(" and ").join(conditions),
            order=order,
        )
        return statement, [*parameters, limit]

    def holding(
        self, mapping: Mapping, values: MappingABC[str, str], *, limit: int, expired: bool
    ) -> BoundQuery:
        """Return a query for at most `limit` rows in which these columns have these values."""
        types = {column.name: column.type for column in mapping.columns}
        statement = sql.SQL("select {values} from ({query}) as q where {same} limit %s").format(
            values=self.values(mapping),
            query=row_query(mapping, expired=expired),
            same=sql.SQL(" and ").join(
                sql.SQL("q.{} = %s::text::{}").format(sql.Identifier(name), _type(types[name]))
                for name in values
            ),
        )
        return statement, [*values.values(), limit]

    def _dissolves(self, mapping: Mapping) -> bool:
        if mapping.name not in self._flattened:
            self._flattened[mapping.name] = is_pulled_up(mapping.query)
        return self._flattened[mapping.name]


def row_query(mapping: Mapping, *, expired: bool = False) -> sql.Composable:
    """Return the mapping's query without rows that have expired by the primary's clock.

    A clock inside the mapping's own query would break the fences, because two reads with equal
    fences could differ. Here it only removes rows: if an earlier read brings an expired row back,
    policies ignore that row by `now()`, and the next sweep removes it.
    """
    query = sql.SQL(mapping.sql)
    if mapping.expires is None or expired:
        return query
    return sql.SQL(
        "select e.* from ({query}) as e where e.{moment} is null or e.{moment}::timestamptz > now()"
    ).format(query=query, moment=sql.Identifier(mapping.expires))


def _same(column: KeyColumn) -> sql.Composed:
    """Return the condition that a row `q` has the value of a key `k` in this column."""
    condition = "q.{0} = k.{0}"
    if column.type == "text":
        # By an index of the column's collation; then by bytes, for some collations take two texts
        # for one.
        condition += ' and q.{0}::text collate "C" = k.{0}'
    return sql.SQL(condition).format(sql.Identifier(column.name))


def _type(name: str) -> sql.SQL:
    """Return a declared type as SQL. It comes from the declarations, not from a user."""
    return sql.SQL(name)
