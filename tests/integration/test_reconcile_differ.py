"""The differ finds the symmetric difference, and nothing else, for keys of any type."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from typing import Any

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from sqlalchemy import BigInteger, Text, column, select, table

from mirror.devstack import PostgresCluster
from mirror.errors import TooSlow
from mirror.model.keys import Key
from mirror.model.mapping import Column, Mapping, Reference
from mirror.model.registry import Registry
from mirror.reconcile import Options, Throttle, reconcile, survey
from mirror.reconcile.clauses import key_order
from mirror.reconcile.compare import Comparison, MissingRange
from mirror.reconcile.primary_reader import PrimaryReader, Unreadable
from mirror.reconcile.spool import Spool
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from mirror.sync.drain import Drain
from mirror.sync.targets.reading import Digest, Hashing, KeyRange, Listing
from mirror.sync.wiring import build_drain
from tests.support.databases import TestDatabase

_things = table(
    "things",
    column("place", Text),
    column("number", BigInteger),
    column("value", Text),
    column("shelf", BigInteger),
)
THINGS = Mapping(
    name="things",
    table="things",
    key=("place", "number"),
    columns=(Column("place", "text"), Column("number", "bigint"), Column("value", "text")),
    query=select(_things.c.place, _things.c.number, _things.c.value, _things.c.shelf),
    references=(Reference("shelf", "bigint"),),
)
HASHING = Hashing(7)

Rows = dict[int, int]
"""By number: a value, which is its own hash."""


class Side:
    """One side of a comparison; its keys are numbers."""

    def __init__(self, rows: Rows, strays: set[int]) -> None:
        self.rows = rows
        self.strays = strays

    def inside(self, within: KeyRange) -> list[int]:
        """Return the numbers in a range, in order."""
        low = int(within.start[0])
        return [
            n
            for n in sorted({*self.rows, *self.strays})
            if n >= low and (within.end is None or n < int(within.end[0]))
        ]

    def one(self, within: KeyRange, numbers: Sequence[int]) -> Digest:
        """Return the digest of one range."""
        there = [n for n in numbers if n in self.rows]
        return Digest(
            within,
            len(there),
            sum(self.rows[n] for n in there),
            sum(n in self.strays for n in numbers),
        )


class Ours(Side):
    """Stands in for the primary."""

    def estimate(self, _mapping: object) -> int:
        """Return an estimate too small for a survey."""
        return len(self.rows)

    def chunk(self, _mapping: object, _hashing: object, start: Key, rows: int) -> Digest:
        """Return the digest of the first rows from a key on."""
        numbers = self.inside(KeyRange(start))
        end = (str(numbers[rows]),) if len(numbers) > rows else None
        return self.one(KeyRange(start, end), numbers[:rows])

    def digest(self, _mapping: object, _hashing: object, within: KeyRange) -> Digest:
        """Return a range's digest."""
        return self.one(within, self.inside(within))

    def split(
        self, _mapping: object, _hashing: object, within: KeyRange, size: int
    ) -> list[Digest]:
        """Return the digests of the pieces of a range."""
        numbers = self.inside(within)
        starts = [within.start, *((str(n),) for n in numbers[size::size])]
        ranges = [
            KeyRange(start, end)
            for start, end in zip(starts, [*starts[1:], within.end], strict=True)
        ]
        return [self.digest(_mapping, _hashing, each) for each in ranges]

    def listing(
        self, _mapping: object, _hashing: object, ranges: Sequence[KeyRange]
    ) -> dict[Key, int]:
        """Return the hashes of the rows in ranges, by key."""
        return {(str(n),): self.rows[n] for each in ranges for n in self.inside(each)}


class Theirs(Side):
    """Stands in for the target, which reads at most `limit` rows for an answer."""

    def cut(self, within: KeyRange, limit: int) -> tuple[KeyRange, list[int]]:
        """Return the part of a range that may be read, and its numbers."""
        numbers = self.inside(within)
        if len(numbers) > limit:
            return KeyRange(within.start, (str(numbers[limit]),)), numbers[:limit]
        return within, numbers

    def digest(
        self, _mapping: object, _hashing: object, ranges: Sequence[KeyRange], *, limit: int
    ) -> list[Digest]:
        """Return the digests of ranges."""
        return [self.one(*self.cut(each, limit)) for each in ranges]

    def listing(
        self, _mapping: object, _hashing: object, ranges: Sequence[KeyRange], *, limit: int
    ) -> list[Listing]:
        """Return the rows of ranges."""
        found = []
        for each in ranges:
            within, numbers = self.cut(each, limit)
            hashes: dict[Key, int | None] = {
                (str(n),): None if n in self.strays else self.rows[n] for n in numbers
            }
            found.append(Listing(within, hashes))
        return found


def found_by(comparison: Comparison, ours: Any) -> set[Key]:
    """Return every key that a comparison suspects."""
    suspects: set[Key] = set()
    for found in comparison.suspects():
        if isinstance(found, MissingRange):
            inside = set(ours.listing(comparison.mapping, HASHING, [found.range]))
            assert len(inside) == found.rows
            found = inside  # noqa: PLW2901 - the keys of the range
        assert not suspects & found, "told twice"
        suspects |= found
    return suspects


numbers = st.dictionaries(st.integers(-60, 60), st.integers(0, 3), max_size=60)
NUMBERS = Mapping(
    name="numbers",
    table="numbers",
    key=("number",),
    columns=(Column("number", "bigint"), Column("value", "bigint")),
    query=select(_things.c.number, _things.c.value),
)


def spread(*values: int) -> int:
    """Return a hash whose sums do not collide, unlike those of Python's own hash of tuples."""
    return int.from_bytes(blake2b(repr(values).encode(), digest_size=8).digest())


@settings(max_examples=400, deadline=None)
@given(
    ours=numbers,
    theirs=numbers,
    equal=st.booleans(),
    strays=st.sets(st.integers(-70, 70), max_size=5),
    sizes=st.tuples(st.integers(1, 30), st.integers(1, 8), st.integers(2, 20)),
)
def test_the_difference_of_any_two_sets_of_rows_is_found(
    *, ours: Rows, theirs: Rows, equal: bool, strays: set[int], sizes: tuple[int, int, int]
) -> None:
    """Chunks and pieces have any sizes, and rows may lie beyond the other side's ends.

    Sums of small hashes could hide a difference, so each value is spread.
    """
    if equal:
        theirs = ours | theirs
    ours, theirs = ({n: spread(n, v) for n, v in rows.items()} for rows in (ours, theirs))
    chunk, leaf, bulk = sizes
    primary: Any = Ours(ours, set())
    target: Any = Theirs(theirs, strays)
    comparison = Comparison(
        primary, target, NUMBERS, HASHING, chunk_rows=chunk, leaf_rows=leaf, bulk_rows=bulk
    )
    expected = {n for n in {*ours, *theirs} if ours.get(n) != theirs.get(n)} | strays
    assert found_by(comparison, primary) == {(str(n),) for n in expected}


@pytest.fixture(scope="module")
def things(
    primary_cluster: PostgresCluster, target_cluster: PostgresCluster, project_template: str
) -> Iterator[tuple[TestDatabase, TestDatabase, Drain]]:
    """A table of things on both sides, and the drain between them; some types differ."""
    registry = Registry("things", [THINGS])
    primary_cluster.create_database("differ_primary")
    target_cluster.create_database("differ_target", template=project_template, owner="postgres")
    primary = TestDatabase(primary_cluster.url("differ_primary"))
    target = TestDatabase(target_cluster.url("differ_target", user="postgres"))
    primary.query(
        "create table things (place text, number int, value varchar,"
        " shelf int generated always as (number % 2) stored, primary key (place, number))"
    )
    for database, side in ((primary, "primary"), (target, "supabase")):
        with database.migrating() as connection:
            upgrade(connection, side, registry)  # type: ignore[arg-type]
    drain = build_drain(
        load_settings(primary_database_url=primary.url, supabase_db_url=target.url), registry
    )
    yield primary, target, drain
    drain.close()
    primary_cluster.drop_database("differ_primary")
    target_cluster.drop_database("differ_target")


def test_text_keys_are_ordered_by_their_bytes_on_the_primary_too() -> None:
    """Otherwise, with another collation than the target's "C", the ranges would not match."""
    assert 'q."place" collate "C", q."number"' in key_order(THINGS).as_string()


ThingKey = tuple[str, int]
Things = dict[ThingKey, str | None]

generated_things = st.dictionaries(
    st.tuples(
        st.sampled_from(["", "a", "B", "b", "ä", "Z", "zz", "é", "€,'", '"{', "\\", "a b"]),
        st.integers(-3, 3),
    ),
    st.one_of(st.none(), st.sampled_from(["", "x", "X", "ß", "null", '{"a": 1}', "'%s'"])),
    max_size=30,
)


def set_ledger(target: TestDatabase, *, forgotten: int, moved: int, gone: int) -> None:
    """Insert a ledger row for each of the first `30 - forgotten` things.

    The ledger calls the first `gone` things deleted, and has another shelf for `moved` things
    from the fourth on.
    """
    target.query(
        "insert into mirror.ledger_things"
        " (place, number, ref_shelf, epoch, fence, present, applied_at)"
        " select place, number, number %% 2 + case when n between 4 and 3 + %s then 5 else 0 end,"
        " 0, 0, n > %s, now()"
        " from (select *, row_number() over (order by place, number desc) as n from things) as t"
        " where n <= 30 - %s",
        moved,
        gone,
        forgotten,
    )


def expected_difference(
    target: TestDatabase, ours: Things, theirs: Things
) -> tuple[set[ThingKey], set[ThingKey]]:
    """Return the keys that differ by value or ledger, and the keys of withdrawn rows.

    A withdrawn row has no value and a ledger row that calls it deleted: only its key is left,
    because another table needs it, so the target counts it as absent.
    """
    known = {
        (place, number): (present, right)
        for place, number, present, right in target.query(
            "select place, number, present, ref_shelf = number % 2 from mirror.ledger_things"
        )
    }
    withdrawn = {
        key for key, value in theirs.items() if value is None and key in known and not known[key][0]
    }
    strays = {key for key in theirs if known.get(key) != (True, True)} - withdrawn
    visible = {key: value for key, value in theirs.items() if key not in withdrawn}
    expected = {
        key
        for key in {*ours, *visible}
        if key not in ours or key not in visible or ours[key] != visible[key]
    } | strays
    return expected, withdrawn


def comparisons(drain: Drain, source: PrimaryReader, *, md5: bool) -> Iterator[Comparison]:
    """Yield comparisons by small chunks, one chunk, and surveys that list many or few keys."""
    for chunk_rows, survey_from, listed in (
        (3, 10**9, 0),
        (1000, 10**9, 0),
        (1000, 0, 1000),
        (1000, 0, 4),
    ):
        yield Comparison(
            source,
            drain.target,
            drain.registry["things"],
            Hashing(7, md5=md5),
            chunk_rows=chunk_rows,
            leaf_rows=2,
            bulk_rows=5,
            survey_rows=survey_from,
            bits=(3, 4, 6),
            listed_keys=listed,
        )


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate],
)
@given(
    ours=generated_things,
    theirs=generated_things,
    forgotten=st.integers(0, 3),
    moved=st.integers(0, 3),
    gone=st.integers(0, 3),
    md5=st.booleans(),
)
@example(ours={("", -3): None}, theirs={("", -3): ""}, forgotten=0, moved=0, gone=0, md5=True)
@example(ours={("", 3): None}, theirs={("", 3): None}, forgotten=0, moved=0, gone=1, md5=False)
@example(ours={}, theirs={("", 3): None}, forgotten=0, moved=0, gone=1, md5=False)
def test_on_two_servers_the_difference_is_found_and_gone_after_its_repair(
    things: tuple[TestDatabase, TestDatabase, Drain],
    *,
    ours: Things,
    theirs: Things,
    forgotten: int,
    moved: int,
    gone: int,
    md5: bool,
) -> None:
    """Keys have a text and a number, values are null or have quotes, and both hashes are used.

    The ledger lacks some rows, has another shelf for some, and calls some deleted.
    """
    primary, target, drain = things
    primary.query("truncate things")
    target.query("truncate things, mirror.ledger_things")
    fill(primary, ours)
    fill(target, theirs)
    set_ledger(target, forgotten=forgotten, moved=moved, gone=gone)
    expected, withdrawn = expected_difference(target, ours, theirs)
    source = PrimaryReader(drain.registry, drain.source)
    for comparison in comparisons(drain, source, md5=md5):
        found = found_by(comparison, source)
        assert {(place, int(number)) for place, number in found} == expected

    throttle = Throttle(drain.queue.beside, backlog=10**9, latency_seconds=60)
    options = Options(grace_seconds=0, confirm=frozenset({"things"}))
    report = reconcile(drain, options, throttle)
    assert report.mappings[0].drifted == len(expected)
    rows = {(place, number): value for place, number, value in target.query("select * from things")}
    assert rows == ours | dict.fromkeys(withdrawn - ours.keys())
    assert reconcile(drain, options, throttle).outcome == "in line"


def fill(database: TestDatabase, rows: Things) -> None:
    """Insert rows into the table of things."""
    if rows:
        columns = zip(
            *((place, number, value) for (place, number), value in rows.items()), strict=True
        )
        database.query(
            "insert into things (place, number, value)"
            " select * from unnest(%s::text[], %s::bigint[], %s::text[])",
            *map(list, columns),
        )


@pytest.fixture
def drifted(things: tuple[TestDatabase, TestDatabase, Drain]) -> set[Key]:
    """5,000 things, in different order on the two sides, and the keys that differ."""
    primary, target, _ = things
    primary.query("truncate things")
    target.query("truncate things, mirror.ledger_things")
    rows = "select 'a', n, 'x' from generate_series(1, 5000) as n order by md5(n::text || %s)"
    primary.query(f"insert into things (place, number, value) {rows}", "p")
    target.query(f"insert into things (place, number, value) {rows}", "t")
    target.query(
        "insert into mirror.ledger_things"
        " (place, number, ref_shelf, epoch, fence, present, applied_at)"
        " select place, number, number % 2, 0, 0, true, now() from things"
        " order by md5(number || 'l')"
    )
    target.query("update things set value = 'y' where number in (7, 1700)")
    target.query("delete from things where number in (8, 4900)")
    target.query("delete from mirror.ledger_things where number = 2500")
    primary.query("delete from things where number = 3000")
    for database in (primary, target):
        database.query("analyze things")
    return {("a", str(number)) for number in (7, 1700, 8, 4900, 2500, 3000)}


def compared(drain: Drain) -> Comparison:
    """Return a comparison of things that begins with a survey."""
    return Comparison(
        PrimaryReader(drain.registry, drain.source),
        drain.target,
        drain.registry["things"],
        HASHING,
        bulk_rows=100,
        survey_rows=1,
        bits=(4, 8),
        listed_keys=200,
    )


def surveyed(drain: Drain, tick: Callable[[float], object]) -> Spool[Key] | None:
    """Return the keys that a survey of things suspects."""
    primary = PrimaryReader(drain.registry, drain.source)
    things = drain.registry["things"]
    return survey.Survey(
        primary, drain.target, things, HASHING, bits=(4, 8), listed_keys=200, tick=tick
    ).suspects(5000)


@pytest.mark.parametrize("call_rows", [10_000, 700])
def test_a_survey_finds_the_difference_in_any_number_of_calls(
    things: tuple[TestDatabase, TestDatabase, Drain],
    drifted: set[Key],
    call_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row and its ledger row may be read by different calls; the survey needs no chunks."""
    _, _, drain = things
    monkeypatch.setattr(survey, "CALL_ROWS", call_rows)
    monkeypatch.setattr(Comparison, "_compare_chunks", None)
    comparison = compared(drain)
    assert found_by(comparison, comparison.primary) == drifted
    assert (comparison.rows, comparison.target_rows) == (4999, 4998)


@pytest.mark.parametrize("fails", ["their buckets", "their second", "their members", "ours"])
def test_a_survey_that_takes_too_long_is_replaced_by_chunks(
    things: tuple[TestDatabase, TestDatabase, Drain],
    drifted: set[Key],
    fails: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is reported twice."""
    _, _, drain = things
    calls = 0

    def slow(original: Any, after: int = 0) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > after:
                raise TooSlow("too slow")
            return original(*arguments)

        return call

    if fails == "ours":
        monkeypatch.setattr("mirror.reconcile.survey.read_buckets", slow(None))
    elif fails == "their members":
        monkeypatch.setattr(drain.target, "members", slow(drain.target.members, 1))
    else:
        after = 1 if fails == "their second" else 0
        monkeypatch.setattr(drain.target, "buckets", slow(drain.target.buckets, after))
    comparison = compared(drain)
    assert found_by(comparison, comparison.primary) == drifted
    assert calls > 0
    assert (comparison.rows, comparison.target_rows) == (4999, 4998)


@pytest.fixture
def locked(
    things: tuple[TestDatabase, TestDatabase, Drain], monkeypatch: pytest.MonkeyPatch
) -> Iterator[psycopg.Connection[Any]]:
    """A transaction that blocks the primary's part of a survey."""
    monkeypatch.setattr(survey, "_TICK_SECONDS", 0.05)
    with things[0].connect() as connection:
        connection.execute("begin")
        connection.execute("lock table things in access exclusive mode")
        yield connection
        connection.rollback()


def waiting(primary: TestDatabase) -> float:
    """Return the seconds of the longest wait for a lock; 0 if no session waits."""
    return float(
        primary.value(
            "select coalesce(max(extract(epoch from now() - query_start)), 0)"
            " from pg_stat_activity where wait_event_type = 'Lock'"
            " and datname = current_database()"
        )
    )


def test_the_primary_may_take_longer_for_a_survey_than_for_a_statement(
    things: tuple[TestDatabase, TestDatabase, Drain],
    drifted: set[Key],
    locked: psycopg.Connection[Any],
) -> None:
    """It reads all rows of the primary at once, and these may be many."""
    primary, _, drain = things
    drain.source.database.statement_seconds = 0.3

    def tick(_: float) -> None:
        if waiting(primary) > 0.6:
            locked.rollback()

    found = surveyed(drain, tick)
    assert found is not None
    with closing(found):
        assert {key for some in found.batches(100) for key in some} == drifted


def test_a_survey_that_is_interrupted_leaves_no_statement_behind(
    things: tuple[TestDatabase, TestDatabase, Drain],
    drifted: set[Key],
    locked: psycopg.Connection[Any],
) -> None:
    """A user who presses Ctrl-C does not wait for the primary."""
    primary, _, drain = things
    drain.source.database.statement_seconds = 60

    def tick(_: float) -> None:
        if waiting(primary):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surveyed(drain, tick)
    assert waiting(primary) == 0


@pytest.mark.parametrize("left", [1000, 4500])
def test_where_many_rows_are_missing_together_they_are_loaded_not_listed(
    things: tuple[TestDatabase, TestDatabase, Drain], drifted: set[Key], left: int
) -> None:
    """This holds even if the target has most of the rows."""
    _, target, drain = things
    for name in ("things", "mirror.ledger_things"):
        target.query(f"delete from {name} where number > {left}")
    comparison = compared(drain)
    found = list(comparison.suspects())
    loaded = sum(part.rows for part in found if isinstance(part, MissingRange))
    assert loaded > (5000 - left) * 0.75
    assert found_by(comparison, comparison.primary) > drifted - {("a", "3000")}


def test_an_empty_target_is_loaded_without_a_comparison(
    things: tuple[TestDatabase, TestDatabase, Drain],
    drifted: set[Key],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the ledger still knows the rows, the target does not count as empty."""
    _, target, drain = things
    target.query("truncate things")
    comparison = compared(drain)
    assert {
        key for part in comparison.suspects() if isinstance(part, set) for key in part
    } > drifted
    target.query("truncate mirror.ledger_things")
    monkeypatch.setattr(Comparison, "_compare_chunks", None)
    (found,) = compared(drain).suspects()
    assert found == MissingRange(KeyRange(("", str(-(2**63)))), 4999)


@pytest.fixture
def loose_keys(things: tuple[TestDatabase, TestDatabase, Drain]) -> Iterator[None]:
    """Let the primary have two rows with one key during the test."""
    primary, _, _ = things
    primary.query("alter table things drop constraint things_pkey")
    yield
    primary.query("truncate things")
    primary.query("alter table things add primary key (place, number)")


@pytest.mark.usefixtures("loose_keys")
@pytest.mark.parametrize("number", [8, 100], ids=["missing", "mirrored"])
def test_a_survey_refuses_a_query_that_yields_a_key_twice(
    things: tuple[TestDatabase, TestDatabase, Drain], drifted: set[Key], number: int
) -> None:
    """Two equal hashes cancel out, so the survey must notice it, with or without a target row."""
    primary, _, drain = things
    primary.query("insert into things (place, number, value) values ('a', %s, 'x')", number)
    with pytest.raises(Unreadable, match="two rows for one key"):
        found_by(compared(drain), drifted)
