"""The doctor finds nothing in a healthy stack, and exactly the fault in a broken one."""

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg
import pytest
import typer
from psycopg import errors
from sqlalchemy import column, select, table

from mappings.trips import registry
from mirror.access import Folder, Folders, Guard
from mirror.cli.doctor import doctor
from mirror.devstack import PostgresCluster, SupabaseLite
from mirror.diagnostics.doctor import CHECKS, Limits, Severity, diagnose
from mirror.diagnostics.doctor.diagnosis import check_all
from mirror.diagnostics.doctor.findings import Finding
from mirror.diagnostics.doctor.primary_state import PrimaryState, read_columns
from mirror.diagnostics.doctor.source_columns import check_columns
from mirror.diagnostics.doctor.system_state import SystemState
from mirror.diagnostics.figures import read_figures
from mirror.errors import ConfigError
from mirror.model.mapping import Column, Mapping, Readable
from mirror.model.registry import Registry
from mirror.settings import load_settings
from mirror.sync.wiring import build_source
from tests.support.databases import TestDatabase
from tests.support.doctor_faults import PRIMARY, TARGET, Fault
from tests.support.doctor_pair import DoctorPair
from tests.support.rest import ServeApi
from tests.support.transaction_pooler import TransactionPooler

NOWHERE = "postgresql://someone:hunter2@127.0.0.1:9/nothing"


def exactly(clinic: DoctorPair, broken: Fault) -> None:
    """Assert that the doctor finds only this fault, names the object, and gives a remedy."""
    found = clinic.diagnose().findings
    assert [one.code for one in found] == [broken.code], found
    assert broken.named in found[0].what, found
    assert found[0].remedy


def test_a_healthy_stack_has_no_finding(clinic: DoctorPair) -> None:
    """Rows, triggers and guards are mirrored; every part is at work, notifications arrive."""
    assert clinic.diagnose(primary_listen_url=clinic.primary.url).findings == []


@pytest.mark.parametrize("broken", PRIMARY, ids=str)
def test_a_fault_of_the_primary_is_found_alone(clinic: DoctorPair, broken: Fault) -> None:
    """One fault gives one finding."""
    clinic.break_primary(broken.script)
    exactly(clinic, broken)


@pytest.mark.parametrize("broken", TARGET, ids=str)
def test_a_fault_of_the_target_is_found_alone(clinic: DoctorPair, broken: Fault) -> None:
    """One fault gives one finding."""
    clinic.break_target(broken.script)
    exactly(clinic, broken)


def test_a_table_that_has_become_small_is_not_called_large(clinic: DoctorPair) -> None:
    """A vacuum cuts off its empty pages before it writes how many rows are left."""
    clinic.break_primary(
        """
        update pg_class set reltuples = 1000000, relpages = 10000 where oid = 'users'::regclass
        """
    )
    assert clinic.codes() == []


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("setting-missing", {"primary_database_url": None}),
    ("setting-missing", {"supabase_db_url": None}),
    ("setting-missing", {"target": "rest", "supabase_url": "http://127.0.0.1:9"}),
    ("setting-malformed", {"reconcile_cron": "61 3 * * *"}),
    ("redis-not-set", {"redis_url": None}),
    ("broker-unreachable", {"redis_url": "redis://:hunter2@127.0.0.1:9/0"}),
    ("primary-unreachable", {"primary_database_url": NOWHERE}),
    ("target-unreachable", {"supabase_db_url": NOWHERE}),
    ("listen-deaf", {"primary_listen_url": NOWHERE}),
    (
        "key-kind",
        {
            "target": "rest",
            "supabase_url": "http://127.0.0.1:9",
            "supabase_secret_key": "sb_publishable_x",
        },
    ),
]


@pytest.mark.parametrize(("code", "changes"), SETTINGS)
def test_a_setting_that_leads_nowhere_is_found_alone(
    clinic: DoctorPair, code: str, changes: dict[str, Any]
) -> None:
    """The doctor examines the other side all the same, and shows no secret."""
    diagnosis = clinic.diagnose(**changes)
    assert [found.code for found in diagnosis.findings] == [code]
    is_error = CHECKS[code].severity is Severity.ERROR
    assert diagnosis.exit_code == (4 if code.endswith("-unreachable") else int(is_error))
    assert "hunter2" not in str(diagnosis)


def test_checks_of_one_side_go_on_while_the_other_is_away(clinic: DoctorPair) -> None:
    """An unreachable target does not hide faults of the primary, nor the reverse."""
    clinic.break_primary("alter table users disable trigger mirror_trips_update")
    assert clinic.codes(supabase_db_url=NOWHERE) == ["target-unreachable", "trigger-missing"]
    clinic.break_target("alter table trips disable row level security")
    assert clinic.codes(primary_database_url=NOWHERE) == ["primary-unreachable", "rls-off"]


def test_notifications_that_a_pooler_swallows_are_a_finding(clinic: DoctorPair) -> None:
    """A transaction pooler accepts LISTEN and delivers nothing."""
    with TransactionPooler(clinic.primary.url) as pooler:
        limits = Limits(notification_seconds=0.05)
        assert clinic.codes(limits, primary_listen_url=pooler.url) == ["listen-deaf"]


def test_a_transaction_that_is_held_open_is_found(clinic: DoctorPair) -> None:
    """The remedy ends the transaction; one that holds nothing back is no finding."""
    with psycopg.connect(clinic.primary.url) as holding:
        holding.execute("select 1")
        assert clinic.codes(Limits(open_seconds=0)) == []
        holding.execute("insert into mirror.heartbeats (name) values ('held')")
        (found,) = clinic.diagnose(Limits(open_seconds=0)).findings
        assert found.code == "transaction-open"
        assert f"pg_terminate_backend({holding.info.backend_pid})" in found.remedy
        assert clinic.codes() == []
        holding.rollback()


def test_an_engine_that_is_older_than_the_doctor_is_only_behind(clinic: DoctorPair) -> None:
    """It lacks the function that the doctor calls; the primary is examined all the same."""
    clinic.break_target(
        "drop function mirror_examine(text);"
        " update mirror.migrations set checksum = 'x' where name = '0001_engine'"
    )
    assert clinic.codes() == ["target-behind"]


def test_facts_that_an_older_engine_does_not_report_are_not_judged(clinic: DoctorPair) -> None:
    """Its function lacks them."""
    settings = clinic.settings()
    with closing(clinic.build_source(settings)) as source:
        target = clinic.build_target(settings)
        figures = read_figures(settings, registry, source, target)
    catalog = target.examine([f"public.{mapping.table}" for mapping in registry], ["uuid", "text"])
    target.close()
    for found_table in catalog["tables"].values():
        assert found_table is not None
        del found_table["filtered"], found_table["obstacles"], found_table["inheritance"]
        for found_column in found_table["columns"].values():
            del found_column["generated"]
    facts = SystemState(figures=figures, catalog=catalog)
    found = list(check_all(facts, clinic.settings(), registry, Limits()))
    assert {one.code for one in found} <= {"table-missing"}


def test_a_primary_that_is_older_than_the_doctor_is_only_behind(clinic: DoctorPair) -> None:
    """It lacks the tables that later versions added."""
    clinic.break_primary(
        "drop table mirror.heartbeats, mirror.runs;"
        " drop function mirror.claim_events, mirror.read_stamp;"
        " delete from mirror.migrations where name ~ '^000[2-9]'"
    )
    assert clinic.codes() == ["primary-behind"]


def server(**facts: object) -> SystemState:
    """Return the state of a server that the tests cannot start."""
    primary = replace(PrimaryState(version=160_000), **facts)  # type: ignore[arg-type]
    return SystemState(primary=primary)


UNREAL = [
    ("primary-version", server(version=130_000)),
    ("primary-replica", server(replica=True)),
    ("clock-skew", server(skew_seconds=-45.0)),
]


@pytest.mark.parametrize(("code", "facts"), UNREAL)
def test_states_that_no_test_server_has_are_judged(
    clinic: DoctorPair, code: str, facts: SystemState
) -> None:
    """Its version is too old, it is a standby, or its clock differs."""
    found = list(check_all(facts, clinic.settings(), registry, Limits()))
    assert [one.code for one in found] == [code]


def test_an_old_project_is_found(clinic: DoctorPair) -> None:
    """The server's version decides."""
    settings = clinic.settings()
    with closing(clinic.build_source(settings)) as source:
        target = clinic.build_target(settings)
        figures = read_figures(settings, registry, source, target)
    tables = [f"public.{mapping.table}" for mapping in registry]
    guarded = [".".join(guard.relation) for guard in registry.guards]
    catalog = target.examine([*tables, *guarded], ["uuid", "text"])
    target.close()
    catalog["version"] = 140_000
    facts = SystemState(figures=figures, catalog=catalog)
    found = list(check_all(facts, clinic.settings(), registry, Limits()))
    assert [one.code for one in found] == ["target-version"]


@pytest.mark.parametrize(
    ("type_", "codes"),
    [("timestamptz", []), ("timestamp", ["expires-zone"]), ("date", ["expires-zone"])],
)
def test_an_expiry_that_has_no_time_zone_in_the_primary_is_found(
    primary: TestDatabase, type_: str, codes: list[str]
) -> None:
    """SQLAlchemy does not know the column's type; the server does."""
    primary.query(f"create table passes (id text primary key, until {type_})")
    passes = Mapping(
        name="passes",
        table="passes",
        key=("id",),
        columns=(Column("id", "text"), Column("until", "timestamptz")),
        query=select(table("passes", column("id"), column("until"))),
        expires="until",
    )
    model = Registry("passes", [passes])
    state = PrimaryState()
    with closing(build_source(load_settings(primary_database_url=primary.url))) as source:
        read_columns(state, source, model)
    found = list(check_columns(state, model))
    assert [one.code for one in found] == codes
    for one in found:
        assert "until" in one.what
        assert "until AT TIME ZONE 'UTC'" in one.remedy


def test_over_rest_the_same_is_examined(clinic: DoctorPair, serve_api: ServeApi) -> None:
    """A healthy project, a broken one, and keys that are refused or will soon expire."""
    api: SupabaseLite = serve_api(clinic.target)
    told: dict[str, Any] = {"target": "rest", "supabase_url": api.url}
    day = 86_400
    writer: dict[str, Any] = {
        "supabase_publishable_key": api.publishable_key,
        "writer_token": api.token(role="mirror_writer", exp=time.time() + 90 * day),
    }
    assert clinic.codes(**told, **writer) == []
    soon = api.token(role="service_role", exp=time.time() + 3 * day)
    assert clinic.codes(**told, supabase_secret_key=soon) == ["key-expiring"]
    other = "sb_secret_of_another_project"
    assert clinic.codes(**told, supabase_secret_key=other) == ["key-refused"]
    writer["supabase_publishable_key"] = api.secret_key
    assert clinic.codes(**told, **writer) == ["key-kind"]
    clinic.target.query("grant insert on trips to anon")
    assert clinic.codes(**told, supabase_secret_key=api.secret_key) == ["grant-excess"]
    clinic.target.query("revoke insert on trips from anon")


def test_an_api_that_has_not_noticed_a_migration_is_named(
    clinic: DoctorPair, serve_api: ServeApi
) -> None:
    """The function is in the database, but the API does not know it."""
    clinic.target.query("alter function mirror_examine(text) rename to elsewhere")
    api = serve_api(clinic.target)
    told: dict[str, Any] = {"target": "rest", "supabase_url": api.url}
    told["supabase_secret_key"] = api.secret_key
    assert clinic.codes(**told) == ["target-not-migrated"]
    clinic.target.query("alter function elsewhere(text) rename to mirror_examine")
    assert clinic.codes(**told) == ["api-stale"]


def test_a_policy_that_the_doctor_calls_recursive_is_refused_by_postgresql(
    clinic: DoctorPair,
) -> None:
    """The doctor's rule is the server's: each table with a finding fails, and no other table."""
    database = clinic.target
    for broken in [one for one in TARGET if one.code == "policy-recursive"]:
        with database.connect(autocommit=False) as connection:
            connection.execute(broken.script)
            connection.execute("set local role authenticated")
            with pytest.raises(errors.InvalidObjectDefinition, match="infinite recursion"):
                connection.execute("select from chat_messages")
            connection.rollback()
    chain = """
        create table diaries (trip_id uuid primary key);
        alter table diaries enable row level security;
        create policy written on diaries for select to authenticated using (true);
        create policy mine on diaries for insert to authenticated
        with check (exists (select from diaries as d where d.trip_id = diaries.trip_id));
        grant insert, select on diaries to authenticated;
        create policy thread on chat_messages as restrictive for select to authenticated
        using (exists (select from diaries as d where d.trip_id = chat_messages.trip_id))
    """
    clinic.break_target(chain)
    assert clinic.codes() == []
    with database.connect(autocommit=False) as connection:
        connection.execute(chain)
        connection.execute("set local role authenticated")
        connection.execute("select from chat_messages")
        connection.execute("insert into diaries select from chat_messages")
        connection.rollback()


OBSTACLES = [one for one in TARGET if one.code in {"write-altered", "write-refused"}]
REFERENCES = [one for one in TARGET if one.code == "reference-missing"]


@pytest.mark.parametrize("broken", OBSTACLES, ids=str)
def test_each_object_that_the_doctor_names_keeps_a_row_of_the_primary_out(
    clinic: DoctorPair, broken: Fault
) -> None:
    """Without the object the row arrives; with it the row is refused, dropped or altered."""
    row = ("00000000-0000-0000-0000-00000000000c", "a@example.com", "A")

    def arrives(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
        try:
            with connection.transaction():
                connection.execute(
                    "insert into users (id, email, username) values (%s, %s, %s)", row
                )
        except (errors.IntegrityError, errors.RaiseException):
            return False
        return row in connection.execute("select id::text, email, username from users").fetchall()

    with clinic.target.connect(autocommit=False) as connection:
        connection.execute("set constraints all immediate")
        assert arrives(connection)
        connection.execute("delete from users where id = %s", row[:1])
        connection.execute(broken.script.encode())
        assert not arrives(connection)
        connection.rollback()


@pytest.mark.parametrize("broken", [*OBSTACLES, *REFERENCES], ids=str)
def test_the_statement_of_a_remedy_can_be_run_as_it_is(clinic: DoctorPair, broken: Fault) -> None:
    """It removes an object that is in the way, or adds the foreign key that is missing."""
    clinic.break_target(broken.script)
    (found,) = clinic.diagnose().findings
    clinic.break_target(f"{broken.script}; {found.remedy.split('`')[1]}")
    assert clinic.codes() == []


def test_objects_that_refuse_nothing_are_no_findings(clinic: DoctorPair) -> None:
    """A unique index over the whole key and more, a disabled trigger, one for TRUNCATE alone."""
    clinic.break_target(
        """
        create unique index wide on users (email, id);
        create function refuse() returns trigger language plpgsql as $$
        begin
          raise exception 'refused';
        end
        $$;
        create trigger off before insert on users for each row execute function refuse();
        alter table users disable trigger off;
        create trigger emptied before truncate on users execute function refuse()
        """
    )
    assert clinic.codes() == []


def test_row_level_security_that_filters_the_mirror_itself_is_found(
    clinic: DoctorPair, target_cluster: PostgresCluster
) -> None:
    """FORCE alone does not: in a project, role postgres bypasses row-level security."""
    clinic.break_target("alter table users force row level security")
    assert clinic.codes() == []
    clinic.break_target(
        """
        alter table users force row level security;
        alter role postgres nobypassrls
        """,
        url=target_cluster.url("doctor_target"),
    )
    (found,) = clinic.diagnose().findings
    assert (found.code, "public.users" in found.what) == ("writer-filtered", True)


def test_a_public_bucket_of_a_guarded_folder_is_found(clinic: DoctorPair) -> None:
    """Storage asks no policy for a file of it; the remedy makes the bucket private."""
    folder = Folder(bucket="it's", path="trips/{id}", via="trip_memberships", read="MEMBER")
    guarded = Registry(
        "trips",
        list(registry),
        access=registry.access,
        guards=[*registry.guards, Folders(folders=(folder,))],
    )

    def found() -> list[Finding]:
        findings = diagnose(clinic.settings(), guarded).findings
        return [one for one in findings if one.code == "bucket-public"]

    buckets = """
        insert into storage.buckets (id, name, public)
        values ('it''s', 'it''s', true), ('others', 'others', true)
    """
    clinic.break_target(buckets)
    (one,) = found()
    assert "it's" in one.what
    clinic.break_target(f"{buckets}; {one.remedy.split('`')[1]}")
    assert found() == []
    clinic.break_target("drop table storage.objects, storage.buckets")
    assert found() == []


def test_a_variable_that_nothing_reads_is_found(
    clinic: DoctorPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no effect, so a setting is not as somebody believes."""
    monkeypatch.setenv("MIRROR_BATCH_SIZ", "7")
    (one,) = clinic.diagnose().findings
    assert (one.code, one.what) == (
        "setting-unknown",
        "MIRROR_BATCH_SIZ is no setting; is MIRROR_BATCH_SIZE meant?",
    )


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(
    clinic: DoctorPair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Return a function that runs the command and returns its exit code and output."""

    def run(*, as_json: bool = False, strict: bool = False, **changes: object) -> tuple[int, str]:
        settings = clinic.settings(**changes)
        monkeypatch.setattr("mirror.cli.doctor.load_settings", lambda: settings)
        with pytest.raises(typer.Exit) as ended:
            doctor(as_json=as_json, strict=strict)
        return ended.value.exit_code, capsys.readouterr().out

    return run


def test_the_exit_code_says_how_severe_the_findings_are(clinic: DoctorPair, run: Run) -> None:
    """0 if all is well, with a message, and for warnings; 1 for errors; 4 if no server answers."""
    assert run() == (0, "all is well\n")
    code, said = run(redis_url=None)
    assert (code, "warning redis-not-set" in said) == (0, True)
    assert run(redis_url=None, strict=True)[0] == 1
    assert run(primary_database_url=NOWHERE, supabase_db_url=NOWHERE)[0] == 4
    clinic.break_target("alter table trips disable row level security")
    code, said = run()
    assert code == 1
    assert said == (
        "error rls-off: public.trips: row-level security is off, so its policies have no effect\n"
        "  alter table public.trips enable row level security;\n"
    )


def test_json_holds_the_findings_of_the_page(clinic: DoctorPair, run: Run) -> None:
    """Each finding has its code, severity, description and remedy."""
    assert json.loads(run(as_json=True)[1]) == {"healthy": True, "findings": []}
    clinic.break_target("drop index trip_memberships_user_id")
    code, said = run(as_json=True)
    assert code == 0
    assert json.loads(said) == {
        "healthy": False,
        "findings": [
            {
                "code": "index-missing",
                "severity": "warning",
                "what": "public.trip_memberships (user_id) has no index, although rows are found "
                "by it",
                "remedy": "create index concurrently on public.trip_memberships (user_id);",
            }
        ],
    }


def test_without_any_database_it_is_a_usage_error(clinic: DoctorPair) -> None:
    """Missing URLs are a usage error, as for every command."""
    with pytest.raises(ConfigError, match="PRIMARY_DATABASE_URL is not set"):
        clinic.diagnose(primary_database_url=None, supabase_db_url=None)


def test_every_check_is_broken_here() -> None:
    """Each check must have been seen to find a fault."""
    broken = {one.code for one in (*PRIMARY, *TARGET)}
    broken |= {code for code, _ in (*SETTINGS, *UNREAL)}
    broken |= {"transaction-open", "target-version", "api-stale", "key-expiring", "key-refused"}
    broken |= {"expires-zone", "writer-filtered", "stale", "setting-unknown", "bucket-public"}
    assert broken == set(CHECKS)


def test_faults_that_a_migration_repairs_are_one_finding(clinic: DoctorPair) -> None:
    """Other declarations than the installed ones: one finding for the model, one for the guards."""
    (users,) = (mapping for mapping in registry if mapping.name == "users")
    readable = Readable(("id", "username", "email"), "false")
    others = [mapping for mapping in registry if mapping.name != "users"]
    diaries = Guard(table="diaries", via="trip_memberships", on="trip_id", read="MEMBER")
    changed = Registry(
        "trips",
        [replace(users, readable=readable, children=()), *others],
        access=registry.access,
        guards=[*registry.guards, diaries],
    )
    found = diagnose(clinic.settings(), changed).findings
    assert [one.code for one in found] == ["target-behind", "guards-behind"]
