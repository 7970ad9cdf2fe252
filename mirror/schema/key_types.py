"""Key types: finds key and reference columns that the primary cannot compare as they are declared.

A worker finds rows by values of the declared type, and reads them in the order of their keys, texts
by their bytes. A type may have a cast to the declared one and yet no comparison with it: an enum or
a uuid that is declared as text, a text that is declared as uuid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from mirror.errors import MappingError, Permanent
from mirror.errors.sqlstates import classify, server_error
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.schema.quoting import identifier

Ask = Callable[[str], Sequence[Any]]
"""Runs one statement without parameters on the primary and returns its rows.

If it raises an error of the mirror, later statements must work all the same.
"""


@dataclass(frozen=True)
class Incomparable:
    """A key column or a reference whose type has no comparison with the declared type."""

    mapping: str
    """The mapping's name."""
    column: str
    type: str
    """The type in the primary, as its server spells it."""
    declared: str
    """The type in the mapping."""

    def __str__(self) -> str:
        """Return the problem as a sentence."""
        return (
            f"mapping {self.mapping!r}: column {self.column} is {self.type} in the primary and"
            f" {self.declared} in the mapping, which the primary cannot compare"
        )


def incomparable_columns(mapping: Mapping, ask: Ask) -> list[Incomparable]:
    """Return the key columns and references that the primary cannot compare or order as declared.

    No row is read.

    Raises:
        MirrorError: the primary refuses the mapping's query, or does not answer.
    """
    columns = {column.name: column.type for column in mapping.key_columns}
    columns |= {reference.name: reference.type for reference in mapping.all_references}
    types = ", ".join(f"pg_typeof(q.{identifier(name)})::text" for name in columns)
    query = mapping.sql.replace("%%", "%")
    # The outer join yields a row of NULLs, which have the types of the query's columns.
    ((*actual,),) = ask(
        f"select {types} from (select) as one"
        f" left join (select * from ({query}) as q limit 0) as q on true"
    )
    pairs = list(zip(actual, columns.values(), strict=True))
    if _compare(pairs, ask):
        return []
    return [
        Incomparable(mapping.name, name, *pair)
        for name, pair in zip(columns, pairs, strict=True)
        if not _compare([pair], ask)
    ]


def _compare(pairs: list[tuple[str, str]], ask: Ask) -> bool:
    """Return whether values of each (actual, declared) type can be compared as a worker does it."""
    values, conditions, order = [], [], []
    for number, (actual, declared) in enumerate(pairs):
        column = f"q.c{number}"
        ordered = f'{column} collate "C"' if declared == "text" else column
        values.append(f"null::{actual} as c{number}")
        conditions += [
            f"{column} = null::{declared}",
            f"{column} = any(null::{declared}[])",
            # Rows are compared by the operators of an index, single values by any operator.
            f"({ordered}, 0) > (null::{declared}, 0)",
        ]
        order.append(ordered)
    try:
        ask(
            f"select from (select {', '.join(values)}) as q where {' and '.join(conditions)}"
            f" order by {', '.join(order)}"
        )
    except Permanent:
        return False
    return True


def check_key_types(connection: Connection, registry: Registry) -> list[str]:
    """Refuse mappings with keys or references that the primary cannot compare; change nothing.

    Returns, for each mapping whose query the primary refuses, a sentence with the reason: a table
    may be created later.

    Raises:
        MappingError: names each such column, its types and the remedy.
        MirrorError: the primary does not answer.
    """

    def ask(statement: str) -> Sequence[Any]:
        try:
            with connection.begin_nested():
                found = connection.exec_driver_sql(
                    statement, execution_options={"no_parameters": True}
                )
                return found.all()
        except DBAPIError as error:
            refusal = server_error(error.orig)
            if not refusal.state:
                raise
            raise classify(refusal.state, refusal.message, role="primary") from None

    wrong: list[Incomparable] = []
    unchecked: list[str] = []
    for mapping in registry:
        try:
            wrong += incomparable_columns(mapping, ask)
        except Permanent as error:
            unchecked.append(f"mapping {mapping.name!r} could not be checked: {error}")
    if wrong:
        raise MappingError(
            "; ".join(map(str, wrong)) + ". Cast each in its mapping's query to the declared type."
        )
    return unchecked
