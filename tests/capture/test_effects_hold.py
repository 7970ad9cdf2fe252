"""Random queries and random writes: an event names each row of a mapping that changes.

All of capture depends on this property. A query that is refused, or that yields several rows for
one key, promises nothing and is skipped.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import SQLAlchemyError

from mirror.devstack import PostgresCluster
from mirror.errors import MappingError
from mirror.model.mapping import EVERYTHING, Mapping
from mirror.model.registry import Registry
from mirror.schema import triggers_sql
from mirror.schema.migrate import upgrade
from tests.capture.random_queries import NAMES, REFERENCES, Queries
from tests.support.databases import TestDatabase

# Some of these seeds fail if one of these rules is removed: a condition of a LEFT JOIN holds only
# for its right side, a condition of a subquery only inside it, a condition under OR nowhere; a NULL
# counts.
SEEDS = (0, 1, 2, 6, 9, 13, 15, 17, 19, 23, 56, 57)
Rows = dict[tuple[int, ...], list[tuple[Any, ...]]]
"""By key: the values of the references, of the deciding column and of the descriptive one."""


@pytest.fixture(scope="module")
def abc(primary_cluster: PostgresCluster) -> Iterator[TestDatabase]:
    """A primary with three tables of numbers."""
    primary_cluster.create_database("abc")
    database = TestDatabase(primary_cluster.url("abc"))
    with database.migrating() as connection:
        upgrade(connection)
    for name in NAMES:
        database.query(
            f"create table {name} (id bigint, x bigint, y bigint, code text,"
            " primary key (id) deferrable);"
            f"insert into {name} values (0, 1, 2, '1'), (1, 2, null, '01'), (2, 1, 0, '2')"
        )
    yield database
    primary_cluster.drop_database("abc")


def model(queries: Queries, database: TestDatabase, size: int) -> Registry:
    """Return accepted mappings that can be read and have an effect narrower than everything."""
    found: list[Mapping] = []
    with database.connect() as connection:
        while len(found) < size:
            try:
                mapping = queries.mapping(f"m{len(found)}")
                effects = Registry("one", [mapping]).effects.values()
                if all(e.reference == EVERYTHING for several in effects for e in several):
                    continue
                if not desired(connection, mapping):
                    continue
            except (MappingError, SQLAlchemyError, psycopg.errors.SyntaxErrorOrAccessRuleViolation):
                continue
            found.append(mapping)
    return Registry("abc", found)


def desired(connection: psycopg.Connection[Any], mapping: Mapping) -> Rows:
    """Return the rows that the target should have."""
    result: Rows = defaultdict(list)
    cursor = connection.execute(mapping.sql)
    names = [column.name for column in cursor.description or ()]
    for values in cursor:
        row = dict(zip(names, values, strict=True))
        key = tuple(row[name] for name in mapping.key)
        if None not in key:
            rest = (*(reference.name for reference in REFERENCES), "value", "note")
            result[key].append(tuple(row[name] for name in rest))
    return result


def lanes(events: list[Any], mapping: Mapping, key: tuple[int, ...], rows: list[Any]) -> list[int]:
    """Return the lanes of the events that name a key, given its rows before and after."""
    references = [reference.name for reference in REFERENCES]
    return [
        lane
        for lane, name, reference, values in events
        if name == mapping.name
        and (
            reference == EVERYTHING
            or (reference is None and tuple(map(int, values)) == key)
            or (
                reference in references
                and int(values[0]) in {row[references.index(reference)] for row in rows}
            )
        )
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_an_event_names_each_row_that_changes(abc: TestDatabase, seed: int) -> None:
    """If a user may lose access, one of its events is in the revocation lane."""
    queries = Queries(seed)
    registry = model(queries, abc, 12)
    with abc.connect(autocommit=False) as connection:
        connection.execute(triggers_sql(registry))
        before = {mapping.name: desired(connection, mapping) for mapping in registry}
        for _ in range(40):
            statement = queries.write()
            with suppress(psycopg.errors.UniqueViolation), connection.transaction():
                connection.execute(statement)
            events = connection.execute(
                "delete from mirror.outbox returning lane, mapping, reference, key"
            ).fetchall()
            for mapping in registry:
                old, new = before[mapping.name], desired(connection, mapping)
                before[mapping.name] = new
                for key in {*old, *new}:
                    was, now = old[key], new[key]
                    if was == now or len(was) > 1 or len(now) > 1:
                        continue
                    event_lanes = lanes(events, mapping, key, was + now)
                    where = f"{mapping.sql}\n{statement}\n{key}: {was} -> {now}\n{events}"
                    assert event_lanes, f"not covered:\n{where}"
                    if was and [row[:-1] for row in was] != [row[:-1] for row in now]:
                        assert min(event_lanes) == 0, f"not as a revocation:\n{where}"
        connection.rollback()
