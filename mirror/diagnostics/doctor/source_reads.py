"""Source reads: finds reads of keys and references for which the primary compares whole tables.

The server plans a read of values that no row has, and runs nothing. For so few rows it uses an
index if there is one. If it checks the condition with these values on each row of a table instead,
then no index serves them: in most cases the query computes the column, by a cast for example, and
the index is on the bare column.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from psycopg import sql

from mirror.model.mapping import Mapping
from mirror.schema.quoting import identifier
from mirror.sync.connections import Database
from mirror.sync.row_queries import row_query

LARGE: Final = 10_000
"""Up to this number of rows, by the planner's estimate, a scan of a table is no finding."""

_SCANS: Final = {"Seq Scan", "Index Scan", "Index Only Scan"}

# The planner's estimate: rows per page when the table was last analyzed, times the pages it has
# now. `reltuples` alone is too large after a vacuum has cut off empty pages, and a plan for the few
# pages that are left is a scan. A partition counts as its table.
_LARGE_TABLE: Final = """
select coalesce(pg_partition_root(oid), oid)::regclass::text
from pg_class
where oid = to_regclass(%s)
  and reltuples / greatest(relpages, 1)
    * (pg_relation_size(oid) / current_setting('block_size')::integer) > %s
"""


@dataclass(frozen=True)
class Scan:
    """A read that compares each row of a large table."""

    table: str
    """The name as in SQL."""
    columns: tuple[str, ...]
    """The columns of the mapping with which rows are compared."""


@dataclass(frozen=True)
class _Read:
    """A read by the values of some columns, each of which no row is expected to have."""

    condition: str
    """The condition for one column, as a template for its name, its value and its type."""
    columns: tuple[tuple[str, str], ...]
    """(name, type) of each."""

    def values(self) -> dict[str, str]:
        """Return the value of each column, by name."""
        return {name: _unusual(type_, i) for i, (name, type_) in enumerate(self.columns)}


def read_scans(database: Database, mapping: Mapping) -> list[Scan]:
    """Return the scans of large tables in the reads of one key and of each reference.

    Raises:
        MirrorError: the primary refuses the query, or does not answer.
    """
    key = tuple((column.name, column.type) for column in mapping.key_columns)
    reads = [_Read("q.{} = {}::text::{}", key)]
    for reference in mapping.all_references:
        column = (reference.name, reference.type)
        reads.append(_Read("q.{} = any(array[{}]::text[]::{}[])", (column,)))
    plans = database.together(*(_explain(database, mapping, read) for read in reads))
    found = []
    for read, (((plan,),),) in zip(reads, plans, strict=True):
        for name, condition in _scanned(plan["Plan"]):
            columns = tuple(column for column, value in read.values().items() if value in condition)
            if columns:
                tables = database.execute(_LARGE_TABLE, [name, LARGE])
                found += [Scan(table, columns) for (table,) in tables]
    return list(dict.fromkeys(found))


def _explain(database: Database, mapping: Mapping, read: _Read) -> sql.SQL:
    values = read.values()
    statement = sql.SQL(
        "explain (verbose, format json) select from ({query}) as q where {conditions}"
    ).format(
        query=row_query(mapping),
        conditions=sql.SQL(" and ").join(
            sql.SQL(read.condition).format(
                sql.Identifier(name), sql.Literal(values[name]), sql.SQL(type_)
            )
            for name, type_ in read.columns
        ),
    )
    return database.bound(statement, [])


def _unusual(type_: str, number: int) -> str:
    """Return a value of a key's type; its text is in no condition of a mapping's query."""
    if type_ == "uuid":
        return f"00000000-0000-4000-8000-{0xD0C70:08x}{number:04x}"
    if type_ == "text":
        return f"mirror-doctor-{number}"
    return str(32_701 + number)


def _scanned(plan: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (table as in SQL, condition) for each scan of a whole table that checks a condition."""
    if plan["Node Type"] in _SCANS and "Index Cond" not in plan and "Filter" in plan:
        yield identifier(plan["Schema"], plan["Relation Name"]), plan["Filter"]
    for child in plan.get("Plans", []):
        yield from _scanned(child)
