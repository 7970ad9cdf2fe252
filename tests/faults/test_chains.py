"""Three generations, text keys and retained rows: the trips model has none of these."""

from collections.abc import Callable, Iterator

import pytest

from mirror.devstack import PostgresCluster
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from mirror.sync.drain import Drain
from tests.faults.chains import PRIMARY, registry
from tests.faults.tools import Intercepted
from tests.support.databases import TestDatabase, primary_with
from tests.support.drains import making_drains


@pytest.fixture
def primary(primary_cluster: PostgresCluster) -> Iterator[TestDatabase]:
    """A primary with the tables of `chains` and an outbox."""
    with primary_with(primary_cluster, "chains", PRIMARY) as database:
        yield database


@pytest.fixture
def chains(project: TestDatabase) -> TestDatabase:
    """A Supabase project with the model `chains`."""
    with project.migrating() as connection:
        upgrade(connection, "supabase", registry)
    return project


@pytest.fixture
def make_drain(primary: TestDatabase, chains: TestDatabase) -> Iterator[Callable[..., Drain]]:
    """Return a function that makes workers of `chains`; keyword arguments are settings."""
    urls = {"primary_database_url": primary.url, "supabase_db_url": chains.url}
    with making_drains(load_settings(**urls), registry) as make:
        yield make


def changed(primary: TestDatabase, statement: str, *events: tuple[str, str]) -> None:
    """Run a statement and record events for keys, in one transaction."""
    with primary.connect(autocommit=False) as connection:
        connection.execute(statement)
        for mapping, key in events:
            connection.execute(
                "insert into mirror.outbox (mapping, key) values (%s, array[%s])", [mapping, key]
            )
        connection.commit()


def rows(target: TestDatabase, query: str) -> list[tuple[object, ...]]:
    """Return the rows of a query, in order."""
    return [tuple(row) for row in target.query(query)]


def record_a_task(primary: TestDatabase) -> None:
    """Insert a task with its project and organisation; the only event names the task."""
    changed(
        primary,
        "insert into organisations values ('o'); insert into projects values ('p', 'o', 'ann');"
        " insert into tasks values ('t', 'p', 'plan')",
        ("tasks", "t"),
    )


def test_a_grandchild_brings_its_parent_and_grandparent(
    primary: TestDatabase, chains: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """The only event names the grandchild."""
    record_a_task(primary)
    assert make_drain().run().failed == 0
    assert rows(chains, "select * from tasks") == [("t", "p", "plan")]
    assert rows(chains, "select * from organisations") == [("o",)]


def test_a_grandparent_takes_and_brings_back_everything_below(
    primary: TestDatabase, chains: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """A retained row keeps its bare key and grants nothing while its parent is absent."""
    drain = make_drain()
    record_a_task(primary)
    drain.run()
    changed(primary, "update organisations set closed = true", ("organisations", "o"))
    drain.run()
    assert rows(chains, "select * from tasks") == []
    assert rows(chains, "select * from projects") == [("p", None, None)]
    assert rows(chains, "select * from organisations") == []

    # While the organisation is closed, one of its tasks changes and another is added.
    changed(
        primary,
        "update tasks set title = 'new'; insert into tasks values ('u', 'p', 'two')",
        ("tasks", "t"),
        ("tasks", "u"),
    )
    drain.run()
    assert rows(chains, "select * from tasks") == []

    changed(primary, "update organisations set closed = false", ("organisations", "o"))
    drain.run()
    assert rows(chains, "select * from projects") == [("p", "o", "ann")]
    assert rows(chains, "select * from tasks order by 1") == [
        ("t", "p", "new"),
        ("u", "p", "two"),
    ]


@pytest.mark.parametrize(
    "event", ["('projects', null, '{p}')", "('projects', 'organisation', '{o}')"]
)
def test_a_task_that_went_with_its_project_does_not_come_back_with_it(
    primary: TestDatabase, chains: TestDatabase, make_drain: Callable[..., Drain], event: str
) -> None:
    """The organisation and the project are deleted by cascade and inserted again in between."""
    drain = make_drain()
    record_a_task(primary)
    drain.run()
    primary.query("delete from tasks")
    primary.query(f"insert into mirror.outbox (mapping, reference, key) values {event}")
    drain.run()
    assert rows(chains, "select * from tasks") == []
    assert rows(chains, "select * from projects") == [("p", "o", "ann")]


def test_a_task_does_not_come_back_with_its_organisation(
    primary: TestDatabase, chains: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """The only event names the organisation, two generations above."""
    drain = make_drain()
    record_a_task(primary)
    drain.run()
    changed(primary, "delete from tasks", ("organisations", "o"))
    drain.run()
    assert rows(chains, "select * from tasks") == []


def test_a_task_that_went_by_cascade_does_not_stay_with_a_project_that_moved(
    primary: TestDatabase, chains: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """One transaction deletes the organisation and inserts its project under another one.

    No event names the task, which the cascade deleted. A second worker is faster with the project.
    """
    record_a_task(primary)
    make_drain().run()
    changed(
        primary,
        "delete from tasks; delete from projects; delete from organisations;"
        " insert into organisations values ('other');"
        " insert into projects values ('p', 'other', 'ann')",
        ("organisations", "o"),
    )
    primary.query(
        "insert into mirror.outbox (lane, mapping, key) values"
        " (1, 'organisations', '{other}'), (1, 'projects', '{p}')"
    )
    # Its claim has room for the revocation alone.
    slow = make_drain(batch_size=1)
    slow.target = Intercepted(slow.target, before=make_drain().run)
    slow.once()
    make_drain().run()
    assert rows(chains, "select * from projects") == [("p", "other", "ann")]
    assert rows(chains, "select * from tasks") == []


def test_pages_of_text_keys_are_ordered_by_bytes_on_both_sides(
    primary: TestDatabase, chains: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """A locale would sort accents, spaces and emoji otherwise; no page skips or repeats a key."""
    names = ["a", "B", "b", "ä", "Z", "z", " ", "a b", "a-b", "é", "😀", "ß", "%", "'", "\\", "中"]
    drain = make_drain(batch_size=3)
    with primary.connect() as connection:
        connection.execute("insert into organisations values ('o')")
        connection.execute("insert into projects values ('p', 'o', 'ann')")
        for name in names:
            connection.execute("insert into tasks values (%s, 'p', 'x')", [name])
        connection.execute(
            "insert into mirror.outbox (mapping, reference, key) values"
            " ('tasks', '*', '{}'), ('projects', 'organisation', '{o}')"
        )
    assert drain.run().failed == 0
    assert {row[0] for row in rows(chains, "select name from tasks")} == set(names)

    changed(primary, "delete from tasks where name <> 'z'")
    primary.query("insert into mirror.outbox (mapping, reference, key) values ('tasks', '*', '{}')")
    assert drain.run().failed == 0
    assert rows(chains, "select name from tasks") == [("z",)]
