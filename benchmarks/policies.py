"""What the printed policies add to a client's queries.

The same query runs with and without row-level security in turn, so that what the machine does
meanwhile hits both alike.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import psycopg

from benchmarks.capture import Figures, table
from mappings.trips import registry
from mirror.assembly import migrating
from mirror.config import load_settings
from mirror.devstack import PostgresCluster, prepare_cluster, prepare_database
from mirror.migrations import upgrade

SCHEMA = Path(__file__).parent.parent / "examples" / "trip_chat" / "supabase.sql"

# The caller is in 50 of 1,000 trips; each has 20 members, 200 messages and 400 reactions.
_POPULATE = """
insert into users select gen_random_uuid() from generate_series(1, 2000);
insert into users values ({user});
insert into trips select gen_random_uuid() from generate_series(1, 1000);
insert into trip_memberships
select t.id, u.id, 'MEMBER', 'ACTIVE'
from (select id, row_number() over () as n from trips) as t
join (select id, row_number() over () as n from users) as u on u.n % 100 = t.n % 100;
insert into trip_memberships
select id, {user}, 'MEMBER', 'ACTIVE' from trips limit 50 on conflict do nothing;
insert into chat_messages (trip_id, sender_id, content)
select id, gen_random_uuid(), 'hello' from trips, generate_series(1, 200);
insert into chat_reactions
select m.id, gen_random_uuid(), '+' from chat_messages as m, generate_series(1, 2);
analyze;
"""

_PAGE = "select * from public.chat_messages where trip_id = %s order by created_at desc limit 50"
_REACTIONS = "select * from public.chat_reactions where message_id = any(%s)"
_TRIP = "select * from public.chat_messages where trip_id = %s"


@contextmanager
def target() -> Iterator[tuple[str, UUID]]:
    """Yield the URL of a guarded target with many rows, and a member's id."""
    with (
        tempfile.TemporaryDirectory() as directory,
        PostgresCluster.start(
            Path(directory) / "data", version=18, superuser="supabase_admin", durable=False
        ) as cluster,
    ):
        prepare_cluster(cluster)
        cluster.create_database("bench", owner="postgres")
        prepare_database(cluster, "bench")
        url = cluster.url("bench", user="postgres")
        settings = load_settings(supabase_db_url=url)
        with migrating(settings, "supabase") as connection:
            upgrade(connection, "supabase", registry)
        with psycopg.connect(url) as chat:
            chat.execute(SCHEMA.read_bytes())
        with migrating(settings, "supabase") as connection:
            upgrade(connection, "supabase", registry, guards=True)
        user = uuid4()
        with psycopg.connect(url) as connected:
            connected.execute(_POPULATE.format(user=f"'{user}'").encode())
        yield url, user


def queries(url: str, user: UUID, rounds: int, times: int = 100) -> Iterator[Figures]:
    """Yield, query by query, what it takes as the owner, whom RLS does not concern, and as a user.

    Seconds for each time.
    """
    with psycopg.connect(url) as owner, psycopg.connect(url) as member:
        found = owner.execute(
            "select trip_id from trip_memberships where user_id = %s limit 1", [user]
        ).fetchone()
        trip = found and found[0]
        page = [row[0] for row in owner.execute(_PAGE.encode(), [trip])]
        member.execute(
            "select set_config('request.jwt.claims', %s, false)", [f'{{"sub": "{user}"}}']
        )
        member.execute("set role authenticated")
        for name, query, values in (
            ("a page of 50 messages", _PAGE, [trip]),
            ("the 100 reactions to them", _REACTIONS, [page]),
            ("all 200 messages of a trip", _TRIP, [trip]),
        ):
            figures: Figures = {name: [], f"{name} + RLS": []}
            for round_ in range(rounds + 1):
                for variant, connection in zip(figures, (owner, member), strict=True):
                    started = time.perf_counter()
                    for _ in range(times):
                        rows = connection.execute(query.encode(), values).fetchall()
                    if round_:
                        # The first warms up.
                        figures[variant].append((time.perf_counter() - started) / times)
                    if not rows:
                        raise AssertionError(variant)
            yield figures


def main(rounds: int) -> None:
    """Measure and print."""
    with target() as (url, user):
        for figures in queries(url, user, rounds):
            print(table(figures))
