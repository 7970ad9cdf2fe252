"""Migrations as text: their checksums, how they are split, which files the Supabase CLI gets."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mappings.trips import registry
from mirror.cli.app import app
from mirror.errors import MappingError
from mirror.schema.cli_files import write_files
from mirror.schema.migrate import Migration, directory, migrations
from mirror.schema.quoting import identifier
from mirror.schema.running import statements

NOW = datetime(2026, 3, 1, 12, 0, 58, tzinfo=UTC)
STEPS = [Migration("0001_engine", "select 1;\n"), Migration("model_trips", "select 2;\n")]


# The checksums that deployed databases hold for the hand-written migrations.
CHECKSUMS = {
    "0001_outbox": "9a96b8a1cfb94d24",
    "0002_runs": "720219b9ef0ca37b",
    "0003_heartbeats": "8fa76498fde8b00d",
    "0004_claims": "300d31726399520c",
    "0005_outbox_rights": "9c5f45094b613709",
    "0006_withheld": "85053be634ae1a8a",
    "0007_pairing": "d74993b90253b388",
    "0008_prepared_transactions": "2e995bafd4114359",
    "0009_receipts": "04cb5f356890fbdd",
    "0010_structures": "dd7117b5e3180def",
    "0011_history": "d71fe76b2ad6dc1a",
    "0012_read_ahead": "6e8024a88a990dd5",
    "0013_add_history": "f4082c77ac1d9a80",
    "0014_claim_next": "5a3cc13d3f1e2aad",
    "0001_engine": "4ec27561877cce3f",
}


def test_hand_written_migrations_keep_the_checksums_that_databases_know() -> None:
    """A new checksum makes `mirror migrate` run the file again on every deployed database."""
    steps = migrations("primary") + migrations("supabase", registry)[:1]
    assert {step.name: step.checksum for step in steps} == CHECKSUMS


def test_the_golden_files_are_what_the_declarations_print() -> None:
    """A change of what is printed shows in a diff of the trips model and of its guards."""
    root = directory().parent
    files = ("migrations/supabase/0002_trips.sql", "examples/trip_chat/guards.sql")
    for file, step in zip(files, migrations("supabase", registry, guards=True)[1:], strict=True):
        printed = (root / file).read_text(encoding="utf-8")
        assert printed == step.sql, "run `make model` and read the diff"


def test_the_command_that_refreshes_the_model_prints_the_model() -> None:
    """`make model` runs it."""
    printed = CliRunner().invoke(app, ["ddl", "supabase"])
    assert printed.stdout == migrations("supabase", registry)[-1].sql


def test_the_runner_takes_the_model_from_the_registry_alone() -> None:
    """The checked-in file is not a second migration."""
    assert [step.name for step in migrations("supabase", registry)] == [
        "0001_engine",
        "model_trips",
    ]


def test_a_script_is_split_where_statements_end_and_nowhere_else() -> None:
    """Semicolons in strings, names, comments and function bodies do not end a statement."""
    script = """\
-- one; two
select ';''', "a;b"; /* ; */
create function f() returns text language sql as $body$ select $$;$$; $body$;
select 3"""
    assert list(statements(script)) == [
        "-- one; two\nselect ';''', \"a;b\";",
        "/* ; */\ncreate function f() returns text language sql as $body$ select $$;$$; $body$;",
        "select 3",
    ]


def test_every_migration_splits_without_remainder() -> None:
    """The joined statements are the whole script."""
    for step in migrations("primary") + migrations("supabase", registry):
        parts = list(statements(step.script))
        assert "".join("".join(parts).split()) == "".join(step.script.split())
        assert all(part.endswith(";") for part in parts)


def test_files_for_the_cli_have_newer_versions_than_existing_files(tmp_path: Path) -> None:
    """The CLI refuses to push a file whose version is older than an applied one."""
    (tmp_path / "20260301120059_chat.sql").write_text("")
    (tmp_path / "notes.sql").write_text("")
    assert [path.name for path in write_files(tmp_path, STEPS, now=NOW)] == [
        "20260301120060_mirror_0001_engine.sql",
        "20260301120061_mirror_model_trips.sql",
    ]


def test_files_are_stamped_with_the_time_if_no_file_is_newer(tmp_path: Path) -> None:
    """The directory is created; old files, and versions that are not times, do not matter."""
    into = tmp_path / "supabase" / "migrations"
    into.mkdir(parents=True)
    (into / "0001_init.sql").write_text("")
    (into / "20259999999999_odd.sql").write_text("")
    assert [path.name for path in write_files(into, STEPS, now=NOW)] == [
        "20260301120058_mirror_0001_engine.sql",
        "20260301120059_mirror_model_trips.sql",
    ]


def test_writing_again_writes_only_changed_files(tmp_path: Path) -> None:
    """The old file stays, because it may be pushed already; the new text gets a newer version."""
    write_files(tmp_path, STEPS, now=NOW)
    before = sorted(tmp_path.iterdir())
    assert write_files(tmp_path, STEPS, now=NOW) == []
    assert sorted(tmp_path.iterdir()) == before

    changed = [STEPS[0], Migration("model_trips", "select 3;\n")]
    (written,) = write_files(tmp_path, changed, now=NOW)
    assert written.name == "20260301120060_mirror_model_trips.sql"
    assert sorted(tmp_path.iterdir()) == [*before, written]
    assert write_files(tmp_path, changed, now=NOW) == []


def test_a_script_enters_itself_into_the_history() -> None:
    """`upgrade` recognises it, even if the CLI pushed it or a user pasted it."""
    step = STEPS[0]
    assert step.script.startswith(step.sql)
    assert f"('{step.name}', '{step.checksum}')" in step.script.replace("values ", "")


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("trips", "trips"),
        ("Trips", '"Trips"'),
        ("order", '"order"'),
        ("lateral", '"lateral"'),
        ("a%b", '"a%b"'),
        ('a"; drop table x; --', '"a""; drop table x; --"'),
    ],
)
def test_names_are_quoted_where_postgresql_needs_it(name: str, quoted: str) -> None:
    """Reserved words, upper case, and characters that would end the name."""
    assert identifier(name) == quoted


def test_a_name_that_postgresql_would_cut_is_refused() -> None:
    """Two functions whose names are cut to the same name would be one."""
    assert identifier("x" * 63) == "x" * 63
    with pytest.raises(MappingError, match="63 bytes"):
        identifier("mirror", "ä" * 32)
