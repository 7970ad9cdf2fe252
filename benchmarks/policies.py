"""Policies: measures the time that row-level security adds to a client's queries.

The same query runs with and without row-level security in turn, so that a change of the machine's
speed affects both alike.
"""

import time
from dataclasses import replace
from uuid import UUID, uuid4

import psycopg

from benchmarks.measuring import Report
from benchmarks.servers import HOME, Servers, start_servers
from mappings import trips as model
from mirror.access import Guard
from mirror.model.registry import Registry
from mirror.schema.connecting import migrating
from mirror.schema.migrate import upgrade

SCHEMA = HOME / "examples" / "trip_chat" / "supabase.sql"

# A copy of the messages, guarded in the same way but for the bound.
_BOUNDED = "create table public.bounded_messages (like public.chat_messages including all)"
_REGISTRY = Registry(
    "trips",
    [model.users, model.trips, model.trip_memberships],
    access=model.registry.access,
    guards=[
        *(replace(g, stale="ignore") for g in model.registry.guards if isinstance(g, Guard)),
        replace(model.chat_messages, table="bounded_messages"),
    ],
    # Nothing reports during the run.
    max_staleness=86_400,
)

# A client is in 50 of 10,000 trips, another one in half of them; each trip has 20 other members,
# 100 messages and 200 reactions.
_POPULATE = """
insert into users select gen_random_uuid() from generate_series(1, 2000);
insert into users values ({user});
insert into trips select gen_random_uuid() from generate_series(1, {trips});
insert into trip_memberships
select t.id, u.id, 'MEMBER', 'ACTIVE'
from (select id, row_number() over () as n from trips) as t
join (select id, row_number() over () as n from users) as u on u.n % 100 = t.n % 100;
insert into trip_memberships
select id, {user}, 'MEMBER', 'ACTIVE' from trips limit 50 on conflict do nothing;
insert into users values ({busy});
insert into trip_memberships select id, {busy}, 'MEMBER', 'ACTIVE' from trips limit {trips} / 2;
insert into chat_messages (trip_id, sender_id, content)
select id, gen_random_uuid(), 'hello' from trips, generate_series(1, 100);
insert into chat_reactions
select m.id, gen_random_uuid(), '+' from chat_messages as m, generate_series(1, 2);
insert into bounded_messages select * from chat_messages;
insert into mirror.freshness select name, clock_timestamp() from mirror.mappings;
"""

_PAGE = "select * from public.chat_messages where trip_id = %s order by created_at desc limit 50"
# As in docs/sql.md, for users with thousands of resources.
_FUNCTION = """
create function public.trip_page(trip uuid) returns setof public.chat_messages
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return query select * from public.chat_messages
  where trip_id = trip and (select mirror.is_trip_member(trip))
  order by created_at desc limit 50;
end
$$;
"""
_FUNCTION_PAGE = "select * from public.trip_page(%s)"
_BOUNDED_PAGE = _PAGE.replace("chat_messages", "bounded_messages")
_REACTIONS = "select * from public.chat_reactions where message_id = any(%s)"
_TRIP = "select * from public.chat_messages where trip_id = %s"


def create_tables(servers: Servers, trips: int) -> tuple[UUID, UUID]:
    """Create guarded tables with many rows in the target; return ids of two members.

    The first is in 50 trips, the second in half of all.

    All mappings are reported as fresh.
    """
    servers.target.execute(SCHEMA.read_bytes())
    servers.target.execute(_BOUNDED)
    with migrating(servers.settings, "supabase") as connection:
        upgrade(connection, "supabase", _REGISTRY, guards=True)
    user, busy = uuid4(), uuid4()
    populate = _POPULATE.format(user=f"'{user}'", busy=f"'{busy}'", trips=trips)
    servers.target.execute(populate.encode())
    servers.target.execute(_FUNCTION)
    servers.target.execute("vacuum analyze")
    return user, busy


def queries(
    report: Report, url: str, users: tuple[UUID, UUID], rounds: int, times: int = 100
) -> None:
    """Measure each query as the tables' owner, for whom no policy applies, and as users."""
    user, busy = users
    with (
        psycopg.connect(url) as owner,
        psycopg.connect(url) as member,
        psycopg.connect(url) as busy_member,
    ):
        found = owner.execute(
            "select trip_id from trip_memberships where user_id = any(%s)"
            " group by trip_id having count(*) = 2 limit 1",
            [[user, busy]],
        ).fetchone()
        trip = found and found[0]
        page = [row[0] for row in owner.execute(_PAGE.encode(), [trip])]
        for client, id_ in ((member, user), (busy_member, busy)):
            claims = f'{{"sub": "{id_}"}}'
            client.execute("select set_config('request.jwt.claims', %s, false)", [claims])
            client.execute("set role authenticated")
        compared = [
            [(name, owner, query, values), (f"{name} + RLS", member, query, values)]
            for name, query, values in (
                ("a page of 50 messages", _PAGE, [trip]),
                ("the 100 reactions to them", _REACTIONS, [page]),
                ("all 100 messages of a trip", _TRIP, [trip]),
            )
        ]
        bound = ("a page of 50 messages + RLS with a bound", member, _BOUNDED_PAGE, [trip])
        compared[0] += [
            bound,
            ("a page of 50 messages + RLS, a member of 5,000", busy_member, _PAGE, [trip]),
            ("the page by a function, a member of 5,000", busy_member, _FUNCTION_PAGE, [trip]),
        ]
        # The call that each policy makes once for a statement, and a statement without any policy.
        compared += [
            [
                ("select 1", member, "select 1", []),
                ("the trips of a member of 50", member, "select mirror.my_trips('MEMBER')", []),
            ]
        ]
        for variants in compared:
            for round_ in range(rounds + 1):
                for variant, connection, query, values in variants:
                    started = time.perf_counter()
                    for _ in range(times):
                        rows = connection.execute(query.encode(), values).fetchall()
                    if round_:
                        # The first round fills the caches.
                        seconds = (time.perf_counter() - started) / times
                        report.add(variant, "ms", seconds * 1000)
                    if not rows:
                        raise AssertionError(variant)


def main(report: Report, *, quick: bool, target: int = 18) -> None:
    """Measure a client's queries with and without row-level security.

    `target` is the major version of the target's PostgreSQL.
    """
    with start_servers(target=target) as servers:
        users = create_tables(servers, 100 if quick else 10_000)
        queries(report, servers.stack.supabase_db_url, users, 2 if quick else 7)
    page = "a page of 50 messages"
    report.ratio(f"{page} + RLS, to without", f"{page} + RLS", page, at_most=1.5)
    busy = f"{page} + RLS, a member of 5,000"
    report.ratio(f"{busy}, to without", busy, page, at_most=4)
    function = "the page by a function, a member of 5,000"
    report.ratio(f"{function}, to without RLS", function, page, at_most=1.5)
    bounded = f"{page} + RLS with a bound"
    report.ratio(f"{bounded}, to RLS without", bounded, f"{page} + RLS", at_most=1.25)
    trip = "all 100 messages of a trip"
    report.ratio(f"{trip} + RLS, to without", f"{trip} + RLS", trip, at_most=1.5)
