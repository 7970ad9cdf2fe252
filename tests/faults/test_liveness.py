"""No value of one event or row keeps other events from being mirrored, or fails silently."""

from collections.abc import Iterator
from contextlib import closing

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from sqlalchemy import Text, column, select, table

from mirror.devstack import PostgresCluster
from mirror.diagnostics.figures import read_figures
from mirror.diagnostics.status import exit_code
from mirror.model.mapping import Column, Mapping, Parent, Reference
from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain
from tests.faults.tools import record
from tests.support.databases import TestDatabase

# Each column is wider than its declaration in the mapping: it can be NULL, and but for the ids, for
# which triggers insist on the real type, it holds values that the declared type refuses or rounds.
PRIMARY = """
create table groups (id bigint, name text, size text);
create table seats (group_id bigint, person text, rank numeric, since text, room text);
"""
_groups = table("groups", *(column(name, Text) for name in ("id", "name", "size")))
_seats = table(
    "seats", *(column(name, Text) for name in ("group_id", "person", "rank", "since", "room"))
)
registry = Registry(
    "wide",
    [
        Mapping(
            name="groups",
            table="groups",
            key=("id",),
            columns=(Column("id", "bigint"), Column("name", "text"), Column("size", "integer")),
            query=select(_groups),
        ),
        Mapping(
            name="seats",
            table="seats",
            key=("group_id", "person"),
            columns=(
                Column("group_id", "bigint"),
                Column("person", "text"),
                Column("rank", "smallint"),
                Column("since", "timestamptz"),
            ),
            query=select(_seats),
            references=(Reference("room", "text"),),
            parents=(Parent("groups", "group_id"),),
        ),
    ],
)

# PostgreSQL's texts have no NUL, and no half of a surrogate pair.
texts = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(
        [
            "red",
            "7",
            " 7",
            "+7",
            "-0",
            "7_0",
            "0x7",
            "7e0",
            "\u0667",
            "NaN",
            "null",
            "None",
            "9" * 50,
        ]
    ),
    st.sampled_from(["", "{}", '"', "*", "infinity", "x" * 3_000]),
)
numbers = st.sampled_from(
    ["7"] * 6 + ["1", "-1", "1.5", "40000", "1e10", "9223372036854775807", "1e19", "NaN", None]
)
ids = st.sampled_from(["7"] * 6 + ["1", "-1", "9223372036854775807", None])
# Many of them are valid; otherwise the invalid part of each would hide all others.
events = st.one_of(
    st.sampled_from(
        [
            ("groups", "*", []),
            ("groups", None, ["7"]),
            ("seats", "*", []),
            ("seats", "*", ["7", ""]),
            ("seats", "group_id", ["7"]),
            ("seats", "group_id", ["7", "7", "x"]),
            ("seats", "room", ["red"]),
            ("seats", "room", [""]),
        ]
    ),
    st.tuples(
        st.sampled_from(["groups"] * 4 + ["seats"] * 6 + ["", "unknown", '"']),
        st.sampled_from([None, None, "*", "group_id", "room", "unknown"]),
        st.lists(st.one_of(numbers, texts), max_size=4),
    ),
)
groups = st.tuples(ids, texts, st.sampled_from(["1", "2", "3", None, "x", "1e3"]))
seats = st.tuples(
    ids,
    st.one_of(texts, st.none()),
    st.sampled_from(["1", "2", "1.5", None, "40000", "NaN"]),
    st.sampled_from(["2026-01-01", "2026-01-01 00:00 BC", None, "infinity", "soon", ""]),
    st.one_of(texts, st.none()),
)


class Pair:
    """A primary whose triggers record each change, a target, and one worker."""

    def __init__(self, primary: TestDatabase, target: TestDatabase, drain: Drain) -> None:
        self.primary, self.target, self.drain = primary, target, drain

    def reset(self) -> None:
        """Make both sides hold one group with one seat, and nothing else."""
        self.primary.query("truncate groups, seats; insert into groups values (7, 'seven', '7')")
        self.primary.query("insert into seats values (7, 'ann', 1, '2026-01-01', 'red')")
        self.primary.query("truncate mirror.outbox, mirror.retries")
        self.target.query(
            "truncate groups, seats, mirror.ledger_groups, mirror.ledger_seats, mirror.scopes,"
            " mirror.withheld"
        )
        record(self.primary, "groups", 7, lane=1)
        assert self.drain.run().failed == 0
        assert self.seats() == 1

    def seats(self) -> int:
        """Return how many seats Ann has in the target."""
        return int(self.target.value("select count(*) from seats where person = 'ann'"))

    def status_exits_with(self) -> int:
        """Return the exit code of `mirror status`."""
        drain = self.drain
        return exit_code(read_figures(load_settings(), registry, drain.source, drain.target))

    def equal(self) -> bool:
        """Tell whether the target's rows are those of the primary that have a key and a parent."""
        asked = {
            "groups": "where id is not null",
            "seats": "where person is not null and group_id in (select id from groups)",
        }
        for name, condition in asked.items():
            values = ", ".join(f"{c.name}::{c.type}::text" for c in registry[name].columns)
            desired = self.primary.query(f"select {values} from {name} {condition}")
            if sorted(desired, key=str) != sorted(
                self.target.query(f"select {values} from {name}"), key=str
            ):
                return False
        return True


@pytest.fixture
def pair(primary_cluster: PostgresCluster, project: TestDatabase) -> Iterator[Pair]:
    """Both sides of the model, which all examples of a test share."""
    primary_cluster.create_database("wide")
    primary = TestDatabase(primary_cluster.url("wide"))
    primary.query(PRIMARY)
    with primary.migrating() as connection:
        upgrade(connection, "primary", registry, triggers=True)
    with project.migrating() as connection:
        upgrade(connection, "supabase", registry)
    urls = {"primary_database_url": primary.url, "supabase_db_url": project.url}
    with closing(build_drain(load_settings(**urls), registry)) as drain:
        yield Pair(primary, project, drain)
    primary_cluster.drop_database("wide")


Event = tuple[str, str | None, list[str | None]]
Values = tuple[str | None, ...]


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@given(lane=st.sampled_from([0, 1]), event=events, row=st.one_of(groups, seats, seats))
@example(lane=0, event=("groups", "*", []), row=(None, "no key", "1"))
@example(lane=1, event=("seats", "group_id", ["7"]), row=("7", None, "1", None, "red"))
@example(lane=0, event=("groups", None, ["7"]), row=("7", "bob", "40000", None, "red"))
@example(lane=1, event=("seats", "*", []), row=("7", "bob", "NaN", None, "red"))
def test_no_event_and_no_row_delays_a_revocation_or_fails_silently(
    pair: Pair, lane: int, event: Event, row: Values
) -> None:
    """One run of a worker makes the revocation; status reports what it could not mirror."""
    pair.reset()
    with pair.primary.connect() as connection:
        connection.execute(
            "insert into mirror.outbox (lane, mapping, reference, key) values (%s, %s, %s, %s)",
            [lane, *event],
        )
        if len(row) == len(registry["groups"].columns):
            connection.execute("insert into groups values (%s, %s, %s)", row)
        else:
            connection.execute("insert into seats values (%s, %s, %s, %s, %s)", row)
        connection.execute("delete from seats where person = 'ann'")
    pair.drain.run()
    assert pair.seats() == 0
    assert pair.primary.value("select count(*) from mirror.outbox") == 0
    # Instead of a minute's wait.
    pair.primary.query("update mirror.retries set recorded_at = now() - interval '2 minutes'")
    stuck = pair.primary.value("select count(*) from mirror.retries")
    assert pair.status_exits_with() == (1 if stuck else 0)
    assert stuck or pair.equal()
