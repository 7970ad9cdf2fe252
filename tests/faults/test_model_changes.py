"""A model changes: each change is previewed, migrated, deployed, resynced and pruned.

In between, no user gets access that the primary does not give.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import Integer, Text, cast, column, select, table

from mirror.devstack import PostgresCluster
from mirror.errors import NotMigrated, Transient, UsageError
from mirror.model.mapping import Column, Mapping, Parent, Reference
from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from tests.faults.clubs import (
    OLD,
    PRIMARY,
    TARGET,
    USERS,
    Pair,
    clubs,
    members,
    membership,
    model,
    notes,
    retyped,
    without,
)
from tests.faults.tools import rewrite
from tests.support.databases import TestDatabase

BOB = ("members", 1, USERS["bob"])
LEAVES = f"update members set status = 'INACTIVE' where user_id = '{USERS['bob']}'"

_clubs = table("clubs", column("id", Integer), column("name", Text), column("kind", Text))
_kind_as_number = select(_clubs.c.id, _clubs.c.name, cast(_clubs.c.kind, Integer).label("kind"))
rooms = Mapping(
    name="rooms",
    table="rooms",
    key=("id",),
    columns=(Column("id", "bigint"), Column("name", "text")),
    query=select(_clubs.c.id, _clubs.c.name),
)


@pytest.fixture(scope="module")
def templates(
    primary_cluster: PostgresCluster, target_cluster: PostgresCluster, project_template: str
) -> tuple[str, str]:
    """Both sides of the old model, with three members mirrored."""
    names = "changes_primary_template", "changes_target_template"
    primary_cluster.create_database(names[0])
    target_cluster.create_database(names[1], template=project_template, owner="postgres")
    pair = Pair(
        TestDatabase(primary_cluster.url(names[0])),
        TestDatabase(target_cluster.url(names[1], user="postgres")),
    )
    pair.primary.query(PRIMARY)
    pair.target.query(TARGET)
    with pair.primary.migrating() as connection:
        upgrade(connection)
    with pair.target.migrating() as connection:
        upgrade(connection, "supabase", OLD, guards=True)
    pair.resync(OLD)
    return names


@pytest.fixture
def pair(
    primary_cluster: PostgresCluster, target_cluster: PostgresCluster, templates: tuple[str, str]
) -> Iterator[Pair]:
    """The old model, and three members, of whom two are active."""
    primary_cluster.create_database("changes_primary", template=templates[0])
    target_cluster.create_database("changes_target", template=templates[1], owner="postgres")
    made = Pair(
        TestDatabase(primary_cluster.url("changes_primary")),
        TestDatabase(target_cluster.url("changes_target", user="postgres")),
    )
    assert made.readers() == {"ada", "bob"}
    yield made
    primary_cluster.drop_database("changes_primary")
    target_cluster.drop_database("changes_target")


def catalog(database: TestDatabase) -> list[object]:
    """Return each object of a database with the transaction that last changed it."""
    found: list[object] = database.query(
        "select c.oid, c.relname, c.xmin::text, (select array_agg(a.xmin::text order by attnum)"
        " from pg_attribute as a where a.attrelid = c.oid)"
        " from pg_class as c where relname !~ '^pg_(toast|stat)' order by c.oid"
    )
    return found + database.query("select oid, xmin::text from pg_proc order by oid")


def refused_alike(pair: Pair, new: Registry, message: str) -> NotMigrated:
    """Assert that preview and migration refuse a version with the same error; return it."""
    before = catalog(pair.target)
    errors = []
    for attempt in (pair.preview, pair.migrate):
        with pytest.raises(NotMigrated, match=message) as caught:
            attempt(new)
        errors.append(caught.value)
    assert str(errors[0]) == str(errors[1])
    assert catalog(pair.target) == before
    return errors[0]


def test_a_preview_changes_nothing_and_an_up_to_date_side_has_none(pair: Pair) -> None:
    """It names each object that the migration changes, and the steps after it."""
    before = catalog(pair.target)
    new = model(members=replace(members, columns=(*members.columns, Column("note", "text"))))
    found = pair.preview(new)
    assert catalog(pair.target) == before
    assert found.steps == ["model_clubs"]
    assert "create column note on public.members: text" in found.lines
    assert "alter function mirror.apply_members" in " ".join(found.lines)
    assert pair.preview(OLD).steps == pair.preview(OLD).lines == pair.preview(OLD).next_steps == []


def test_a_preview_does_not_wait_for_a_busy_table(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers would queue behind it."""
    monkeypatch.setattr("mirror.schema.preview._LOCK_TIMEOUT", "set local lock_timeout = '50ms'")
    with pair.target.connect(autocommit=False) as reader:
        reader.execute("select from members")
        with pytest.raises(Transient, match="another transaction uses a table"):
            pair.preview(model(members=without(members, "status", active={})))


def test_a_column_is_added(pair: Pair) -> None:
    """Old workers are refused, and their events wait; the column is filled by a resync."""
    new = model(members=replace(members, columns=(*members.columns, Column("note", "text"))))
    deploy, resync = pair.preview(new).next_steps
    assert "refuses others for clubs, members" in deploy
    assert resync == "run `mirror resync members`"
    pair.migrate(new)
    pair.change(LEAVES, *BOB)
    pair.work(OLD)
    assert pair.readers() == {"ada", "bob"}
    pair.work(new)
    assert pair.readers() == {"ada"}
    assert pair.target.query("select note from members order by user_id") == [
        (None,),
        ("y",),
        (None,),
    ]
    pair.resync(new, "members")
    assert pair.target.query("select note from members order by user_id") == [
        ("x",),
        ("y",),
        ("z",),
    ]
    assert pair.prune(new) == []


def test_a_column_is_removed(pair: Pair) -> None:
    """It stays, unwritten, until it is pruned; no object of the user's goes with it."""
    new = model(clubs=without(clubs, "kind"))
    assert "column public.clubs.kind" in pair.preview(new).next_steps[-1]
    assert pair.migrate(new) == ["model_clubs"]
    pair.change("update clubs set name = 'go', kind = '8'", "clubs", 1)
    pair.work(OLD)
    pair.work(new)
    assert pair.target.query("select name, kind from clubs") == [("go", "7")]
    assert pair.preview(new).steps == []
    pair.target.query("create view kinds as select kind from clubs")
    with pytest.raises(NotMigrated, match="view kinds depends on column kind of table clubs"):
        pair.prune(new)
    pair.target.query("drop view kinds")
    assert pair.prune(new)[0] == "alter table public.clubs drop column kind;"
    pair.resync(new)
    assert pair.target.query("select * from clubs") == [(1, "go")]
    assert pair.prune(new) == []
    assert pair.readers() == {"ada", "bob"}


def test_a_column_that_returns_grants_nothing_by_its_old_values(pair: Pair) -> None:
    """Bob has left while the column was not written."""
    new = model(members=without(members, "status", active={}))
    pair.migrate(new)
    pair.work(new)
    assert pair.readers() == set(USERS), "the new model has no status"
    pair.change(LEAVES, *BOB)
    pair.work(new)
    pair.migrate(OLD)
    assert pair.readers() == set()
    pair.resync(OLD)
    assert pair.readers() == {"ada"}
    assert pair.prune(OLD) == []


def test_a_column_is_renamed(pair: Pair) -> None:
    """It is a new one beside an old one."""
    columns = (*clubs.columns[:2], Column("sort", "text"))
    renamed = replace(
        clubs,
        columns=columns,
        query=select(_clubs.c.id, _clubs.c.name, _clubs.c.kind.label("sort")),
    )
    new = model(clubs=renamed)
    found = pair.preview(new)
    assert "create column sort on public.clubs: text" in found.lines
    assert "column public.clubs.kind" in found.next_steps[-1]
    pair.migrate(new)
    pair.resync(new)
    pair.prune(new)
    assert pair.target.query("select id, name, sort from clubs") == [(1, "chess", "7")]


def test_a_column_gets_another_type(pair: Pair) -> None:
    """Its table is rewritten, with the values that it has."""
    new = model(clubs=replace(retyped(clubs, "kind", "integer"), query=_kind_as_number))
    found = pair.preview(new)
    assert "alter column kind on public.clubs: text → integer" in found.lines
    assert any(line.startswith("rewrite table public.clubs") for line in found.lines)
    pair.migrate(new)
    assert pair.target.query("select kind from clubs") == [(7,)]
    pair.change("update clubs set kind = '8'", "clubs", 1)
    pair.work(OLD)
    assert pair.target.query("select kind from clubs") == [(7,)]
    pair.work(new)
    assert pair.target.query("select kind from clubs") == [(8,)]
    assert pair.readers() == {"ada", "bob"}


@pytest.mark.parametrize(
    ("obstacle", "message"),
    [
        ("update clubs set kind = 'secret'", "is text and cannot become integer: a value does"),
        ("create view kinds as select kind from clubs", r"view public\.kinds depends on column"),
        (
            (
                "create policy mine on notes as restrictive using"
                " (exists (select from clubs where kind = '7'))"
            ),
            r"policy mine on table public\.notes depends on column",
        ),
    ],
)
def test_a_column_that_cannot_be_rewritten_is_named(
    pair: Pair, obstacle: str, message: str
) -> None:
    """The remedy loses nothing, and the message contains no value."""
    pair.target.query(obstacle)
    new = model(clubs=replace(retyped(clubs, "kind", "integer"), query=_kind_as_number))
    error = refused_alike(pair, new, message)
    assert "secret" not in str(error)
    assert "Give the column another name" in str(error)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (
            model(members=retyped(members, "user_id", "text")),
            r"table public\.members exists and has a column user_id of type uuid, not text",
        ),
        (
            model(members=replace(members, key=("user_id", "club_id"))),
            r"has another primary key: \(club_id, user_id\), not \(user_id, club_id\)",
        ),
    ],
    ids=["type", "columns"],
)
def test_a_key_does_not_change_in_place(pair: Pair, new: Registry, message: str) -> None:
    """The remedy is a new mapping."""
    error = refused_alike(pair, new, message)
    assert "declare a new mapping, with another name and another table" in str(error)
    assert error.exit_code == 4


def test_a_key_changes_by_a_new_mapping_and_table(pair: Pair) -> None:
    """Nobody gets in before the new table is filled."""
    moved = replace(members, name="seats", table="seats", key=("user_id", "club_id"))
    access = [replace(membership, mapping="seats")]
    new = model(clubs, moved, access=access, guards=[replace(notes, via="seats")])
    pair.migrate(new)
    assert pair.readers() == set()
    pair.resync(new)
    assert pair.readers() == {"ada", "bob"}
    assert "drop table\n  mirror.ledger_members,\n  public.members;" in pair.prune(new)
    assert pair.readers() == {"ada", "bob"}


def test_a_mapping_moves_to_another_table(pair: Pair) -> None:
    """Its old table is closed, and pruned; the new one is empty until the resync."""
    new = model(members=replace(members, table="seats"))
    pair.migrate(new)
    assert pair.readers() == set()
    pair.change(LEAVES, *BOB)
    pair.work(OLD)
    pair.resync(new)
    assert pair.readers() == {"ada"}
    assert pair.prune(new)[0] == "drop table\n  public.members;"
    assert pair.readers() == {"ada"}


def test_a_mapping_is_renamed(pair: Pair) -> None:
    """Its table stays; its ledger and its function are left, and pruned."""
    renamed = replace(members, name="seats")
    access = [replace(membership, mapping="seats")]
    new = model(clubs, renamed, access=access, guards=[replace(notes, via="seats")])
    left = pair.preview(new).next_steps[-1]
    assert "table mirror.ledger_members" in left
    assert "function mirror.apply_members" in left
    pair.migrate(new)
    assert pair.readers() == {"ada", "bob"}
    pair.change(LEAVES, "seats", 1, USERS["bob"])
    pair.work(OLD)
    pair.work(new)
    assert pair.readers() == {"ada"}
    pair.prune(new)
    assert pair.target.value("select to_regclass('mirror.ledger_members')") is None
    pair.resync(new)
    assert pair.readers() == {"ada"}
    assert pair.preview(new).steps == []


def test_a_row_stays_withheld_while_its_mapping_is_renamed(pair: Pair) -> None:
    """The resync under the new name can write it, which ends that."""
    pair.target.query(
        "insert into mirror.withheld (mapping, key, reason, epoch, fence)"
        " values ('members', %s, 'Rejected', 0, 0)",
        ["1", USERS["bob"]],
    )
    assert pair.readers() == {"ada"}
    access = [replace(membership, mapping="seats")]
    new = model(
        clubs, replace(members, name="seats"), access=access, guards=[replace(notes, via="seats")]
    )
    pair.migrate(new)
    assert pair.readers() == {"ada"}
    pair.resync(new)
    assert pair.readers() == {"ada", "bob"}


def test_a_mapping_is_removed(pair: Pair) -> None:
    """Its table is closed at once, and dropped only if nothing of the user's needs it."""
    new = model(clubs, None, access=[], guards=[])
    found = pair.preview(new)
    assert "drop policy members_read on public.members" in found.lines
    assert "table public.members" in found.next_steps[-1]
    pair.migrate(new)
    assert pair.readers() == set()
    pair.target.query(
        "create function f() returns bigint language sql"
        " begin atomic; select count(*) from members; end"
    )
    with pytest.raises(NotMigrated, match=r"function f\(\) depends on"):
        pair.prune(new)
    pair.target.query(
        "create or replace function g() returns bigint language sql as"
        " 'select count(*) from public.members'; drop function f()"
    )
    with pytest.raises(NotMigrated, match=r"functions of yours name what would go: g\(\)"):
        pair.prune(new)
    pair.target.query("drop function g()")
    pair.prune(new)
    assert pair.target.value("select to_regclass('members')") is None
    assert pair.target.value("select to_regprocedure('mirror.my_clubs(text)')") is None
    pair.resync(new)


def test_a_mapping_that_returns_grants_nothing_by_its_old_rows(pair: Pair) -> None:
    """Bob has left while nothing wrote its table."""
    pair.migrate(model(clubs, None, access=[], guards=[]))
    pair.primary.query(LEAVES)
    pair.migrate(OLD)
    assert pair.readers() == set()
    pair.resync(OLD)
    assert pair.readers() == {"ada"}
    assert pair.prune(OLD) == []


def test_without_the_rule_old_rows_of_a_mapping_that_returns_grant_again(pair: Pair) -> None:
    """The same steps, but the migration does not empty the table."""
    pair.migrate(model(clubs, None, access=[], guards=[]))
    rewrite(pair.target, "take_back", "delete from %s where true", "delete from %s where false")
    pair.primary.query(LEAVES)
    pair.migrate(OLD)
    assert pair.readers() == {"ada", "bob"}


def test_a_helper_that_moves_to_another_model_goes_on(pair: Pair) -> None:
    """The other model was migrated first."""
    seats = replace(members, name="seats", table="seats", parents=())
    other = Registry("others", [seats], access=[replace(membership, mapping="seats")])
    pair.migrate(other)
    pair.target.query("insert into seats select club_id, user_id, role, status from members")
    pair.migrate(model(access=[], guards=[]))
    with pair.target.acting_as(USERS["ada"]) as connection:
        assert connection.execute("select mirror.my_clubs('MEMBER')").fetchall() == [([1],)]
    assert pair.prune(model(access=[], guards=[])) == []


def test_a_helper_that_is_not_declared_any_more_grants_nothing(pair: Pair) -> None:
    """A policy of the user's still calls it, also under NOT."""
    pair.target.query(
        "create table mine (id bigint); insert into mine values (1), (2);"
        "grant select on mine to authenticated; alter table mine enable row level security;"
        "create policy yes on mine for select using (id = 1 and mirror.is_club_member(1));"
        "create policy no on mine for select using (id = 2 and not mirror.is_club_member(1))"
    )
    renamed = [replace(membership, noun="team")]
    pair.migrate(model(access=renamed))
    assert pair.readers() == {"ada", "bob"}
    for user in USERS.values():
        with pair.target.acting_as(user) as connection:
            assert connection.execute("select id from mine").fetchall() == []
    with pytest.raises(NotMigrated, match="policy yes on table mine depends on function"):
        pair.prune(model(access=renamed))


def test_a_parent_is_added_and_removed(pair: Pair) -> None:
    """Rows stay as they are until the resync; a foreign key follows the declaration."""
    keys = (
        "select pg_get_constraintdef(oid) from pg_constraint"
        " where conrelid = 'members'::regclass and contype = 'f'"
    )
    free = model(members=replace(members, parents=()))
    pair.migrate(free)
    assert pair.target.query(keys) == []
    pair.work(free)
    pair.target.query("insert into members values (2, gen_random_uuid(), 'MEMBER', 'ACTIVE')")
    found = pair.preview(OLD)
    assert any("create constraint members_club_id_fkey" in line for line in found.lines)
    pair.migrate(OLD)
    ((added,),) = pair.target.query(keys)
    assert added.endswith("ON DELETE CASCADE NOT VALID")
    assert pair.readers() == {"ada", "bob"}
    pair.target.query("delete from members where club_id = 2")
    pair.resync(OLD)
    pair.target.query("delete from mirror.migrations where name = 'model_clubs'")
    pair.migrate(OLD)
    assert pair.target.query(keys) == [(added.removesuffix(" NOT VALID"),)]


def test_a_reference_is_added_and_removed(pair: Pair) -> None:
    """Its column in the ledger is filled by a resync, and pruned."""
    grouped = replace(members, references=(Reference("note", "text"),))
    new = model(members=grouped)
    assert "create column ref_note on mirror.ledger_members: text" in pair.preview(new).lines
    pair.migrate(new)
    pair.resync(new, "members")
    assert pair.target.query("select ref_note from mirror.ledger_members order by 1") == [
        ("x",),
        ("y",),
        ("z",),
    ]
    pair.migrate(OLD)
    assert "alter table mirror.ledger_members drop column ref_note;" in pair.prune(OLD)
    pair.resync(OLD)
    assert pair.readers() == {"ada", "bob"}


def test_a_level_is_added(pair: Pair) -> None:
    """No worker is locked out, and no row has to be mirrored again."""
    pair.change("update members set role = 'OWNER' where role = 'ADMIN'", *BOB)
    pair.work(OLD)
    assert pair.readers() == {"ada"}
    new = model(access=[replace(membership, levels=("MEMBER", "ADMIN", "OWNER"))])
    found = pair.preview(new)
    assert "alter function mirror.club_roles(min_role text)" in found.lines
    assert found.next_steps == []
    pair.migrate(new)
    assert pair.readers() == {"ada", "bob"}
    pair.change(LEAVES, *BOB)
    pair.work(OLD)
    assert pair.readers() == {"ada"}


def test_a_guard_changes_and_goes(pair: Pair) -> None:
    """The policies change with the migration; without a guard, nobody gets in."""
    new = model(guards=[replace(notes, read="ADMIN")])
    found = pair.preview(new)
    assert found.steps == ["guards_clubs"]
    assert "alter policy mirror_clubs_read on public.notes" in found.lines
    assert found.next_steps == []
    pair.migrate(new)
    assert pair.readers() == {"bob"}
    pair.migrate(model(guards=[]))
    assert pair.readers() == set()


def test_nothing_is_pruned_before_the_migration(pair: Pair) -> None:
    """The declarations in the target decide which objects go."""
    with pytest.raises(UsageError, match="model_clubs is to be applied first"):
        pair.prune(model(clubs=without(clubs, "kind")))


def test_the_users_own_column_is_not_pruned(pair: Pair) -> None:
    """It is named, with the statement that drops it."""
    pair.target.query("alter table clubs add mine text")
    error = refused_alike(
        pair, model(clubs=without(clubs, "kind")), "has a column mine that is not declared"
    )
    assert "alter table public.clubs drop column mine" in str(error)


def test_a_helper_that_would_return_another_type_is_refused_by_name(pair: Pair) -> None:
    """Policies may call it; another noun gives the new one another name."""
    source = table("members", *(column(one.name) for one in members.columns))
    seats = replace(
        retyped(members, "club_id", "text"),
        name="seats",
        table="seats",
        parents=(),
        references=(Reference("user_id", "uuid", table="members", column="user_id"),),
        query=select(
            cast(source.c.club_id, Text).label("club_id"),
            *(source.c[one.name] for one in members.columns[1:]),
        ),
    )
    access = [replace(membership, mapping="seats")]
    error = refused_alike(
        pair, model(clubs, seats, access=access, guards=[]), "cannot change return type"
    )
    assert "give the access declaration another noun" in str(error)
    access = [replace(membership, mapping="seats", noun="team")]
    pair.migrate(model(clubs, seats, access=access, guards=[]))


def test_a_parent_that_is_new_takes_no_access_before_the_resync(pair: Pair) -> None:
    """Its table is empty then, and rows need it only when they are written."""
    columns = (*members.columns, Column("room_id", "bigint"))
    _members = table("members", *(column(one.name) for one in members.columns))
    child = replace(
        members,
        columns=columns,
        parents=(*members.parents, Parent("rooms", "room_id")),
        query=select(*_members.c, _members.c.club_id.label("room_id")),
    )
    new = model(clubs, child, rooms)
    pair.migrate(new)
    assert pair.readers() == {"ada", "bob"}
    pair.change(LEAVES, *BOB)
    pair.work(new)
    assert pair.readers() == {"ada"}
    pair.resync(new)
    assert pair.readers() == {"ada"}


def test_a_rewritten_table_is_named_until_its_rows_are_compared(pair: Pair) -> None:
    """A comparison of another mapping, a partial one and a dry run do not count."""
    assert pair.altered(OLD) == {}
    pair.primary.query("alter table members alter status type text using 'INACTIVE'")
    named = {"members": ["column status of members is rewritten"]}
    assert pair.altered(OLD) == named
    pair.work(OLD)
    assert pair.readers() == {"ada", "bob"}, "no event says so"
    pair.reconcile(OLD, mappings=("clubs",))
    pair.reconcile(OLD, dry_run=True)
    assert pair.altered(OLD) == named
    assert pair.reconcile(OLD) == "repaired"
    assert pair.altered(OLD) == {}
    assert pair.readers() == set()
    pair.primary.query("alter table members alter status type text using 'ACTIVE'")
    assert pair.altered(OLD) == named
    pair.resync(OLD, "members")
    assert pair.altered(OLD) == {}
    assert pair.readers() == set(USERS)


def test_a_reconcile_that_is_held_back_leaves_the_finding(pair: Pair) -> None:
    """Rows still differ."""
    pair.primary.query(
        "create table other (like members including all); drop table members;"
        " alter table other rename to members"
    )
    assert pair.altered(OLD) == {"members": ["members is defined anew"]}
    assert pair.reconcile(OLD, max_deletes=0) == "held back"
    assert pair.altered(OLD) == {"members": ["members is defined anew"]}
    assert pair.reconcile(OLD, confirm=frozenset({"members"})) == "repaired"
    assert pair.altered(OLD) == {}
