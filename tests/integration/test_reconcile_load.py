"""First loads: ranges of rows that the target lacks, which two connections write."""

from collections.abc import Callable
from typing import Any

import pytest

from mappings.trips import registry
from mirror.errors import Unreachable
from mirror.reconcile.clauses import lowest_key
from mirror.reconcile.load import Loader
from mirror.reconcile.primary_reader import PrimaryReader
from mirror.reconcile.repair import Repairer
from mirror.sync.drain import Drain
from mirror.sync.targets.base import Target
from mirror.sync.targets.reading import KeyRange
from tests.support.databases import TestDatabase

ROWS = 9_500
FILL = """
insert into users (id, email, username)
select gen_random_uuid(), 'u' || n || '@example.com', 'u' || n from generate_series(1, {}) as n
"""
COUNT = "select count(*) from public.users"
# Each page of a load writes some of the rows that this refuses.
REFUSED = "username ~ '[05]00$'"


@pytest.fixture
def load(drain: Drain, primary: TestDatabase) -> Callable[[], tuple[int, list[int]]]:
    """Return a function that loads all users; it returns the failed rows, and the pages' rows."""
    primary.query(FILL.format(ROWS))

    def load() -> tuple[int, list[int]]:
        pages: list[int] = []
        loader = Loader(Repairer(drain, PrimaryReader(drain.registry, drain.source)))
        return loader.load(
            registry["users"], KeyRange(lowest_key(registry["users"])), pages.append
        ), pages

    return load


def test_two_connections_write_the_pages_of_a_load(
    load: Callable[[], tuple[int, list[int]]], target: TestDatabase
) -> None:
    """Every row is there once, and every page is reported."""
    target.query(
        "create table public.writers (pid int primary key);"
        "create function public.note_writer() returns trigger language plpgsql security definer"
        " as $$ begin insert into public.writers values (pg_backend_pid()) on conflict do nothing;"
        " return null; end $$;"
        "create trigger note after insert on public.users"
        " for each statement execute function public.note_writer()"
    )
    failed, pages = load()
    assert (failed, sum(pages), target.value(COUNT)) == (0, ROWS, ROWS)
    assert target.value("select count(*) from public.writers") == 2


@pytest.mark.long
def test_rows_that_the_target_refuses_fail_alone_whichever_connection_writes_them(
    load: Callable[[], tuple[int, list[int]]], target: TestDatabase
) -> None:
    """All other rows of their pages are there."""
    target.query(f"alter table public.users add constraint no check (not {REFUSED})")
    failed, _ = load()
    assert (failed, target.value(COUNT)) == (ROWS // 500, ROWS - ROWS // 500)


def test_a_second_connection_that_is_lost_leaves_its_page_to_the_first(
    load: Callable[[], tuple[int, list[int]]],
    drain: Drain,
    target: TestDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as that of a pooler with no further connection."""
    twins: list[Target] = []

    def refusing(*_: object, **__: object) -> Any:
        raise Unreachable("target: too many connections")

    def twin(made: Target) -> Target:
        monkeypatch.setattr(made, "apply", refusing)
        twins.append(made)
        return made

    original = drain.target.twin
    monkeypatch.setattr(drain.target, "twin", lambda: twin(original()))  # type: ignore[arg-type]
    failed, pages = load()
    assert (failed, sum(pages), target.value(COUNT), len(twins)) == (0, ROWS, ROWS, 1)


def test_an_error_ends_the_load_and_its_threads(
    load: Callable[[], tuple[int, list[int]]], primary: TestDatabase, drain: Drain
) -> None:
    """A table of the primary that is gone, for example; the connection is free again."""
    primary.query("alter table users rename to people")
    with pytest.raises(Exception, match="users"):
        load()
    primary.query("alter table people rename to users")
    assert load()[0] == 0
    assert drain.source.database.execute("select 1") == [(1,)]
