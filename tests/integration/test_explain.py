"""Explain names the first broken step, for each way in which a permission can break."""

import json
from collections.abc import Callable
from contextlib import closing
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner, Result

from examples.trip_chat.models import Membership
from mappings.trips import registry
from mirror.cli.app import app
from mirror.devstack import PostgresCluster
from mirror.diagnostics.explain import (
    Explanation,
    StepStatus,
    explain_key,
    explain_resource,
    explain_table,
    question_about,
)
from mirror.errors import UsageError, WrongKey
from mirror.settings import load_settings
from mirror.sync.connections import Database
from mirror.sync.targets.asking import Ask, AskHelper, AskRows, AskStatement
from mirror.sync.targets.postgres import PostgresTarget
from mirror.sync.wiring import build_drain
from tests.support.databases import TestDatabase
from tests.support.rest import ServeApi
from tests.support.shared_pair import WHERE, SharedPair, key

SOMEBODY = str(uuid4())
TRIP = question_about(registry, "trip")
FORGET = f"delete from mirror.ledger_trip_memberships {WHERE}"
DELETE = f"delete from trip_memberships {WHERE}"


def explained(world: SharedPair, member: Membership) -> Explanation:
    """Explain a member's access to their trip."""
    return explain_resource(world.drain, TRIP, str(member.user_id), str(member.trip_id))


def first(page: Explanation) -> tuple[str, str]:
    """Return the name and the text of the first broken step."""
    assert page.first is not None, page
    return page.first.name, page.first.says


def test_a_member_is_allowed(world: SharedPair) -> None:
    """No step is broken."""
    page = explained(world, world.member())
    assert page.first is None, page.first
    assert (page.primary_grants, page.allowed, page.exit_code) == (True, True, 0)


def test_a_user_unknown_to_the_primary_may_have_another_id_there(world: SharedPair) -> None:
    """Auth has the id; the primary has never had it."""
    user = uuid4()
    world.target.query("insert into auth.users (id) values (%s)", user)
    page = explain_resource(world.drain, TRIP, str(user), str(world.member().trip_id))
    name, says = first(page)
    assert name == "user"
    assert "users in the primary has no row with this id" in says


def test_a_stranger_is_not_in_the_primary(world: SharedPair) -> None:
    """Both users exist, but not the membership."""
    trip, user = world.member().trip_id, world.member().user_id
    page = explain_resource(world.drain, TRIP, str(user), str(trip))
    name, says = first(page)
    assert name == "primary"
    assert "trip_memberships has no row with trip_memberships.trip_id" in says
    assert (page.allowed, page.exit_code) == (False, 1)


def bury(world: SharedPair, member: Membership) -> None:
    """Bury the member's event."""
    world.primary.query(
        "insert into mirror.retries"
        " (id, lane, recorded_at, mapping, key, attempts, due_at, error, buried_at)"
        " values (-1, 0, now(), 'trip_memberships', %s, 5, now(), %s, now())",
        list(key(member)),
        "target: a row was refused",
    )


def filtered_out(world: SharedPair, member: Membership) -> None:
    """Soft-delete the membership and mirror that."""
    world.change("deleted_at = now()", member)
    world.record(member)
    world.mirror()


def without_its_trip(world: SharedPair, member: Membership) -> None:
    """Soft-delete the trip, but not the membership."""
    world.primary.query("update trips set deleted_at = now() where id = %s", member.trip_id)
    world.primary.query(
        "insert into mirror.outbox (mapping, key) values ('trips', %s)", [str(member.trip_id)]
    )
    world.mirror()


def inactive(world: SharedPair, member: Membership) -> None:
    """Mirror the membership as inactive."""
    world.change("status = 'INACTIVE'", member)
    world.record(member)
    world.mirror()


def never_captured(world: SharedPair, member: Membership) -> None:
    """Leave the row unknown to the target."""
    world.target.query(DELETE, *key(member))
    world.target.query(FORGET, *key(member))


def pending(world: SharedPair, member: Membership) -> None:
    """The row is unknown to the target, and its event waits."""
    never_captured(world, member)
    world.record(member)


def pending_by_scope(world: SharedPair, member: Membership) -> None:
    """The row is unknown to the target, and an event of its whole trip waits."""
    never_captured(world, member)
    world.primary.query(
        "insert into mirror.outbox (mapping, reference, key)"
        " values ('trip_memberships', 'trip_id', %s)",
        [str(member.trip_id)],
    )


def buried(world: SharedPair, member: Membership) -> None:
    """The row is unknown to the target, and its event is buried."""
    never_captured(world, member)
    bury(world, member)


def promoted_without_an_event(world: SharedPair, member: Membership) -> None:
    """Promote the member without an event, so the ledger is older."""
    world.change("role = 'OWNER'", member)


def primary_went_back(world: SharedPair, member: Membership) -> None:
    """Give the target a newer fence than this primary can reach."""
    world.target.query(
        f"update mirror.ledger_trip_memberships set fence = fence * 2 {WHERE}", *key(member)
    )


def deleted_by_hand(world: SharedPair, member: Membership) -> None:
    """Delete the row in the target."""
    world.target.query(DELETE, *key(member))


def demoted_by_hand(world: SharedPair, member: Membership) -> None:
    """Change the row in the target."""
    world.target.query(f"update trip_memberships set status = 'NO' {WHERE}", *key(member))


def withheld(world: SharedPair, member: Membership) -> None:
    """Withhold the member's trip in the target."""
    world.target.query(
        "insert into mirror.withheld (mapping, key, reason, epoch, fence)"
        " values ('trips', %s, 'Rejected', 0, 0)",
        [str(member.trip_id)],
    )


def with_another_auth_id(world: SharedPair, member: Membership) -> None:
    """Give the user another id in Auth."""
    world.target.query("delete from auth.users where id = %s", member.user_id)


@pytest.mark.parametrize(
    ("breaks", "step", "says", "remedy"),
    [
        (
            filtered_out,
            "primary",
            "does not satisfy the condition trip_memberships.deleted_at IS NULL",
            "change it",
        ),
        (
            without_its_trip,
            "primary",
            "does not satisfy the condition trips.deleted_at IS NULL",
            "change it",
        ),
        (inactive, "primary", "status is INACTIVE, and only ACTIVE counts", "change it"),
        (never_captured, "events", "Never captured", "mirror sync trip_memberships"),
        (pending, "events", "The change waits: 1 event(s)", "mirror drain"),
        (pending_by_scope, "events", "The change waits: 1 event(s)", "mirror drain"),
        (buried, "events", "event -1 is buried (target: a row was refused)", "mirror retry -1"),
        (promoted_without_an_event, "ledger", "Stale", "mirror sync trip_memberships"),
        (primary_went_back, "ledger", "went back in time", "mirror rebase"),
        (deleted_by_hand, "target row", "Missing", "mirror sync trip_memberships"),
        (demoted_by_hand, "target row", "edited by hand", "mirror sync trip_memberships"),
        (withheld, "ledger", "Withheld (Rejected): trips", "mirror sync trips"),
        (with_another_auth_id, "user", "the app's id is not Auth's", "mirror Auth's beside them"),
    ],
)
def test_the_step_that_breaks_is_named_first(
    world: SharedPair,
    breaks: Callable[[SharedPair, Membership], None],
    step: str,
    says: str,
    remedy: str,
) -> None:
    """Each case breaks one member's rows."""
    member = world.member()
    breaks(world, member)
    page = explained(world, member)
    # Delete the waiting events, so that no worker of another test mirrors them.
    world.primary.query("delete from mirror.outbox; delete from mirror.retries")
    assert first(page)[0] == step, page
    assert says in first(page)[1]
    assert page.first is not None
    assert remedy in str(page.first.remedy)
    assert page.exit_code == 1


USING = "using (trip_id = any((select mirror.my_trips('MEMBER'))::uuid[]))"
READ = f"for select to authenticated {USING}"


@pytest.mark.parametrize(
    ("breaks", "mends", "says"),
    [
        (
            f"alter table {table} disable row level security",
            f"alter table {table} enable row level security",
            f"{table}: row-level security is off",
        )
        for table in ("trip_memberships", "chat_messages")
    ]
    + [
        (
            "drop policy mirror_trips_read on chat_messages",
            f"create policy mirror_trips_read on chat_messages {READ}",
            "chat_messages: it has no policy for select",
        ),
        (
            "drop policy trip_memberships_read on trip_memberships",
            f"create policy trip_memberships_read on trip_memberships {READ}",
            "trip_memberships: it has no policy for select",
        ),
        (
            "alter policy mirror_trips_read on chat_messages using (false)",
            f"alter policy mirror_trips_read on chat_messages {USING}",
            "chat_messages: its policies refuse select, but the declarations allow it",
        ),
        (
            "revoke delete on chat_messages from authenticated",
            "grant delete on chat_messages to authenticated",
            "chat_messages: delete is not granted to authenticated",
        ),
        (
            "revoke execute on function mirror.my_trips(text) from authenticated",
            "grant execute on function mirror.my_trips(text) to authenticated",
            "mirror.my_trips('OWNER') does not answer as the row in the target says",
        ),
    ],
)
def test_a_broken_policy_or_helper_is_named(
    world: SharedPair, breaks: str, mends: str, says: str
) -> None:
    """Each case breaks the target's schema."""
    member = world.member()
    with world.broken(breaks, mends):
        page = explained(world, member)
    assert first(page) == ("decision", next(s.says for s in page.steps if says in s.says)), page
    assert explained(world, member).exit_code == 0


def message(world: SharedPair, member: Membership) -> UUID:
    """Return a message that another user wrote in the member's trip."""
    found: UUID = world.target.value(
        "insert into chat_messages (trip_id, sender_id, content) values (%s, %s, 'secret')"
        " returning id",
        member.trip_id,
        uuid4(),
    )
    return found


def ask(world: SharedPair, member: Membership, table: str, verb: str, **row: object) -> Explanation:
    """Explain a statement."""
    values = {name: str(value) for name, value in row.items()}
    return explain_table(world.drain, table, verb, values, str(member.user_id))


def test_a_statement_is_tried_and_undone(world: SharedPair) -> None:
    """The member reads, updates and deletes a message of their own and one of another user."""
    member = world.member()
    another_users = message(world, member)
    own = world.target.value(
        "insert into chat_messages (trip_id, sender_id, content) values (%s, %s, 'x') returning id",
        *key(member),
    )
    allowed = {
        (verb, which): ask(world, member, "chat_messages", verb, id=which).allowed
        for verb in ("select", "update", "delete")
        for which in (own, another_users)
    }
    assert allowed == {
        ("select", own): True,
        ("select", another_users): True,
        ("update", own): True,
        ("update", another_users): False,
        ("delete", own): True,
        ("delete", another_users): False,
    }
    page = ask(world, member, "chat_messages", "insert", trip_id=member.trip_id, content="y")
    assert page.allowed, page
    assert "by mirror_trips_insert" in page.steps[-1].says
    # A content may not be empty; PostgreSQL checks row-level security before that constraint.
    page = ask(world, member, "chat_messages", "insert", trip_id=member.trip_id, content="")
    assert "a constraint refuses this row [23514]" in page.steps[-1].says
    assert world.target.value("select count(*) from chat_messages") == 2
    # A statement that was tried does not change the rows that the next one finds.
    row = {"id": str(own)}
    tries = [AskStatement("public", "chat_messages", verb, row) for verb in ("delete", "select")]
    results = world.drain.target.ask(tries, [(str(member.user_id), [])])[0]
    assert [one.rows for one in results] == [1, 1]


def test_a_refused_statement_names_its_policies_and_follows_the_row(world: SharedPair) -> None:
    """A reaction to a message is refused after the user has left the trip."""
    member = world.member()
    another_users = message(world, member)
    page = ask(world, member, "chat_reactions", "insert", message_id=another_users, emoji="!")
    assert page.steps[-1].says == "chat_reactions: insert is allowed, by mirror_trips_insert."
    assert page.exit_code == 0
    page = ask(world, member, "chat_reactions", "update", message_id=another_users)
    assert page.steps[-1].says.endswith("update is refused; the guard does not declare it.")
    filtered_out(world, member)
    page = ask(world, member, "chat_reactions", "insert", message_id=another_users, emoji="!")
    assert first(page)[0] == "primary"
    assert page.steps[-1].says == "chat_reactions: insert is refused, by mirror_trips_insert."
    page = ask(world, member, "chat_messages", "select", id=uuid4())
    assert page.steps[-1].says == "chat_messages: there is no such row."


def test_only_the_columns_that_policies_need_are_read_of_a_row(world: SharedPair) -> None:
    """The text of a message is not read."""
    member = world.member()
    row = {"id": str(message(world, member))}
    asked = [AskStatement("public", "chat_messages", "select", row)]
    result = world.drain.target.ask(asked, [(str(member.user_id), [])])[0][0]
    assert set(result.row) == {"trip_id", "sender_id"}


def test_the_function_ask_reads_only_tables_of_the_api(world: SharedPair) -> None:
    """With a token of mirror_writer alone, a caller must not learn of other tables."""
    asked: list[Ask] = [
        AskStatement("auth", "users", "select", {"id": SOMEBODY}),
        AskRows("mirror", "mappings", "name"),
        AskRows("public", "chat_messages", "content"),
    ]
    results = world.drain.target.ask(asked, [(SOMEBODY, ["secret"])])[0]
    assert [one.exists for one in results] == [False, False, False]


def test_any_mirrored_row_can_be_explained(world: SharedPair) -> None:
    """It may be the name of a user in the same trip, or of a stranger."""
    member = world.member()
    stranger = world.member()
    users = registry["users"]
    page = explain_key(world.drain, users, (str(member.user_id),), str(member.user_id))
    assert (page.exit_code, page.steps[-1].says) == (0, "users: select is allowed, by users_read.")
    page = explain_key(world.drain, users, (str(stranger.user_id),), str(member.user_id))
    assert first(page) == ("decision", "users: select is refused, by users_read.")


def test_values_are_shown_on_demand_alone(world: SharedPair) -> None:
    """The e-mail address of a user is an example."""
    member = world.member()
    name = (str(member.user_id),)
    page = explain_key(world.drain, registry["users"], name, name[0])
    assert "@example.com" not in json.dumps(page.as_json())
    page = explain_key(world.drain, registry["users"], name, name[0], show_values=True)
    assert "@example.com" in json.dumps(page.as_json())


def test_a_revocation_without_an_event_is_named_as_over_grant(world: SharedPair) -> None:
    """The primary grants nothing; the fault is that the target still does."""
    member = world.member()
    world.change("deleted_at = now()", member)
    page = explained(world, member)
    assert (page.primary_grants, page.allowed) == (False, True)
    assert first(page)[0] == "ledger"


@pytest.fixture
def command(world: SharedPair, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs `mirror explain`."""
    monkeypatch.setenv("PRIMARY_DATABASE_URL", world.primary.url)
    monkeypatch.setenv("SUPABASE_DB_URL", world.target.url)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["explain", *arguments])

    return run


def test_the_command_prints_a_page(world: SharedPair, command: Callable[..., Result]) -> None:
    """It prints text or JSON."""
    member = world.member()
    trip, user = key(member)
    result = command(user, "--trip", trip)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "allowed")
    deleted_by_hand(world, member)
    result = command("--trip", trip, user)
    assert (result.exit_code, result.stdout.splitlines()[-2]) == (
        1,
        "refused; decisive step: target row",
    )
    result = command(f"--trip={trip}", user)
    assert result.exit_code == 1
    result = command(user, "--resource", f"trip:{trip}", "--json")
    assert json.loads(result.stdout)["first"] == "target row"
    result = command(user, "--mapping", "trip_memberships", "--key", f"{trip},{user}", "--json")
    assert json.loads(result.stdout)["first"] == "target row"
    result = command(
        user, "--table", "chat_messages", "--verb", "insert", "--row", f"trip_id={trip}", "--json"
    )
    assert json.loads(result.stdout)["first"] == "target row"


def test_an_allowed_user_is_told_what_else_is_wrong(
    world: SharedPair, command: Callable[..., Result]
) -> None:
    """Here a guarded table is missing; the last lines name it, and no step that refused."""
    member = world.member()
    trip, user = key(member)
    world.target.query("alter table chat_messages rename to hidden_messages")
    try:
        result = command(user, "--trip", trip)
    finally:
        world.target.query("alter table hidden_messages rename to chat_messages")
    assert (result.exit_code, result.stdout.splitlines()[-2:]) == (
        1,
        [
            "allowed, but something is wrong: chat_messages: the table does not exist.",
            "Create table chat_messages, or remove its guard from the registry.",
        ],
    )


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["nobody", "--trip", SOMEBODY], "USER must be the UUID"),
        ([SOMEBODY, "--trip", "7"], "expected a UUID"),
        ([SOMEBODY, "--trip"], "cannot parse"),
        ([SOMEBODY, SOMEBODY], "cannot parse"),
        (["--trip", SOMEBODY], "cannot parse"),
        ([SOMEBODY, "--trip", SOMEBODY, "--resource", "trip:7"], "one resource"),
        ([SOMEBODY], "--trip ID, --mapping with --key, --table, --channel or --file"),
        ([SOMEBODY, "--boat", SOMEBODY], "no access declaration for 'boat', only for trip"),
        ([SOMEBODY, "--mapping", "boats", "--key", "7"], "'boats' is not declared"),
        ([SOMEBODY, "--mapping", "trips"], "--mapping and --key need each other"),
        ([SOMEBODY, "--table", "boats", "--row", "id=7"], "neither a mapping nor a guard"),
        ([SOMEBODY, "--table", "chat_messages"], "--row column=value"),
        ([SOMEBODY, "--table", "chat_messages", "--row", "colour=7"], "has no column colour"),
        ([SOMEBODY, "--table", "chat_messages", "--row", "id=7"], "does not fit its column"),
        ([SOMEBODY, "--table", "chat_messages", "--row", "content=a"], "cannot be asked for by"),
        ([SOMEBODY, "--table", "chat_messages", "--verb", "insert", "--row", "x=7"], "no column x"),
    ],
)
def test_bad_input_is_named(
    command: Callable[..., Result], arguments: list[str], names: str
) -> None:
    """The exit code is 2."""
    error = command(*arguments).exception
    assert isinstance(error, UsageError), error
    assert names in str(error)


def test_a_login_that_may_not_act_as_users_is_an_error(
    world: SharedPair, target_cluster: PostgresCluster
) -> None:
    """A custom role with EXECUTE on the functions of the API."""
    name = world.target.url.rpartition("/")[2]
    admin = TestDatabase(target_cluster.url(name))
    admin.query("create role narrow login password 'narrow'")
    admin.query("grant mirror_writer to narrow")
    url = target_cluster.url(name, user="narrow", password="narrow")
    narrow = PostgresTarget(Database(url, role="target"))
    try:
        with pytest.raises(WrongKey, match="grant authenticated to narrow"):
            narrow.ask([AskHelper("my_trips", ("MEMBER",))], [(SOMEBODY, [])])
    finally:
        narrow.close()
        admin.query("drop role narrow")


def test_explain_works_over_rest(world: SharedPair, serve_api: ServeApi) -> None:
    """It runs with a secret key, and with a token of mirror_writer."""
    member = world.member()
    another_users = {"id": str(message(world, member))}
    api = serve_api(world.target)
    secret = {"supabase_secret_key": api.secret_key}
    writer = {
        "supabase_publishable_key": api.publishable_key,
        "writer_token": api.token(role="mirror_writer"),
    }
    for keys in (secret, writer):
        settings = load_settings(
            primary_database_url=world.primary.url, supabase_url=api.url, **keys
        )
        with closing(build_drain(settings, registry)) as drain:
            page = explain_resource(drain, TRIP, str(member.user_id), str(member.trip_id))
            assert page.exit_code == 0, page
            page = explain_table(
                drain, "chat_messages", "delete", another_users, str(member.user_id)
            )
            assert (page.allowed, page.steps[-1].status) == (False, StepStatus.NO)
            # The connection has its own role again.
            assert drain.target.describe().epoch == 0
