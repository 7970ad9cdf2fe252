"""`mirror check`: what is wrong with settings, mappings and models, found without any server."""

import sys
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from typer.testing import CliRunner

from mappings.trips import registry
from mirror.access import Guard
from mirror.capture.orm.coverage import tables_of_models, unseen
from mirror.cli.app import app
from mirror.model.registry import Registry
from tests.capture import clubs

pytestmark = pytest.mark.usefixtures("no_environment")

VALID = "are valid, and their SQL prints"
NOWHERE = "postgresql://someone:hunter2@127.0.0.1:9/nothing"


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Set the mappings of the example, for a test to add other variables."""
    monkeypatch.setenv("MIRROR_MAPPINGS", "mappings.trips")
    return monkeypatch


def check(*arguments: str) -> tuple[int, list[str]]:
    """Run the command; return its exit code and its lines."""
    done = CliRunner().invoke(app, ["check", *arguments])
    assert isinstance(done.exception, SystemExit | None), done.exception
    assert "hunter2" not in done.output
    return done.exit_code, done.output.splitlines()


def module(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> str:
    """Make a module with these contents that can be imported; return its name."""
    made = ModuleType(name)
    vars(made).update(contents)
    monkeypatch.setitem(sys.modules, name, made)
    return name


def test_a_sound_deployment_passes_without_any_server(settings: pytest.MonkeyPatch) -> None:
    """Nothing listens at these addresses. In CI, most settings are not set."""
    expected = [
        "ok: settings: well formed",
        f"ok: registry trips of mappings.trips: 3 mapping(s) and 5 guard(s) {VALID}",
        "ok: models examples.trip_chat.models: ORM capture sees all 3 table(s) that are read",
    ]
    assert check("--strict", "--models", "examples.trip_chat.models") == (0, expected)
    for name in ("PRIMARY_DATABASE_URL", "SUPABASE_DB_URL"):
        settings.setenv(name, NOWHERE)
    assert check("--strict") == (0, expected[:2])


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"MIRROR_BATCH_SIZE": "many"}, "MIRROR_BATCH_SIZE: "),
        ({"PRIMARY_DATABASE_URL": "mysql://hunter2@host/db"}, "PRIMARY_DATABASE_URL: expected"),
        ({"MIRROR_RECONCILE_CRON": "61 3 * * *"}, "MIRROR_RECONCILE_CRON"),
        ({"MIRROR_DOORBELL": "loud"}, "MIRROR_DOORBELL: expected thread, inline or off"),
        ({"MIRROR_MAPPINGS": "no.such"}, "mappings module 'no.such' does not import"),
        ({"MIRROR_MAPPINGS": "json"}, "mappings module 'json' holds no Registry"),
        (
            {"SUPABASE_URL": "https://a.supabase.co", "SUPABASE_SECRET_KEY": "sb_publishable_x"},
            "SUPABASE_SECRET_KEY",
        ),
    ],
)
def test_each_setting_that_cannot_work_is_an_error(
    settings: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    """The exit code is that of wrong settings; no value is repeated."""
    for name, value in variables.items():
        settings.setenv(name, value)
    code, lines = check()
    assert code == 2
    assert [line for line in lines if line.startswith("error: ") and message in line], lines


def test_all_faults_are_printed_at_once(settings: pytest.MonkeyPatch) -> None:
    """A malformed setting hides neither another one nor a fault of the mappings or models."""
    settings.setenv("MIRROR_BATCH_SIZE", "many")
    settings.setenv("MIRROR_DOORBELL", "loud")
    settings.setenv("MIRROR_BATCHSIZE", "7")
    code, lines = check("--models", "no.such")
    starts = [line.partition(" ")[0] for line in lines]
    assert (code, starts) == (2, ["error:", "error:", "error:", "warning:", "ok:"]), lines


def test_declarations_whose_sql_cannot_be_printed_are_an_error(
    settings: pytest.MonkeyPatch,
) -> None:
    """Some declarations are refused only when `mirror migrate` prints them."""
    mirrored = Guard(table="trips", via="trip_memberships", on="id", read="MEMBER")
    spoiled = Registry("trips", list(registry), access=registry.access, guards=[mirrored])
    settings.setenv("MIRROR_MAPPINGS", module(settings, "spoiled", registry=spoiled))
    code, lines = check()
    assert code == 2
    assert "only the mirror writes that table" in lines[0]


def test_an_unknown_variable_is_a_warning(settings: pytest.MonkeyPatch) -> None:
    """Only --strict makes it fail."""
    settings.setenv("MIRROR_SWEEP_SECOND", "9")
    code, lines = check()
    assert "warning: MIRROR_SWEEP_SECOND is no setting; is MIRROR_SWEEP_SECONDS meant?" in lines
    assert (code, check("--strict")[0]) == (0, 1)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (None, "module 'odd' does not import"),
        ({}, "module 'odd' holds no SQLAlchemy model"),
        ({"Base": object, "registry": registry}, "module 'odd' holds no SQLAlchemy model"),
    ],
)
def test_a_module_without_models_is_an_error(
    settings: pytest.MonkeyPatch, contents: dict[str, object] | None, message: str
) -> None:
    """The message names the option."""
    if contents is not None:
        module(settings, "odd", **contents)
    code, lines = check("--models", "odd")
    assert (code, message in lines[0]) == (2, True), lines


def test_models_that_sqlalchemy_refuses_are_an_error(settings: pytest.MonkeyPatch) -> None:
    """It would refuse them at their first use."""

    class Base(DeclarativeBase):
        pass

    class Lonely(Base):
        __tablename__ = "lonely"
        id: Mapped[int] = mapped_column(primary_key=True)
        friends: Mapped[list["Nobody"]] = relationship()  # type: ignore[name-defined]  # noqa: F821

    code, lines = check("--models", module(settings, "odd", Lonely=Lonely))
    Base.registry.dispose()
    assert (code, "module 'odd': SQLAlchemy refuses the models" in lines[0]) == (2, True), lines


def test_models_of_one_base_are_found_by_any_of_them(settings: pytest.MonkeyPatch) -> None:
    """Whether the module has the base, one class, or all of them."""
    for found in (clubs.Base, clubs.Club):
        tables = tables_of_models(module(settings, "one", found=found))
        assert {"clubs", "people", "members"} <= {table.name for table in tables}
        assert list(unseen(clubs.registry, tables)) == []


def test_a_table_or_column_that_no_model_has_is_a_warning(settings: pytest.MonkeyPatch) -> None:
    """ORM capture sees no change of it; triggers would."""

    class Other(DeclarativeBase):
        pass

    class Trip(Other):
        __tablename__ = "trips"
        id: Mapped[str] = mapped_column(primary_key=True)
        name: Mapped[str]
        created_by: Mapped[str]

    class User(Other):
        __tablename__ = "users"
        id: Mapped[str] = mapped_column(primary_key=True)
        email: Mapped[str]
        deleted_at: Mapped[str]
        trips: Mapped[list[Trip]] = relationship(
            primaryjoin="foreign(Trip.created_by) == User.id", viewonly=True
        )

    name = module(settings, "narrow", Other=Other)
    code, lines = check("--models", name)
    warnings = [line for line in lines if line.startswith("warning: narrow: ")]
    assert code == 0
    assert any("no model has table trip_memberships" in line for line in warnings), lines
    assert any("table users has no column username" in line for line in warnings), lines
    assert check("--strict", "--models", name)[0] == 1
