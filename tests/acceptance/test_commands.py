"""The `mirror` command: its effects, its output and its exit codes."""

import json
import re
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy.orm import Session

from mappings.trips import registry
from mirror.hooks import Hooks
from mirror.schema.migrate import migrations
from tests.acceptance.conftest import Command
from tests.support.databases import SCHEMA, TestDatabase
from tests.support.factories import MembershipFactory

pytestmark = pytest.mark.usefixtures("no_environment")

NOWHERE = "postgresql://someone:hunter2@127.0.0.1:9/nothing"


@pytest.mark.parametrize(
    ("variables", "code", "message"),
    [
        ({"PRIMARY_DATABASE_URL": None}, 2, "PRIMARY_DATABASE_URL is not set"),
        ({"SUPABASE_DB_URL": None}, 2, "SUPABASE_DB_URL is not set"),
        ({"PRIMARY_DATABASE_URL": "mysql://me:hunter2@host/db"}, 2, "PRIMARY_DATABASE_URL"),
        ({"MIRROR_BATCH_SIZE": "many"}, 2, "MIRROR_BATCH_SIZE"),
        ({"MIRROR_MAPPINGS": "no.such.module"}, 2, "MIRROR_MAPPINGS"),
        ({"MIRROR_MAPPINGS": "json"}, 2, "holds no Registry"),
        ({"PRIMARY_DATABASE_URL": NOWHERE}, 4, "primary: the database cannot be reached"),
        ({"SUPABASE_DB_URL": NOWHERE}, 4, "target: the database cannot be reached"),
    ],
)
def test_bad_settings_are_named_and_secrets_are_not_told(
    mirror: Command, variables: dict[str, str | None], code: int, message: str
) -> None:
    """One line names the setting or the side, with the documented exit code and no password."""
    done = mirror("status", **variables)
    assert (done.code, message in done.err) == (code, True), done.text
    assert "hunter2" not in done.text


@pytest.mark.parametrize("part", ["primary", "target", "broker"])
def test_status_prints_what_it_knows_beside_what_it_cannot_read(mirror: Command, part: str) -> None:
    """The part that does not answer is unknown, never well; the others are there all the same."""
    variable, url = {
        "primary": ("PRIMARY_DATABASE_URL", NOWHERE),
        "target": ("SUPABASE_DB_URL", NOWHERE),
        "broker": ("REDIS_URL", "redis://:hunter2@127.0.0.1:9/0"),
    }[part]
    done = mirror("status", "--json", **{variable: url})
    found = json.loads(done.out)
    assert (done.code, found["healthy"]) == (4, False), done.text
    read = {name for name in ("primary", "target") if "identity" in found[name]}
    assert read == {"primary", "target"} - {part}
    assert list(found[part]) == ["unknown"]
    assert "hunter2" not in done.text

    done = mirror("status", **{variable: url})
    assert done.code == 4
    assert f"{part} " in done.out
    assert "unknown" in done.out


def test_unmigrated_databases_are_named_with_the_remedy(
    mirror: Command, project: TestDatabase, primary: TestDatabase
) -> None:
    """The error names the command that migrates this side."""
    done = mirror("status", SUPABASE_DB_URL=project.url)
    assert (done.code, "mirror migrate supabase" in done.err) == (4, True), done.text
    primary.query("drop schema mirror cascade")
    done = mirror("drain")
    assert (done.code, "mirror migrate primary" in done.err) == (4, True), done.text


@pytest.mark.parametrize(
    "arguments",
    [
        ["sing"],
        ["retry"],
        ["retry", "1", "--all"],
        ["migrate", "elsewhere"],
        ["drain", "--seconds"],
    ],
)
def test_wrong_usage_is_exit_code_2(mirror: Command, arguments: list[str]) -> None:
    """Every command line tool uses this code for wrong usage."""
    assert mirror(*arguments).code == 2


def test_migrate_says_what_it_would_do_then_does_it_then_finds_nothing(
    mirror: Command, project: TestDatabase
) -> None:
    """--dry-run prints all changes, has an exit code of its own, and changes nothing."""
    url = {"SUPABASE_DB_URL": project.url}
    done = mirror("migrate", "supabase", "--dry-run", **url)
    assert done.out.startswith("supabase: would apply 0001_engine, model_trips\n"), done.text
    assert "\n  create table public.trips\n" in done.out
    assert done.code == 5
    assert project.value("select to_regnamespace('mirror')") is None
    done = mirror("migrate", **url)
    assert done.out.startswith("primary: up to date\nsupabase: applied 0001_engine, model_trips\n")
    assert "then 2. run `mirror reconcile`" in done.out
    for arguments in ((), ("--dry-run",)):
        done = mirror("migrate", *arguments, **url)
        assert (done.code, done.out) == (0, "primary: up to date\nsupabase: up to date\n")
    done = mirror("migrate", "--prune", "--yes", **url)
    assert (done.code, done.out) == (0, "supabase: nothing to prune\n")


def test_what_is_not_declared_any_more_is_dropped_after_a_look(
    mirror: Command, target: TestDatabase
) -> None:
    """The command prints, and asks; it names an object that needs what would go."""
    target.query("alter table trips add place text")
    target.query(
        "insert into mirror.leftovers (model, kind, name, col)"
        " values ('trips', 'column', 'public.trips', 'place')"
    )
    done = mirror("migrate", "--prune", "--dry-run")
    statement = "alter table public.trips drop column place;"
    assert (done.code, statement in done.out) == (5, True), done.text
    done = mirror("migrate", "--prune")
    assert (done.code, statement in done.out) == (1, True), "nobody said yes"
    target.query("create view places as select place from trips")
    done = mirror("migrate", "--prune", "--yes")
    assert (done.code, "view places depends on column place" in done.err) == (4, True), done.text
    target.query("drop view places")
    done = mirror("migrate", "--prune", "--yes")
    assert (done.code, done.out.endswith("supabase: pruned\n")) == (0, True), done.text
    assert mirror("migrate", "--prune").out == "supabase: nothing to prune\n"
    for arguments in (["primary", "--prune"], ["--prune", "--sql"], ["--yes"]):
        assert mirror("migrate", *arguments).code == 2


def test_migrate_prints_sql_that_psql_can_run_and_connects_to_nothing(
    mirror: Command, project: TestDatabase
) -> None:
    """A user pastes the printed SQL into the SQL editor; a later migration recognises its steps."""
    done = mirror("migrate", "supabase", "--sql", SUPABASE_DB_URL=None, PRIMARY_DATABASE_URL=None)
    assert done.code == 0, done.text
    project.query(done.out)
    done = mirror("migrate", "supabase", SUPABASE_DB_URL=project.url)
    assert done.out == "supabase: up to date\n", done.text


def test_migrate_writes_files_for_the_supabase_cli(mirror: Command, tmp_path: Path) -> None:
    """The first call writes the files; a second call finds nothing new to write."""
    folder = tmp_path / "supabase" / "migrations"
    assert mirror("migrate", "supabase", "--into", str(folder)).code == 0
    names = sorted(path.name[14:] for path in folder.iterdir())
    assert names == ["_mirror_0001_engine.sql", "_mirror_model_trips.sql"]
    assert mirror("migrate", "supabase", "--into", str(folder)).out.endswith("up to date\n")
    (tmp_path / "file").touch()
    done = mirror("migrate", "supabase", "--into", str(tmp_path / "file"))
    assert (done.code, "cannot be written" in done.err) == (2, True)
    assert mirror("migrate", "primary", "--into", str(folder)).code == 2


def test_guards_are_asked_for_once_the_tables_are_there(
    mirror: Command, project: TestDatabase, tmp_path: Path
) -> None:
    """--guards names a missing table; else it installs, prints or writes; later runs update."""
    url = {"SUPABASE_DB_URL": project.url}
    assert mirror("migrate", "supabase", **url).code == 0
    done = mirror("migrate", "supabase", "--guards", **url)
    assert (done.code, "guarded table public.chat_messages does not exist" in done.err) == (4, True)
    project.query(SCHEMA.read_text())
    done = mirror("migrate", "supabase", "--guards", "--dry-run", **url)
    assert (done.code, done.out.split("\n")[0]) == (5, "supabase: would apply guards_trips")
    assert "create policy mirror_trips_read on public.chat_messages" in done.out
    done = mirror("migrate", "supabase", "--guards", **url)
    assert done.out == "supabase: applied guards_trips\n", done.text
    # This project has no Realtime, so a part of the guards has no table yet.
    warning = "supabase: warning: realtime.messages does not exist, so no channel is guarded"
    assert done.err.startswith(warning), done.text
    assert mirror("migrate", "supabase", **url).out == "supabase: up to date\n"

    printed = mirror("ddl", "supabase", "--guards", SUPABASE_DB_URL=None)
    assert printed.out == migrations("supabase", registry, guards=True)[-1].sql
    project.query(printed.out)
    folder = str(tmp_path)
    assert mirror("migrate", "supabase", "--into", folder, "--guards").code == 0
    assert len(list(tmp_path.glob("*_mirror_guards_trips.sql"))) == 1
    assert mirror("migrate", "supabase", "--into", folder).out.endswith("up to date\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["migrate", "primary", "--guards"],
        ["migrate", "primary", "--into", "files", "--guards"],
        ["ddl", "primary", "--guards"],
        ["ddl", "supabase", "--guards", "--remove"],
    ],
)
def test_guards_belong_to_the_target(mirror: Command, arguments: list[str]) -> None:
    """With the primary, or with --remove, --guards is a usage error."""
    assert mirror(*arguments).code == 2


def test_resync_and_drain_load_an_empty_target(
    mirror: Command, session: Session, target: TestDatabase
) -> None:
    """Rows that no hook ever recorded reach the target."""
    members = MembershipFactory.create_batch(7)
    session.commit()
    assert mirror("resync").out.startswith("recorded as changed: ")
    done = mirror("drain", MIRROR_BATCH_SIZE="3")
    assert done.code == 0, done.text
    assert target.value("select count(*) from trip_memberships") == len(members)
    assert mirror("resync", "journeys").code == 2


def test_resync_refuses_to_empty_the_target_unless_it_is_confirmed(
    mirror: Command, session: Session, primary: TestDatabase, target: TestDatabase
) -> None:
    """A primary that was emptied by mistake is no truth; nothing is recorded, for any mapping."""
    MembershipFactory.create_batch(3)
    session.commit()
    mirror("resync")
    mirror("drain")
    primary.query("truncate trip_memberships")
    done = mirror("resync")
    assert done.code == 3, done.text
    assert "mirror resync --confirm trip_memberships" in done.err
    assert primary.value("select count(*) from mirror.outbox") == 0
    assert mirror("resync", "users").code == 0
    assert mirror("resync", "trip_memberships").code == 3
    assert mirror("resync", "--confirm", "trip_memberships").code == 0
    assert mirror("drain").code == 0
    assert target.value("select count(*) from trip_memberships") == 0


def test_status_shows_what_waits_and_what_is_buried(
    mirror: Command, primary: TestDatabase, session: Session, recorder: Hooks
) -> None:
    """A backlog is healthy; a buried event is not, until `mirror retry`."""
    member = MembershipFactory()
    session.flush()
    recorder.changed(session, "trip_memberships", (member.trip_id, member.user_id))
    session.commit()
    done = mirror("status", "--json")
    found = json.loads(done.out)
    assert (done.code, found["healthy"], found["faults"]) == (0, True, {}), done.text
    (waiting,) = found["primary"]["waiting"]
    assert (waiting["mapping"], waiting["lane"], waiting["events"]) == (
        "trip_memberships",
        "revocation",
        1,
    )

    primary.query("insert into mirror.outbox (lane, mapping, key) values (0, 'users', '{1}')")
    assert mirror("drain", MIRROR_MAX_ATTEMPTS="1").code == 1
    done = mirror("status")
    assert done.code == 1
    assert "1 buried" in done.out
    assert "(users, revocation) buried" in done.out

    primary.query("update mirror.retries set key = array[%s]", str(uuid4()))
    assert mirror("retry", "999").code == 1
    assert mirror("retry", "--all").out.startswith("1 event(s)")
    assert mirror("drain").code == 0
    assert mirror("status").code == 0


def test_an_event_that_can_never_succeed_is_discarded(
    mirror: Command, primary: TestDatabase
) -> None:
    """A key that does not fit would keep `status` at exit code 1 for ever."""
    primary.query(
        "insert into mirror.outbox (id, mapping, key) overriding system value"
        " values (77, 'users', '{ada}')"
    )
    assert mirror("drain", MIRROR_MAX_ATTEMPTS="1").code == 1
    assert mirror("status").code == 1
    done = mirror("status", "77")
    assert (done.code, "mirror discard 77" in done.out) == (1, True), done.text
    assert json.loads(mirror("status", "77", "--json").out)["event"]["key"] == ["ada"]
    done = mirror("discard", "77", "78")
    assert done.code == 1
    assert "77 users (ada)" in done.out
    assert primary.value("select count(*) from mirror.retries") == 1, "nobody said yes"
    done = mirror("discard", "77", "78", "--yes")
    assert (done.code, "not set apart: 78" in done.err) == (1, True)
    assert mirror("discard", "77", "--yes").code == 1
    done = mirror("status", "77")
    assert (done.code, "neither waits nor is set apart" in done.err) == (2, True), done.text
    assert mirror("status").code == 0


HOSTILE = "users\x1b[2J\x1b]0;owned\x07\r\nall is well \u202egnp\u2066\x9b31m [bold]:smile:[/x]"
"""A name that clears a screen, poses as a line, turns others around, and looks like markup."""


@pytest.mark.parametrize(
    ("mapping", "reference", "key"),
    [
        (HOSTILE + "x" * 1_000_000, None, "x"),
        ("trip_memberships", HOSTILE, "x"),
        ("users", None, HOSTILE),
    ],
)
def test_no_text_of_an_event_can_act_on_the_terminal(
    mirror: Command, primary: TestDatabase, mapping: str, reference: str | None, key: str
) -> None:
    """A backend's role may write any text into the outbox; an operator reads it."""
    primary.query(
        "insert into mirror.outbox (id, mapping, reference, key) overriding system value"
        " values (77, %s, %s, array[%s])",
        mapping,
        reference,
        key,
    )
    for arguments in (["drain"], ["status"], ["status", "77"], ["doctor"], ["discard", "77"]):
        done = mirror(*arguments, MIRROR_MAX_ATTEMPTS="1")
        assert len(done.text) < 20_000, arguments
        assert all(line.isprintable() for line in done.text.split("\n")), (arguments, done.text)
        assert not re.search("^all is well", done.text, re.MULTILINE), (arguments, done.text)
    assert len(primary.value("select error from mirror.retries")) < 3000
    found = json.loads(mirror("status", "77", "--json").out)["event"]
    assert (found["mapping"], found["reference"], found["key"]) == (mapping, reference, [key])


def test_an_error_that_looks_like_markup_is_printed_as_it_is(mirror: Command) -> None:
    """A tag that ends nothing would end the command with a traceback."""
    done = mirror("verify", "[/x][bold]users", MIRROR_MAPPINGS="mappings")
    assert (done.code, "[/x][bold]users" in done.err) == (2, True), done.text


def test_rebase_accepts_a_primary_that_moved(
    mirror: Command, session: Session, primary: TestDatabase, target: TestDatabase
) -> None:
    """The drain refuses until a user runs `mirror rebase`; after it both sides are equal."""
    member = MembershipFactory()
    session.commit()
    mirror("resync")
    assert mirror("drain").code == 0
    primary.query("delete from trip_memberships where user_id = %s", member.user_id)
    primary.query("update mirror.pairing set step = 0, token = gen_random_uuid(), base = null")
    primary.query("update mirror.pairing set acked = false")
    mirror("resync", "--confirm", "trip_memberships")

    done = mirror("drain")
    assert (done.code, "mirror rebase" in done.err) == (1, True), done.text
    assert target.value("select count(*) from trip_memberships") == 1
    done = mirror("status")
    assert (done.code, "mirror rebase" in done.out) == (1, True)
    assert mirror("rebase").code == 1  # no terminal to confirm on
    done = mirror("rebase", "--yes")
    assert (done.code, "--force" in done.err) == (2, True), "the drain was a worker"

    done = mirror("rebase", "--yes", "--force")
    assert done.out.startswith("epoch 1;"), done.text
    assert mirror("drain").code == 0
    assert target.value("select count(*) from trip_memberships") == 0
    assert mirror("status").code == 0


def test_purge_reports_what_it_forgot(
    mirror: Command, primary: TestDatabase, target: TestDatabase
) -> None:
    """Only tombstones older than the given age are purged."""
    primary.query(
        "insert into mirror.outbox (lane, mapping, key) values (0, 'users', array[%s])",
        str(uuid4()),
    )
    assert mirror("drain").code == 0
    assert mirror("purge").out.startswith("0 tombstone(s)")
    target.query("update mirror.ledger_users set applied_at = now() - interval '8 days'")
    assert mirror("purge").code == 0
    assert target.value("select count(*) from mirror.ledger_users") == 0


def test_triggers_are_installed_kept_up_to_date_and_taken_away(
    mirror: Command, primary: TestDatabase
) -> None:
    """The runner installs them, or a user pastes the printed SQL."""
    assert mirror("migrate", "primary", "--triggers").out == "primary: applied triggers_trips\n"
    assert mirror("migrate", "primary").out == "primary: up to date\n"
    counted = "select count(*) from pg_trigger where tgname like 'mirror\\_trips\\_%'"
    assert primary.value(counted) == 12
    printed = mirror("ddl", "primary", "--remove", PRIMARY_DATABASE_URL=None)
    assert printed.code == 0
    primary.query(printed.out)
    assert primary.value(counted) == 0
    primary.query(mirror("ddl", "primary", PRIMARY_DATABASE_URL=None).out)
    assert primary.value(counted) == 12


def test_a_table_that_triggers_cannot_watch_is_named(
    mirror: Command, primary: TestDatabase
) -> None:
    """The error has the remedy, and no trigger is installed."""
    primary.query("alter table trip_memberships rename to memberships")
    done = mirror("migrate", "primary", "--triggers")
    assert done.code == 4
    assert "table trip_memberships, which does not exist here" in done.err
    assert primary.value("select count(*) from mirror.migrations") == len(migrations("primary"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["migrate", "supabase", "--triggers"],
        ["migrate", "supabase", "--into", "files", "--triggers"],
        ["ddl", "both"],
        ["ddl", "supabase", "--remove"],
    ],
)
def test_triggers_belong_to_the_primary(mirror: Command, arguments: list[str]) -> None:
    """With the target, --triggers is a usage error."""
    assert mirror(*arguments).code == 2
