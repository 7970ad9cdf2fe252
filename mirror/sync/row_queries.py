"""Row queries: queries on the primary for the rows that a mapping wants in the target."""

from collections.abc import Mapping as MappingABC
from collections.abc import Sequence

from psycopg import sql

from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.model.query.validate import is_pulled_up

Row = tuple[str | None, ...]
"""A desired row as texts of the target's types: the columns, then references that are not columns.
"""

BoundQuery = tuple[sql.Composed, object]
"""A statement and its parameters."""


class RowQueries:
    """Builds queries for a mapping's rows. Each selects `values`."""

    def __init__(self) -> None:
        self._flattened: dict[str, bool] = {}
        self._values: dict[str, sql.Composed] = {}

    def values(self, mapping: Mapping) -> sql.Composed:
        """Return the select list: the values of a row `q`, as texts."""
        if mapping.name not in self._values:
            self._values[mapping.name] = sql.SQL(", ").join(
                sql.SQL("q.{}::{}::text").format(sql.Identifier(name), _type(kind))
                for name, kind in mapping.row_layout
            )
        return self._values[mapping.name]

    def of_keys(self, mapping: Mapping, keys: Sequence[Key], *, expired: bool) -> BoundQuery:
        """Return a query for the rows of some keys; `expired` includes expired rows."""
        names = [sql.Identifier(name) for name in mapping.key]
        # Named placeholders, so that each array is sent once.
        arrays = [
            sql.SQL("{}::text[]::{}[]").format(sql.Placeholder(f"k{number}"), _type(column.type))
            for number, column in enumerate(mapping.key_columns)
        ]
        statement = sql.SQL(
            "select {values} from unnest({arrays}) as k ({names}) join ({query}) as q on {same}"
        ).format(
            values=self.values(mapping),
            arrays=sql.SQL(", ").join(arrays),
            names=sql.SQL(", ").join(names),
            query=row_query(mapping, expired=expired),
            same=sql.SQL(" and ").join(sql.SQL("q.{0} = k.{0}").format(name) for name in names),
        )
        if not self._dissolves(mapping):
            # The same condition as the join's, but the planner can move it below a DISTINCT, GROUP
            # BY or UNION. Elsewhere it is slower: the planner then reads all rows of a key's user
            # to keep one.
            statement += sql.SQL(" where ") + sql.SQL(" and ").join(
                sql.SQL("q.{} = any({})").format(name, array)
                for name, array in zip(names, arrays, strict=True)
            )
        columns = zip(*keys, strict=True)
        return statement, {f"k{number}": list(column) for number, column in enumerate(columns)}

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


def _type(name: str) -> sql.SQL:
    """Return a declared type as SQL. It comes from the declarations, not from a user."""
    return sql.SQL(name)
