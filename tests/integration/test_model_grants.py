"""Rights from three sources, in one table: the effect of each change on every user."""

import asyncio
import re
import sys
from collections.abc import Iterator
from itertools import chain, product
from random import Random
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID, uuid5

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from starlette.requests import Request
from starlette.responses import Response

from examples.grants.models import (
    Company,
    CompanyMember,
    TableView,
    User,
    ViewGrant,
    Workspace,
    WorkspaceMember,
)
from examples.grants.shape import shape_url
from examples.grants.story import story
from mappings import grants
from mirror.capture import attach
from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.devstack import PostgresCluster
from mirror.diagnostics.explain import audit, explain_resource, question_about
from mirror.hooks import Hooks
from mirror.reconcile.drift import Direction
from mirror.reconcile.sample import draw_keys
from mirror.testing import Sandboxes
from tests.support.blocks import ROOT, blocks
from tests.support.databases import TestDatabase
from tests.support.electric_device import Device
from tests.support.example_model import model
from tests.support.model_pair import ModelPair, model_pair
from tests.support.reviewed import Reviewed

PAGE = (ROOT / "docs" / "models" / "grants.md").read_text(encoding="utf-8")
ELECTRIC = ROOT / "examples" / "grants" / "electric.sql"
LEVELS = ("read", "write", "admin")
USERS = ("olga", "adam", "mia", "ed", "vera", "gus", "tina", "otto", "nora")
RESOURCES = {
    "company": ("acme", "globex"),
    "workspace": ("design", "sales", "abroad"),
    "table_view": ("budget", "plan", "leads", "far"),
}
NAMES = (*USERS, *chain(*RESOURCES.values()))


def snippet(start: str) -> str:
    """Return the snippet of docs/models/grants.md that begins like this."""
    (found,) = (each.text for each in blocks(PAGE) if each.text.startswith(start))
    return found


def id_of(name: str) -> UUID:
    """Return the id of a user or resource, which is derived from its name."""
    return uuid5(UUID(int=0), name)


def populate(session: Session) -> None:
    """Insert two companies; design and sales are Acme's, abroad is Globex's."""
    session.add_all(User(id=id_of(name), email=f"{name}@example.com") for name in USERS)
    session.add_all(Company(id=id_of(name), name=name) for name in RESOURCES["company"])
    session.flush()
    for name, company in {"design": "acme", "sales": "acme", "abroad": "globex"}.items():
        session.add(Workspace(id=id_of(name), company_id=id_of(company), name=name))
    session.flush()
    places = {"budget": "design", "plan": "design", "leads": "sales", "far": "abroad"}
    for name, workspace in places.items():
        session.add(TableView(id=id_of(name), workspace_id=id_of(workspace), name=name))
    session.flush()
    for company, user, role in (
        ("acme", "olga", "owner"),
        ("acme", "adam", "admin"),
        ("acme", "mia", "member"),
        ("acme", "tina", "member"),
        ("globex", "otto", "owner"),
        # The mapping has no right for this role.
        ("globex", "nora", "founder"),
    ):
        session.add(CompanyMember(company_id=id_of(company), user_id=id_of(user), role=role))
    for workspace, user, role in (
        ("design", "ed", "editor"),
        ("design", "vera", "viewer"),
        ("design", "tina", "viewer"),
        ("sales", "mia", "owner"),
    ):
        session.add(WorkspaceMember(workspace_id=id_of(workspace), user_id=id_of(user), role=role))
    for view, user, permission in (
        ("budget", "gus", "read"),
        ("budget", "tina", "write"),
        ("far", "olga", "read"),
    ):
        session.add(
            ViewGrant(table_view_id=id_of(view), user_id=id_of(user), permission=permission)
        )


Rights = dict[tuple[str, str, str], str]
"""By user, kind and name: the level."""


def rights(pair: ModelPair) -> Rights:
    """Return each user's rights, computed from the primary's plain rows without the mapping."""
    ask = pair.ask
    names = {id_of(name): name for name in NAMES}
    ranks = {"owner": 2, "admin": 1, "editor": 1, "member": 0, "viewer": 0, "read": 0, "write": 1}
    found: dict[tuple[str, str, str], int] = {}

    def give(user: UUID, kind: str, resource: UUID, role: str) -> None:
        key = (names[user], kind, names.get(resource, str(resource)))
        if role in ranks:
            found[key] = max(found.get(key, 0), ranks[role])

    views = ask("select id, workspace_id from table_views")
    workspaces = ask("select id, company_id from workspaces")
    memberships = ask("select workspace_id, user_id, role from workspace_members")
    for company, user, role in ask("select company_id, user_id, role from company_members"):
        give(user, "company", company, role)
        if role == "owner":
            memberships += [(w, user, role) for w, of in workspaces if of == company]
    for workspace, user, role in memberships:
        give(user, "workspace", workspace, role)
        for view in (v for v, of in views if of == workspace):
            give(user, "table_view", view, role)
    for view, user, permission in ask(
        "select table_view_id, user_id, permission from table_view_grants"
    ):
        give(user, "table_view", view, permission)
    return {key: LEVELS[rank] for key, rank in found.items()}


def answers(pair: ModelPair) -> Rights:
    """Ask the target about each user, each resource taken as each kind, and each level."""
    found: Rights = {}
    kinds, names = zip(*product(RESOURCES, chain(*RESOURCES.values())), strict=True)
    everybody = pair.asked_by(
        {user: id_of(user) for user in USERS},
        """
        select a.kind, a.name, l.level, mirror.can(a.kind, a.id, l.level),
          a.id = any((select mirror.my_resources(a.kind, l.level))::uuid[])
        from unnest(%s::text[], %s::text[], %s::uuid[]) as a (kind, name, id)
        cross join unnest(%s::text[]) with ordinality as l (level, rank)
        order by l.rank
        """,
        list(kinds),
        list(names),
        [id_of(name) for name in names],
        [*LEVELS, "", "x"],
    )
    for user, rows in everybody.items():
        assert len(rows) == len(names) * (len(LEVELS) + 2)
        reached: dict[tuple[str, str], list[str]] = {}
        for kind, name, level, can, listed in rows:
            assert can is listed
            if can:
                reached.setdefault((str(kind), str(name)), []).append(str(level))
        for (kind, name), levels in reached.items():
            # Each level includes the lower ones.
            assert tuple(levels) == LEVELS[: len(levels)]
            found[user, kind, name] = levels[-1]
    return found


@pytest.fixture
def pair(sandboxes: Sandboxes) -> Iterator[ModelPair]:
    """The example's users and resources, mirrored."""
    with model_pair(sandboxes, grants.registry, populate) as pair:
        yield pair


def change(pair: ModelPair, statement: str) -> Rights:
    """Run a statement on the primary, with :names for ids; return every user's rights after it."""
    with pair.change() as session:
        session.execute(text(statement), {n: id_of(n) for n in NAMES if f":{n}" in statement})
    found = answers(pair)
    assert found == rights(pair)
    return found


def test_every_user_has_the_strongest_right_that_any_source_gives(
    pair: ModelPair,
) -> None:
    """Nine users, nine resources, three levels; computed from the plain rows, and written out."""
    found = answers(pair)
    assert found == rights(pair)
    assert {(name, level) for (user, _, name), level in found.items() if user == "olga"} == {
        *product(("acme", "design", "sales", "budget", "plan", "leads"), ("admin",)),
        ("far", "read"),
    }
    assert {(name, level) for (user, _, name), level in found.items() if user == "tina"} == {
        ("acme", "read"),
        ("design", "read"),
        ("plan", "read"),
        ("budget", "write"),
    }
    assert not any(user == "nora" for user, _, _ in found)


@pytest.mark.parametrize(
    ("statement", "right", "before", "after"),
    [
        (
            "delete from table_view_grants where user_id = :tina",
            ("tina", "table_view", "budget"),
            "write",
            "read",
        ),
        (
            "delete from workspace_members where user_id = :tina",
            ("tina", "table_view", "budget"),
            "write",
            "write",
        ),
        (
            "delete from workspace_members where user_id = :tina",
            ("tina", "table_view", "plan"),
            "read",
            None,
        ),
        (
            "delete from company_members where user_id = :olga",
            ("olga", "table_view", "far"),
            "read",
            "read",
        ),
        (
            "delete from company_members where user_id = :olga",
            ("olga", "table_view", "leads"),
            "admin",
            None,
        ),
        (
            "update company_members set role = 'member' where user_id = :olga",
            ("olga", "workspace", "design"),
            "admin",
            None,
        ),
        (
            "update company_members set role = 'owner' where user_id = :mia",
            ("mia", "workspace", "design"),
            None,
            "admin",
        ),
        (
            "update company_members set role = 'founder' where user_id = :otto",
            ("otto", "company", "globex"),
            "admin",
            None,
        ),
        (
            "update workspaces set company_id = :globex where id = :sales",
            ("otto", "table_view", "leads"),
            None,
            "admin",
        ),
        (
            "update workspaces set company_id = :globex where id = :sales",
            ("olga", "workspace", "sales"),
            "admin",
            None,
        ),
        (
            "update table_views set workspace_id = :abroad where id = :budget",
            ("ed", "table_view", "budget"),
            "write",
            None,
        ),
        (
            "update table_views set workspace_id = :abroad where id = :budget",
            ("gus", "table_view", "budget"),
            "read",
            "read",
        ),
        (
            "delete from table_views where id = :budget",
            ("gus", "table_view", "budget"),
            "read",
            None,
        ),
        ("delete from companies where id = :acme", ("ed", "table_view", "plan"), "write", None),
        ("delete from users where id = :mia", ("mia", "workspace", "sales"), "admin", None),
        ("truncate workspace_members", ("ed", "workspace", "design"), "write", None),
    ],
)
def test_a_right_that_one_source_takes_away_another_may_still_give(
    pair: ModelPair,
    statement: str,
    right: tuple[str, str, str],
    before: str | None,
    after: str | None,
) -> None:
    """After each change, every other user's rights also match the plain rows."""
    assert rights(pair).get(right) == before
    assert change(pair, statement).get(right) == after


def test_of_equally_strong_rights_the_earliest_is_mirrored(pair: ModelPair) -> None:
    """The order in which rows are found does not matter: two reads of the same data agree."""
    pair.ask("update workspace_members set granted_at = '2026-01-02', granted_by = null")
    pair.ask("update company_members set granted_at = '2026-01-03', granted_by = user_id")
    shown = "select granted_at::date::text, granted_by from user_permissions where resource_id = %s"
    change(
        pair, "insert into workspace_members values (:design, :olga, 'owner', '2026-01-01', null)"
    )
    assert pair.asked(id_of("olga"), shown, id_of("design")) == [("2026-01-01", None)]
    change(pair, "delete from workspace_members where user_id = :olga")
    assert pair.asked(id_of("olga"), shown, id_of("design")) == [("2026-01-03", id_of("olga"))]


def test_a_change_of_many_rights_is_one_apply(
    pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner of a company with 200 workspaces comes and goes: one event, one call each."""
    with pair.change() as session:
        workspaces = [Workspace(company_id=id_of("globex"), name=str(n)) for n in range(200)]
        session.add_all(workspaces)
        session.flush()
        session.add_all(TableView(workspace_id=w.id, name="v") for w in workspaces)
    calls: list[int] = []
    apply = pair.drain.target.apply

    def counted(*arguments: Any) -> Any:
        calls.append(sum(len(s.rows) + len(s.deleted) for s in arguments[1]))
        return apply(*arguments)

    monkeypatch.setattr(pair.drain.target, "apply", counted)
    member = CompanyMember(company_id=id_of("globex"), user_id=id_of("gus"), role="owner")
    with pair.change() as session:
        session.add(member)
        session.flush()
        assert session.scalar(text("select count(*) from mirror.outbox")) == 1
    # 201 workspaces with a view each, the company, and the rights that gus had before.
    assert calls == [404]
    with pair.change() as session:
        session.delete(member)
    assert calls == [404, 404]
    assert answers(pair).items() <= rights(pair).items()


@pytest.mark.parametrize("column", ["user_id", "resource_id", "workspace_id"])
def test_a_read_by_reference_looks_below_the_union(pair: ModelPair, column: str) -> None:
    """Each source uses an index for the given values and scans no whole table."""
    mapping = pair.registry["user_permissions"]
    with pair.primary.connect() as connection:
        # The tables are small, so PostgreSQL would scan them without these settings.
        connection.execute("set enable_seqscan = off")
        plan = "\n".join(
            line
            for (line,) in connection.execute(
                f"explain select * from ({mapping.sql}) as q where q.{column} = any(%s)",
                [[id_of("olga")]],
            )
        )
    assert "Seq Scan" not in plan
    assert plan.count("Index Cond") == len(re.findall(r"Index (Only )?Scan (using|on)", plan)) > 4


def test_rights_without_a_source_are_found_and_removed(pair: ModelPair) -> None:
    """One is planted, one raised, one lowered, three are lost; each gets its direction."""
    pair.target.query(
        "insert into user_permissions values (%s, 'company', %s, 'admin')",
        id_of("nora"),
        id_of("acme"),
    )
    pair.target.query(
        "update user_permissions set permission_level = 'admin' where user_id = %s", id_of("gus")
    )
    pair.target.query(
        "update user_permissions set permission_level = 'read' where resource_id = %s"
        " and user_id = %s",
        id_of("sales"),
        id_of("mia"),
    )
    pair.target.query("delete from user_permissions where user_id = %s", id_of("vera"))
    assert answers(pair)["nora", "company", "acme"] == "admin"
    report = pair.model.reconcile()
    assert report.outcome == "repaired"
    (found,) = report.mappings
    assert (found.extra, found.changed_over, found.changed_under, found.missing) == (1, 1, 1, 3)
    assert answers(pair) == rights(pair)
    assert pair.model.reconcile().outcome == "in line"


@pytest.mark.parametrize("user", [None, id_of("a stranger")])
def test_a_token_without_a_known_user_reaches_nothing(pair: ModelPair, user: UUID | None) -> None:
    """One token has no subject, another one has a subject that the primary does not know."""
    asked = "select mirror.can('company', %s, 'read'), mirror.my_resources('company', 'read')"
    assert pair.asked(user, asked, id_of("acme")) == [(False, [])]
    assert pair.asked(user, "select user_id from user_permissions") == []


def test_a_kind_that_is_not_declared_grants_nothing(pair: ModelPair) -> None:
    """Rows of it may be there."""
    nora, vault = id_of("nora"), id_of("vault")
    pair.target.query("insert into user_permissions values (%s, 'vault', %s, 'admin')", nora, vault)
    asked = "select mirror.can('vault', %s, 'read'), mirror.my_resources('vault', 'read')"
    assert pair.asked(nora, asked, vault) == [(False, [])]


# Tables of the application

STATEMENTS = {
    "see one's own rights": (
        "select user_id, resource_type, resource_id, permission_level from user_permissions"
    ),
    "see another's": "select user_id from user_permissions where user_id <> auth.uid()",
    "help oneself": "insert into user_permissions values (%(me)s, 'company', %(acme)s, 'admin')",
    "rise": "update user_permissions set permission_level = 'admin'",
    "take away": "delete from user_permissions",
    "see tables": "select id from data_tables",
    "make a table": "insert into data_tables (workspace_id, name) values (%(design)s, 'x')",
    "rename tables": "update data_tables set name = 'x'",
    "move a table": "update data_tables set workspace_id = %(sales)s",
    "drop tables": "delete from data_tables",
    "see comments": "select id from view_comments",
    "comment": "insert into view_comments (table_view_id, content) values (%(budget)s, 'x')",
    "comment as another": "insert into view_comments values (default, %(budget)s, %(acme)s, 'x')",
    "change comments": "update view_comments set content = 'x'",
    "delete comments": "delete from view_comments",
}
MATRIX = """
                      anon    olga    adam    mia     ed      vera    gus     tina    otto    nora
see one's own rights  denied  7       1       3       3       3       1       4       3       0
see another's         denied  0       0       0       0       0       0       0       0       0
help oneself          denied  denied  denied  denied  denied  denied  denied  denied  denied  denied
rise                  denied  denied  denied  denied  denied  denied  denied  denied  denied  denied
take away             denied  denied  denied  denied  denied  denied  denied  denied  denied  denied
see tables            denied  2       0       1       1       1       0       1       1       0
make a table          denied  1       denied  denied  1       denied  denied  denied  denied  denied
rename tables         denied  2       0       1       1       0       0       0       1       0
move a table          denied  denied  denied  denied  denied  denied  denied  denied  denied  denied
drop tables           denied  2       0       1       0       0       0       0       1       0
see comments          denied  9       0       0       9       9       9       9       0       0
comment               denied  1       denied  denied  1       denied  denied  1       denied  denied
comment as another    denied  denied  denied  denied  denied  denied  denied  denied  denied  denied
change comments       denied  denied  denied  denied  denied  denied  denied  denied  denied  denied
delete comments       denied  9       0       0       1       1       1       1       0       0
"""


@pytest.fixture
def furnished(pair: ModelPair) -> ModelPair:
    """A data table in each workspace; every user once commented on the budget."""
    for name in RESOURCES["workspace"]:
        pair.target.query(
            "insert into data_tables (workspace_id, name) values (%s, '')", id_of(name)
        )
    for user in USERS:
        pair.target.query(
            "insert into view_comments (table_view_id, author_id, content) values (%s, %s, '')",
            id_of("budget"),
            id_of(user),
        )
    return pair


def test_each_statement_affects_only_permitted_rows_for_every_user(furnished: ModelPair) -> None:
    """Every user tries every statement, which is rolled back; anon may do nothing."""
    values = {name: id_of(name) for name in ("acme", "design", "sales", "budget")}
    people = {user: id_of(user) for user in USERS}
    furnished.sandbox.check(MATRIX, STATEMENTS, people, **values)


# Shapes


@pytest.fixture
def devices(pair: ModelPair, target_cluster: PostgresCluster) -> Iterator[Any]:
    """Return a function that makes a device of a user, which subscribes at once."""
    database = TestDatabase(target_cluster.url(pair.target.url.rpartition("/")[2]))
    pair.target.query(ELECTRIC.read_text())
    made: list[Device] = []

    def make(user: str) -> Device:
        made.append(Device(database, f"device_{len(made)}", id_of(user)))
        return made[-1]

    yield make
    for device in made:
        device.close()


def expected_rows(pair: ModelPair, user: str) -> dict[tuple[str | None, str | None], str | None]:
    """Return the rows that a user's device should hold."""
    return {
        (kind, str(id_of(name))): level
        for (who, kind, name), level in rights(pair).items()
        if who == user
    }


def test_an_access_review_says_what_row_level_security_answers(furnished: ModelPair) -> None:
    """For every user, helper, table and statement, by user and by resource."""
    people = {user: id_of(user) for user in USERS}
    target = furnished.drain.target
    assert Reviewed(furnished.registry, target, furnished.target, people).check() > 100


def test_an_invitation_makes_rows_appear_and_a_removal_makes_them_go(
    pair: ModelPair, devices: Any
) -> None:
    """They change only on this user's devices; a change of level is one update."""
    olga, gus = devices("olga"), devices("gus")
    assert olga.rows == expected_rows(pair, "olga")
    change(pair, "insert into workspace_members values (:sales, :gus, 'editor', now(), :mia)")
    assert gus.sync() == ["insert table_view", "insert workspace"]
    assert gus.rows == expected_rows(pair, "gus")
    change(pair, "update workspace_members set role = 'viewer' where user_id = :gus")
    assert gus.sync() == ["update table_view", "update workspace"]
    assert olga.sync() == []

    change(pair, "delete from company_members where user_id = :olga")
    assert sorted(olga.sync()) == [
        "delete company",
        *["delete table_view"] * 3,
        *["delete workspace"] * 2,
    ]
    assert olga.rows == expected_rows(pair, "olga") == {("table_view", str(id_of("far"))): "read"}
    assert gus.sync() == []


def test_a_device_without_rights_holds_nothing_until_there_are_some(
    pair: ModelPair, devices: Any
) -> None:
    """An empty shape is valid."""
    nora = devices("nora")
    assert nora.rows == {}
    change(pair, "insert into table_view_grants values (:far, :nora, 'read', now(), :otto)")
    assert nora.sync() == ["insert table_view"]
    assert nora.rows == expected_rows(pair, "nora")


def test_a_device_that_was_offline_catches_up_and_all_of_a_users_devices_agree(
    pair: ModelPair, devices: Any
) -> None:
    """It gets grants and removals; a right that came and went meanwhile leaves no row."""
    phone, laptop = devices("tina"), devices("tina")
    change(pair, "insert into workspace_members values (:sales, :tina, 'viewer', now(), null)")
    assert phone.sync() == ["insert table_view", "insert workspace"]
    change(pair, "delete from workspace_members where user_id = :tina")
    change(pair, "insert into workspace_members values (:abroad, :tina, 'owner', now(), null)")
    change(pair, "delete from company_members where user_id = :tina")
    phone.sync()
    laptop.sync()
    assert phone.rows == laptop.rows == expected_rows(pair, "tina")
    assert ("workspace", str(id_of("sales"))) not in laptop.rows


def test_the_proxy_to_electric_restricts_the_shape_to_the_caller() -> None:
    """The client chooses only `offset` and `live`; the server sets table, filter and secret."""
    asked = [
        ("offset", "-1"),
        ("live", "true"),
        ("table", "secrets"),
        ("where", "true"),
        ("params[1]", "x"),
        ("columns", "user_id"),
        ("secret", "guess"),
    ]
    url = shape_url("http://electric:3000", "s&cret", id_of("olga"), asked)
    assert url.startswith("http://electric:3000/v1/shape?")
    assert parse_qsl(url.partition("?")[2]) == [
        ("offset", "-1"),
        ("live", "true"),
        ("table", "user_permissions"),
        ("where", "user_id = $1"),
        ("params[1]", str(id_of("olga"))),
        ("secret", "s&cret"),
    ]


def test_the_endpoint_of_the_page_passes_on_what_electric_answers() -> None:
    """All but the headers that describe how the body came."""
    asked: list[httpx.URL] = []

    def electric(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        headers = {"electric-offset": "0_0", "content-length": "2"}
        return httpx.Response(200, headers=headers, content=b"[]")

    names: dict[str, Any] = {
        "Request": Request,
        "Response": Response,
        "shape_url": shape_url,
        "ELECTRIC_URL": "http://electric:3000",
        "ELECTRIC_SECRET": "s",
        "client": httpx.AsyncClient(transport=httpx.MockTransport(electric)),
    }
    exec(snippet("async def my_rights"), names)  # noqa: S102 - our own page
    scope = {
        "type": "http",
        "query_string": b"offset=-1&table=secrets",
        "user": User(id=id_of("mia")),
    }
    answer = asyncio.run(names["my_rights"](Request(scope)))
    assert (answer.body, answer.headers["electric-offset"]) == (b"[]", "0_0")
    expected = shape_url("http://electric:3000", "s", id_of("mia"), [("offset", "-1")])
    assert asked == [expected]


def test_explain_and_audits_ask_for_a_resource_by_its_kind(pair: ModelPair) -> None:
    """This includes guards of that kind; a level raised by hand is reported."""
    question = question_about(pair.registry, "workspace")
    ed, design = str(id_of("ed")), str(id_of("design"))
    page = explain_resource(pair.drain, question, ed, design)
    assert (page.exit_code, page.primary_grants, page.allowed) == (0, True, True)
    assert any(step.says.startswith("data_tables: as declared") for step in page.steps)
    pair.target.query(
        "update user_permissions set permission_level = 'admin'"
        " where user_id = %s and resource_type = 'workspace'",
        id_of("ed"),
    )
    page = explain_resource(pair.drain, question, ed, design)
    assert page.first is not None
    assert page.first.name == "target row"
    found = audit(pair.drain, question, 200, Random(1)).mismatches
    assert {(one.direction, one.user) for one in found} == {(Direction.OVER, ed)}
    nobody = explain_resource(pair.drain, question, str(id_of("nora")), design)
    assert (nobody.primary_grants, nobody.allowed) == (False, False)


def test_a_sample_may_draw_any_key_also_one_of_a_user_with_many(
    pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It draws not only each user's first key; if it wants more than exist, it draws all."""
    mapping = pair.registry["user_permissions"]
    everything = draw_keys(pair.drain, mapping, 200, Random(1))
    # The package exports the function under this name, so the module is imported by its path.
    monkeypatch.setattr(sys.modules["mirror.reconcile.sample"], "_FEW", 1)
    drawn = draw_keys(pair.drain, mapping, 200, Random(1))
    # 200 random draws find all eight users, and more than 20 of their rights.
    assert len({user for user, _, _ in drawn}) == 8
    assert len(everything) >= len(drawn) > 20
    assert set(drawn) <= set(everything)


def test_the_story_of_the_example_runs(sandboxes: Sandboxes) -> None:
    """The databases were empty before."""
    with model(sandboxes, grants.registry) as installed:
        story(installed.stage)
        assert len(installed.stage.log) > 5


# Other ways of capture


@pytest.fixture
def hooked(pair: ModelPair) -> Hooks:
    """The hooks of the model; nothing else captures."""
    pair.no_triggers()
    return Hooks(pair.registry, Doorbell(DoorbellSettings(mode="off")))


def test_hooks_take_the_user_or_the_resource(pair: ModelPair, hooked: Hooks) -> None:
    """A backend would call the hooks of docs/models/grants.md beside its changes."""
    of_user, of_view, of_workspace = snippet("hooks.scope_changed").splitlines()

    def call(session: Session, line: str, **ids: UUID) -> None:
        exec(line, {"hooks": hooked, "session": session, **ids})  # noqa: S102 - our own page

    with pair.change() as session:
        session.delete(session.get_one(CompanyMember, (id_of("acme"), id_of("olga"))))
        call(session, of_user, user_id=id_of("olga"))
    assert answers(pair) == rights(pair)
    with pair.change() as session:
        session.get_one(Workspace, id_of("sales")).company_id = id_of("globex")
        call(session, of_workspace, workspace_id=id_of("sales"))
    assert answers(pair) == rights(pair)
    with pair.change() as session:
        session.delete(session.get_one(TableView, id_of("leads")))
        call(session, of_view, view_id=id_of("leads"))
    assert answers(pair) == rights(pair)
    with pair.change() as session:
        session.delete(session.get_one(TableView, id_of("budget")))
        hooked.scope_changed(session, "user_permissions", resource_id=id_of("budget"))
    assert answers(pair) == rights(pair)


def test_orm_capture_needs_no_hooks_for_changes_through_sessions(
    pair: ModelPair, hooked: Hooks
) -> None:
    """The same changes are made, without any call of a hook."""
    make = sessionmaker(pair.engine)
    capture = attach(make, hooks=hooked)
    with make.begin() as session:
        session.delete(session.get_one(CompanyMember, (id_of("acme"), id_of("olga"))))
        session.get_one(Workspace, id_of("sales")).company_id = id_of("globex")
        session.get_one(WorkspaceMember, (id_of("design"), id_of("ed"))).role = "viewer"
        session.add(ViewGrant(table_view_id=id_of("far"), user_id=id_of("nora")))
    capture.detach()
    pair.mirror()
    assert answers(pair) == rights(pair)
