"""A table that existed before the mirror: a resync checks its rows like all others."""

from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from mirror.sync.wiring import build_drain
from tests.faults import teams
from tests.faults.tools import record
from tests.support.databases import TestDatabase

EXISTING = """
    create table folders (id bigint primary key, name text);
    create table documents (
      id bigint primary key,
      folder_id bigint references folders on delete cascade,
      title text
    );
    create table seats (id bigint primary key, person text);
    insert into folders values (1, 'old name'), (9, 'ghost');
    insert into documents values (11, 1, 'real'), (12, 1, 'ghost'), (91, 9, 'ghost');
    insert into seats values (5, 'ghost');
"""


def migrate(target: TestDatabase, registry: Registry) -> None:
    """Upgrade the target to a model."""
    with target.migrating() as connection:
        upgrade(connection, "supabase", registry)


def resync(primary: TestDatabase, target: TestDatabase, registry: Registry) -> None:
    """Read every mapping again."""
    for mapping in registry:
        record(primary, mapping.name, reference="*")
    drain = build_drain(
        load_settings(primary_database_url=primary.url, supabase_db_url=target.url), registry
    )
    drain.run()
    drain.close()


def test_rows_of_a_table_that_was_taken_over_do_not_grant_for_ever(
    teams_primary: TestDatabase, project: TestDatabase
) -> None:
    """A resync deletes rows that the primary lacks, and corrects the others."""
    with project.connect() as connection:
        connection.execute(EXISTING.encode())
    teams_primary.query("insert into folders values (1, 'new name')")
    teams_primary.query("insert into documents values (11, 1, 'real'), (13, 1, 'new')")
    migrate(project, teams.registry)
    assert project.value("select count(*) from documents") == 3
    resync(teams_primary, project, teams.registry)
    assert project.query("select * from folders") == [(1, "new name")]
    assert project.query("select * from documents order by id") == [
        (11, 1, "real"),
        (13, 1, "new"),
    ]
    assert project.query("select * from seats") == []


def test_a_deleted_parent_takes_its_taken_over_rows_along(
    teams_primary: TestDatabase, project: TestDatabase
) -> None:
    """No worker has read these rows yet, but the upgrade copied their parent into the ledger."""
    with project.connect() as connection:
        connection.execute(EXISTING.encode())
    migrate(project, teams.registry)
    record(teams_primary, "folders", 9)
    drain = build_drain(
        load_settings(primary_database_url=teams_primary.url, supabase_db_url=project.url),
        teams.registry,
    )
    drain.run()
    drain.close()
    assert project.query("select id, present from mirror.ledger_documents order by id") == [
        (11, True),
        (12, True),
        (91, False),
    ]


def test_a_row_that_a_foreign_key_held_back_is_not_taken_for_a_new_one(
    teams_target: TestDatabase,
) -> None:
    """Its tombstone was purged and the model is printed again; the row still counts as absent."""
    teams_target.query("insert into folders values (7, null)")
    teams_target.query("delete from mirror.migrations")
    migrate(teams_target, teams.registry)
    assert teams_target.query("select * from mirror.ledger_folders") == []
