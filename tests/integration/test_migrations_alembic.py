"""Migrations inside an Alembic revision of the backend, and their effect on autogenerate."""

from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from examples.trip_chat import models
from mirror.devstack import PostgresCluster
from tests.support.databases import TestDatabase

REVISIONS = {
    "a1": """
        from alembic import op
        from examples.trip_chat.models import Base
        revision, down_revision = "a1", None

        def upgrade():
            Base.metadata.create_all(op.get_bind())

        def downgrade():
            Base.metadata.drop_all(op.get_bind())
    """,
    "b2": """
        from alembic import op
        from mirror import schema as migrations
        revision, down_revision = "b2", "a1"

        def upgrade():
            migrations.upgrade(op.get_bind())

        def downgrade():
            migrations.downgrade(op.get_bind())
    """,
    "c3": """
        import sqlalchemy as sa
        from alembic import op
        revision, down_revision = "c3", "b2"

        def upgrade():
            op.add_column("trips", sa.Column("notes", sa.Text))

        def downgrade():
            op.drop_column("trips", "notes")
    """,
}
ENVIRONMENT = """
    from alembic import context
    from sqlalchemy import NullPool, create_engine
    from examples.trip_chat.models import Base

    engine = create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=NullPool)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            transaction_per_migration=context.config.attributes["per_migration"],
        )
        with context.begin_transaction():
            context.run_migrations()
"""


@pytest.fixture
def backend(primary_cluster: PostgresCluster) -> Iterator[TestDatabase]:
    """A primary before its first revision."""
    primary_cluster.create_database("alembic_backend")
    yield TestDatabase(primary_cluster.url("alembic_backend"))
    primary_cluster.drop_database("alembic_backend")


@pytest.fixture
def make_alembic(tmp_path: Path, backend: TestDatabase) -> Callable[..., Config]:
    """Return a function that writes the backend's Alembic directory and returns its Config."""

    def make(*, per_migration: bool = False) -> Config:
        versions = tmp_path / "alembic" / "versions"
        versions.mkdir(parents=True)
        (versions.parent / "env.py").write_text(dedent(ENVIRONMENT))
        for name, source in REVISIONS.items():
            (versions / f"{name}.py").write_text(dedent(source))
        config = Config()
        config.set_main_option("script_location", str(versions.parent))
        config.set_main_option("path_separator", "os")
        config.set_main_option("sqlalchemy.url", backend.sqlalchemy_url)
        config.attributes["per_migration"] = per_migration
        return config

    return make


@pytest.mark.parametrize("per_migration", [False, True])
def test_a_revision_installs_and_removes_the_outbox(
    make_alembic: Callable[..., Config], backend: TestDatabase, *, per_migration: bool
) -> None:
    """Upgrade, downgrade and upgrade leave the tables of the backend and of Alembic unchanged."""
    alembic = make_alembic(per_migration=per_migration)
    command.upgrade(alembic, "head")
    assert backend.value("select version_num from alembic_version") == "c3"
    assert backend.query("select name from mirror.migrations order by name") == [
        ("0001_outbox",),
        ("0002_runs",),
        ("0003_heartbeats",),
        ("0004_claims",),
        ("0005_outbox_rights",),
        ("0006_withheld",),
        ("0007_pairing",),
        ("0008_prepared_transactions",),
        ("0009_receipts",),
        ("0010_structures",),
        ("0011_history",),
        ("0012_read_ahead",),
        ("0013_add_history",),
        ("0014_claim_next",),
    ]

    command.downgrade(alembic, "a1")
    assert backend.value("select version_num from alembic_version") == "a1"
    assert backend.value("select to_regnamespace('mirror')") is None
    assert backend.value("select to_regclass('public.trip_memberships')") is not None

    command.upgrade(alembic, "head")
    assert backend.value("select to_regclass('mirror.outbox')") is not None


def test_autogenerate_proposes_no_object_of_the_library(
    make_alembic: Callable[..., Config], backend: TestDatabase
) -> None:
    """It proposes neither to drop nor to create them: it compares only the default schema."""
    command.upgrade(make_alembic(), "b2")
    with backend.migrating() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, models.Base.metadata) == []


def test_autogenerate_over_all_schemas_can_leave_ours_out(
    make_alembic: Callable[..., Config], backend: TestDatabase
) -> None:
    """With include_schemas=True it proposes drops, unless include_name leaves the schema out."""
    command.upgrade(make_alembic(), "b2")

    def include_name(name: str | None, kind: str, _parents: object) -> bool:
        return not (kind == "schema" and name == "mirror")

    with backend.migrating() as connection:
        careless = MigrationContext.configure(connection, opts={"include_schemas": True})
        assert "remove_table" in {
            change[0] for change in compare_metadata(careless, models.Base.metadata)
        }
        careful = MigrationContext.configure(
            connection, opts={"include_schemas": True, "include_name": include_name}
        )
        assert compare_metadata(careful, models.Base.metadata) == []


def test_a_revision_that_fails_after_ours_takes_ours_back(
    make_alembic: Callable[..., Config], backend: TestDatabase
) -> None:
    """By default, Alembic uses one transaction for all revisions of a run."""
    alembic = make_alembic()
    command.upgrade(alembic, "a1")
    backend.query("alter table trips add column notes text")
    with pytest.raises(Exception, match="already exists"):
        command.upgrade(alembic, "head")
    assert backend.value("select to_regnamespace('mirror')") is None
    assert backend.value("select version_num from alembic_version") == "a1"
