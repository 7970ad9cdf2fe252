"""Guards in a database: errors, created policies, and their removal with the declaration."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from mappings import trips
from mirror.access import Allow, Others, Own
from mirror.devstack import PostgresCluster
from mirror.errors import NotMigrated
from mirror.schema import guards_sql
from mirror.schema.migrate import due, upgrade
from tests.support.databases import TestDatabase
from tests.support.guarded_model import SCHEMA, attachments, files, messages, model, notes, registry

POLICIES = """
    select c.oid::regclass::text, p.polname, p.polcmd, pg_get_expr(p.polqual, c.oid),
      pg_get_expr(p.polwithcheck, c.oid)
    from pg_policy as p join pg_class as c on c.oid = p.polrelid
    where p.polname like 'mirror\\_%' order by 1, 2
"""


@pytest.fixture
def guarded(project: TestDatabase) -> TestDatabase:
    """A project with the tables of the rooms model, without guards."""
    project.query(SCHEMA)
    with project.migrating() as connection:
        upgrade(connection, "supabase", registry)
    return project


def guard(database: TestDatabase, *guards: Any) -> None:
    """Migrate to a model with these guards."""
    with database.migrating() as connection:
        upgrade(connection, "supabase", model(*guards), guards=True)


def tables(database: TestDatabase) -> set[str]:
    """Return the tables that have policies of guards."""
    return {row[0] for row in database.query(POLICIES)}


NAME = 'guarded table public."Messages"'
AWAY = 'alter table "Messages" rename to moved'
COLUMN = 'alter table "Messages" rename "{}" to moved'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([AWAY], f"{NAME} does not exist. Create it"),
        ([AWAY, 'create view "Messages" as select 1 as id'], f"{NAME} is no table"),
        ([COLUMN.format("expiresAt")], f'{NAME} has no column "expiresAt"'),
        (
            [
                COLUMN.format("roomId"),
                'alter table "Messages" add "roomId" text',
            ],
            f'{NAME} has a column "roomId" of type text, not uuid',
        ),
        (
            [
                COLUMN.format("expiresAt"),
                'alter table "Messages" add "expiresAt" timestamp',
            ],
            f'{NAME} has a column "expiresAt" of type timestamp without time zone, not timestamptz',
        ),
        (
            ['alter table "Messages" drop constraint "Messages_pkey" cascade'],
            f"{NAME} has no unique index on id alone",
        ),
        (
            ['create policy mine on "Messages" using (true)'],
            f"{NAME} has a policy mine of its own. Say in the guard",
        ),
        (
            ['create policy "Mine" on "Messages" for select to anon using (true)'],
            f'{NAME} has a policy "Mine" of its own',
        ),
    ],
)
def test_a_table_that_cannot_be_guarded_is_named_and_nothing_changes(
    guarded: TestDatabase, changes: list[str], message: str
) -> None:
    """Its other guards stay unchanged."""
    guard(guarded, messages)
    for change in changes:
        guarded.query(change)
    before = guarded.query(POLICIES)
    with pytest.raises(NotMigrated) as refused:
        guard(guarded, messages, attachments)
    assert message in str(refused.value)
    assert guarded.query(POLICIES) == before


def test_a_partition_that_is_open_by_itself_is_named(guarded: TestDatabase) -> None:
    """Once its policy is closed, rows are read only through its table."""
    guarded.query('alter table "Messages" rename to part')
    guarded.query('create table "Messages" (like part including all) partition by list (id)')
    guarded.query('alter table "Messages" attach partition part default')
    with pytest.raises(NotMigrated, match=r"has a partition public\.part without row-level"):
        guard(guarded, messages)
    guarded.query("alter table part enable row level security")
    guard(guarded, messages)
    assert tables(guarded) == {'"Messages"'}


@pytest.mark.parametrize(
    "statement",
    [
        "",
        "alter table old enable row level security; create policy all_of_it on old using (true)",
    ],
)
def test_a_child_that_is_open_by_itself_is_named(guarded: TestDatabase, statement: str) -> None:
    """A child of a child, too; a policy of its own would decide for clients who ask for it."""
    guarded.query('create table older () inherits ("Messages")')
    guarded.query("create table old () inherits (older)")
    guarded.query(f"alter table older enable row level security; {statement}")
    with pytest.raises(NotMigrated, match=r"has a partition public\.old without row-level"):
        guard(guarded, messages)


@pytest.mark.parametrize("relation", ["partitioned", "partition", "parent"])
def test_rules_by_column_need_a_table_in_one_piece(guarded: TestDatabase, relation: str) -> None:
    """Their trigger does not see an update that moves a row, nor one of a row of a child."""
    update = (Allow("ADMIN", columns=("content",)), Allow("OWNER", columns=("roomId",)))
    if relation == "parent":
        guarded.query('create table old () inherits ("Messages")')
        guarded.query("alter table old enable row level security")
    else:
        guarded.query('alter table "Messages" rename to part')
        guarded.query('create table "Messages" (like part including all) partition by list (id)')
        guarded.query('alter table "Messages" attach partition part default')
        guarded.query("alter table part enable row level security")
        if relation == "partition":
            guarded.query('alter table "Messages" rename to root')
            guarded.query('alter table part rename to "Messages"')
    guard(guarded, replace(messages, update=update[0]))
    with pytest.raises(NotMigrated, match="has partitions or children, or is one"):
        guard(guarded, replace(messages, update=update))


def test_a_table_of_another_owner_is_named(
    target_cluster: PostgresCluster, guarded: TestDatabase
) -> None:
    """The migrating role could not create its policies."""
    superuser = TestDatabase(target_cluster.url(guarded.url.rsplit("/", 1)[-1]))
    superuser.query('alter table "Messages" owner to supabase_auth_admin')
    with pytest.raises(NotMigrated, match="belongs to supabase_auth_admin, not to postgres"):
        guard(guarded, messages)


def test_restrictive_policies_and_those_of_other_roles_may_stay(guarded: TestDatabase) -> None:
    """They allow no user whom the guard refuses."""
    guarded.query('create policy less on "Messages" as restrictive using (true)')
    guarded.query('create policy backend on "Messages" to service_role using (true)')
    guard(guarded, messages)
    assert tables(guarded) == {'"Messages"'}


def test_a_guard_that_is_removed_takes_its_policies_along_and_nothing_else(
    guarded: TestDatabase,
) -> None:
    """This also holds for a renamed table; the table stays, and row-level security stays on."""
    guard(guarded, messages, attachments, notes, files)
    assert tables(guarded) == {'"Messages"', '"Attachments"', "parent1"}
    guarded.query('alter table "Attachments" rename to papers')
    guarded.query("create policy mirror_other_read on papers for select to anon using (false)")
    guard(guarded, messages)
    assert {(table, name) for table, name, *_ in guarded.query(POLICIES)} == {
        ("papers", "mirror_other_read"),
        *(('"Messages"', f"mirror_rooms_{v}") for v in ("read", "insert", "update", "delete")),
    }
    assert guarded.value("select relrowsecurity from pg_class where relname = 'papers'")

    with guarded.migrating() as connection:
        upgrade(connection, "supabase", model())
    assert tables(guarded) == {"papers"}


def test_column_rules_are_removed_with_their_declaration(guarded: TestDatabase) -> None:
    """With a plain Allow again, a user who may update the row may update every column."""
    triggers = (
        "select tgrelid::regclass::text from pg_trigger where tgname = 'mirror_rooms_columns'"
    )
    by_column = (
        Allow(Own("MEMBER"), columns=("content",)),
        Allow(Others("MEMBER"), columns=("expiresAt",)),
    )
    for _ in range(2):
        guard(guarded, replace(messages, update=by_column))
        assert guarded.query(triggers) == [('"Messages"',)]
    guard(guarded, messages)
    assert guarded.query(triggers) == []


def test_guards_are_installed_on_request_and_kept_up_to_date_from_then_on(
    guarded: TestDatabase,
) -> None:
    """Without the flag the first time, no table is needed; later runs keep guards up to date."""
    assert tables(guarded) == set()
    with guarded.migrating() as connection:
        assert due(connection, "supabase", registry) == []
        applied = upgrade(connection, "supabase", registry, guards=True)
    assert applied == ["guards_rooms"]
    with guarded.migrating() as connection:
        assert upgrade(connection, "supabase", registry) == []
        assert upgrade(connection, "supabase", model(messages)) == ["guards_rooms"]
    assert tables(guarded) == {'"Messages"'}


def test_a_second_request_repairs_policies_that_were_changed_by_hand(guarded: TestDatabase) -> None:
    """The history alone would say that no step is pending."""
    guard(guarded, messages)
    before = guarded.query(POLICIES)
    guarded.query('drop policy mirror_rooms_delete on "Messages"')
    guarded.query('alter policy mirror_rooms_read on "Messages" using (true)')
    guarded.query('alter table "Messages" disable row level security')
    guarded.query('grant all on "Messages" to anon, authenticated')
    guard(guarded, messages)
    assert guarded.query(POLICIES) == before
    assert guarded.value("""select relrowsecurity from pg_class where relname = 'Messages'""")
    assert not guarded.value("""select has_any_column_privilege('anon', '"Messages"', 'select')""")
    assert not guarded.value(
        """select has_table_privilege('authenticated', '"Messages"', 'update')"""
    )


INDEXES = """
    select i.indrelid::regclass::text, i.indisunique,
      array_agg(a.attname order by k.ordinality)::text
    from pg_index as i
    cross join lateral unnest(i.indkey::int2[]) with ordinality as k (attnum, ordinality)
    join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
    where not i.indisprimary and i.indrelid in ('"Messages"'::regclass, '"Attachments"'::regclass)
    group by i.indexrelid, 1, 2 order by 1, 3
"""


def test_the_columns_that_policies_ask_for_are_indexed(guarded: TestDatabase) -> None:
    """The key makes each index unique, so no advisor calls it unused; a second run adds none."""
    for _ in range(2):
        guard(guarded, messages, attachments)
        assert guarded.query(INDEXES) == [
            ('"Attachments"', True, "{messageId,id}"),
            ('"Attachments"', True, "{userId,id}"),
            ('"Messages"', True, "{roomId,id}"),
        ]


def test_an_index_that_begins_with_the_column_is_enough(guarded: TestDatabase) -> None:
    """A partial index, or one with the column further back, is not enough."""
    guarded.query('create index on "Messages" ("roomId", "content")')
    guarded.query("""create index on "Attachments" ("messageId") where "order" = 1""")
    guarded.query('create index on "Attachments" ("order", "userId")')
    guard(guarded, messages, attachments)
    made = {(table, columns) for table, unique, columns in guarded.query(INDEXES) if unique}
    assert made == {('"Attachments"', "{messageId,id}"), ('"Attachments"', "{userId,id}")}


def test_a_table_without_a_key_gets_a_plain_index(guarded: TestDatabase) -> None:
    """Without a key, a unique index is impossible."""
    guarded.query('alter table "Messages" drop constraint "Messages_pkey"')
    guard(guarded, messages)
    assert guarded.query(INDEXES) == [('"Messages"', False, "{roomId}")]


def plan(database: TestDatabase, query: str) -> str:
    """Return the plan of a query of a signed-in stranger, with EXPLAIN ANALYZE."""
    with database.acting_as("00000000-0000-4000-8000-000000000001") as connection:
        row = connection.execute(f"explain (analyze, verbose, format json) {query}".encode())
        found = row.fetchone()
    assert found is not None
    return json.dumps(found[0])


def nodes(plan: Any) -> Iterator[dict[str, Any]]:
    """Yield each node of a plan."""
    if isinstance(plan, list):
        for part in plan:
            yield from nodes(part)
    elif isinstance(plan, dict):
        if "Node Type" in plan:
            yield plan
        for part in plan.values():
            yield from nodes(part)


@pytest.mark.parametrize("table", ["chat_messages", "chat_reactions", "chat_read_receipts"])
def test_the_set_of_ones_trips_is_computed_once_per_statement(
    target: TestDatabase, table: str
) -> None:
    """This holds for any number of rows, and through a parent."""
    target.query(
        "insert into chat_messages (id, trip_id, sender_id, content)"
        " select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'x'"
        " from generate_series(1, 50)"
    )
    target.query("insert into chat_reactions select id, sender_id, '+' from chat_messages")
    target.query("insert into chat_read_receipts select id, sender_id from chat_messages")
    found = list(nodes(json.loads(plan(target, f"select * from {table}"))))
    helpers = [node for node in found if "my_trips" in str(node.get("Output"))]
    assert [node["Actual Loops"] for node in helpers] == [1]
    assert helpers[0]["Parent Relationship"] == "InitPlan"
    # It appears in no other node, where it would run for each row.
    assert not any("my_trips" in node.get("Filter", "") for node in found)


def test_a_page_of_reactions_reads_the_messages_that_they_are_about_and_no_others(
    target: TestDatabase,
) -> None:
    """Reading all messages that the caller may read would grow with every trip."""
    user, trip = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
    target.query("insert into users values (%s)", user)
    target.query("insert into trips values (%s)", trip)
    target.query("insert into trip_memberships values (%s, %s, 'MEMBER', 'ACTIVE')", trip, user)
    target.query(
        "insert into chat_messages (id, trip_id, sender_id, content)"
        " select gen_random_uuid(), %s, %s, 'x' from generate_series(1, 1000)",
        trip,
        user,
    )
    target.query("insert into chat_reactions select id, sender_id, '+' from chat_messages")
    target.query("analyze chat_messages, chat_reactions")
    page = target.query("select message_id from chat_reactions limit 20")
    ids = ", ".join(f"'{message}'" for (message,) in page)
    found = list(
        nodes(json.loads(plan(target, f"select * from chat_reactions where message_id in ({ids})")))
    )
    [reactions] = [node for node in found if node.get("Relation Name") == "chat_reactions"]
    [messages] = [node for node in found if node.get("Relation Name") == "chat_messages"]
    assert reactions["Actual Rows"] == 20
    assert messages["Actual Rows"] * messages["Actual Loops"] == 20


def test_tables_of_supabase_get_policies_and_nothing_else() -> None:
    """There, postgres may create and drop policies, but nothing else that needs the owner."""
    for one in (trips.registry, registry):
        touched = [
            line.strip()
            for line in guards_sql(one).splitlines()
            if (" realtime.messages" in line or " storage.objects" in line)
            and not line.startswith("--")
            and "raise warning" not in line
        ]
        assert touched
        for line in touched:
            assert line.startswith(("create policy ", "lock table realtime.messages in row")), line
