"""`mirror init` on models that a backend imports: no server is needed."""

import os
import pty
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from mappings import campaigns, trips
from mirror.access import Always, Membership
from mirror.cli.init.layout import Chain, Group, assignment, call
from mirror.cli.init.words import by_strength, singular, snake, weakest_writer
from mirror.errors import UsageError
from tests.support.blocks import blocks
from tests.support.init_command import (
    HEADER,
    MEMBER,
    MODULE,
    OWNED,
    ROLE,
    Init,
    written_registry,
    written_text,
)

INDEXED = "'one', 'board_id', 'user_id', unique=True"

ROOT = Path(__file__).parent.parent.parent


def test_the_trip_example_gets_the_declarations_of_the_repositorys_own_model(init: Init) -> None:
    """Same access, keys, parents and statuses; columns that decide nothing are left out."""
    init(
        "--guard",
        "chat_messages",
        "--guard-owner",
        "sender_id",
        "--models",
        "examples.trip_chat.models",
    )
    mine = written_registry()
    assert mine.access == trips.registry.access
    assert [mapping.name for mapping in mine] == [mapping.name for mapping in trips.registry]
    for mapping, theirs in zip(mine, trips.registry, strict=True):
        assert mapping.key == theirs.key
        assert mapping.parents == theirs.parents
        assert mapping.active == theirs.active
        assert mapping.types.items() <= theirs.types.items()
        assert "deleted_at IS NULL" in mapping.sql
    extra = {m.name: set(m.types) for m in trips.registry}
    assert {m.name: extra[m.name] - set(m.types) for m in mine if extra[m.name] - set(m.types)} == {
        "users": {"email"},
        "trips": {"created_by"},
    }


def test_ids_of_the_primary_are_translated_by_a_join(init: Init) -> None:
    """The user's id in tokens is the key; the primary's own id is a reference."""
    output = init(models=HEADER + MEMBER + ROLE)
    members = written_registry()["board_members"]
    assert members.types["user_id"] == "uuid"
    assert members.references[0].name == "own_user_id"
    assert members.references[0].table == "users"
    assert "cast(" not in written_text().lower()
    # A change of a member names no key: another transaction may set the user's id in tokens.
    effects = {e.reference for e in written_registry().effects["board_members"]}
    assert effects == {"own_user_id"}
    assert "'own_user_id', array[$1::text]" in output


def test_a_uuid_stored_as_text_is_cast_only_if_it_is_one(init: Init) -> None:
    """Third-party subjects stay texts."""
    as_text = HEADER.replace("UUID | None", "str | None") + MEMBER + ROLE
    init(models=as_text)
    assert written_registry()["board_members"].types["user_id"] == "uuid"
    assert "regexp_match(_A_UUID)" in written_text()
    init("--force", models=as_text.replace("supabase_id", "clerk_id"))
    assert written_registry()["board_members"].types["user_id"] == "text"
    assert "regexp_match" not in written_text()


@pytest.mark.parametrize(
    ("columns", "condition"),
    [
        ("    removed_at: Mapped[datetime | None]\n", "board_members.removed_at IS NULL"),
        ("    is_banned: Mapped[bool]\n", "board_members.is_banned IS NOT true"),
        ("    is_active: Mapped[bool]\n", "board_members.is_active IS true"),
    ],
)
def test_a_column_that_ends_a_row_becomes_a_condition(
    init: Init, columns: str, condition: str
) -> None:
    """A flag takes it out again."""
    models = HEADER + MEMBER + ROLE + columns
    init(models=models)
    assert condition in written_registry()["board_members"].sql
    init("--force", "--deleted", "none", "--enabled", "none", models=models)
    assert condition not in written_registry()["board_members"].sql


def test_a_deleted_user_passes_no_membership_on_to_a_new_account(init: Init) -> None:
    """Two users may have had one id in tokens, and only one of them counts."""
    header = HEADER.replace("    name: Mapped[str]\n", "    deleted_at: Mapped[datetime | None]\n")
    init(models=header + MEMBER + ROLE)
    assert "users.deleted_at IS NULL" in written_registry()["board_members"].sql


def test_an_invitation_without_a_user_is_left_out(init: Init) -> None:
    """NULL can be part of no key."""
    member = """
class Membership(Base):
    __tablename__ = "board_members"
    __table_args__ = (UniqueConstraint("board_id", "user_id"),)
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    board_id: Mapped[int] = mapped_column(ForeignKey("boards.id"))
    user_id: Mapped[UUID | None]
"""
    init("--users", "none", models=HEADER + member + ROLE)
    assert "board_members.user_id IS NOT NULL" in written_registry()["board_members"].sql
    init(
        "--force",
        models=HEADER
        + member.replace("UUID | None]", 'int | None] = mapped_column(ForeignKey("users.id"))')
        + ROLE,
    )
    assert "user_id IS NOT NULL" not in written_registry()["board_members"].sql


def test_a_module_of_models_may_have_the_name_of_a_table(init: Init, tmp_path: Path) -> None:
    """The import gets another name then."""
    (tmp_path / "boards.py").write_text(HEADER + MEMBER + ROLE)
    init("--models", "boards")
    assert "import boards as boards_models" in written_text()
    assert "boards" in written_registry()


def test_models_of_several_modules_are_imported_from_each(init: Init, tmp_path: Path) -> None:
    """One statement for all modules of a package."""
    (tmp_path / "shop").mkdir()
    base, members = HEADER + MEMBER + ROLE, MEMBER + ROLE
    (tmp_path / "shop" / "base.py").write_text(base.replace(members, ""))
    (tmp_path / "shop" / "member.py").write_text(f"from shop.base import *\n{members}")
    (tmp_path / "shop" / "__init__.py").write_text(
        "from shop import base, member\nBase = base.Base"
    )
    init("--models", "shop")
    assert "from shop import base, member\n" in written_text()
    assert "member.Membership.board_id" in written_text()
    written_registry()


def test_foreign_keys_are_followed_within_the_schema_of_the_models(init: Init) -> None:
    """Their text has no schema, if all models have the same."""
    models = (HEADER + MEMBER + ROLE).replace("    pass", "    metadata = MetaData(schema='app')")
    init(models=models.replace("import String", "import MetaData, String"))
    members = written_registry()["board_members"]
    assert members.references[0].table == "app.users"
    assert [parent.mapping for parent in members.parents] == ["boards", "users"]


@pytest.mark.parametrize(
    ("index", "key"),
    [
        ("", ("id",)),
        (", UniqueConstraint('board_id', 'user_id')", ("board_id", "user_id")),
        (
            f", Index({INDEXED}, postgresql_where=text('deleted_at IS NULL'))",
            ("board_id", "user_id"),
        ),
        (
            f", Index({INDEXED}, postgresql_where=text('role IS NULL'))",
            ("id",),
        ),
    ],
)
def test_the_key_identifies_one_row_that_counts(
    init: Init, index: str, key: tuple[str, ...]
) -> None:
    """If a user may have several rows in one resource, the table's own key does."""
    member = f"""
class Membership(Base):
    __tablename__ = "board_members"
    __table_args__ = ({index.removeprefix(", ")}{"," if index else ""})
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    board_id: Mapped[int] = mapped_column(ForeignKey("boards.id"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    deleted_at: Mapped[datetime | None]
"""
    init(models=HEADER + member + ROLE)
    assert written_registry()["board_members"].key == key


def test_members_without_a_role_never_get_the_owners(init: Init) -> None:
    """They have a weaker one, which the owner's includes."""
    init("--owner", "owner_id=OWNER", models=HEADER + OWNED + MEMBER)
    (access,) = written_registry().access
    assert isinstance(access, Membership)
    assert access.levels == ("MEMBER", "OWNER")
    assert [seat.role for seat in access.seats] == [Always("OWNER"), Always("MEMBER")]


def test_an_owners_column_alone_can_be_the_membership(init: Init) -> None:
    """A soft-deleted owner has no access; the row stays."""
    header = HEADER.replace("    name: Mapped[str]\n", "    deleted_at: Mapped[datetime | None]\n")
    init("--resource", "boards", "--owner", "owner_id=OWNER", models=header + OWNED)
    boards = written_registry()["boards"]
    assert "LEFT OUTER JOIN users AS user_of_owner_id" in boards.sql
    assert "user_of_owner_id.deleted_at IS NULL" in boards.sql.split("WHERE")[0]
    assert {e.reference for e in written_registry().effects["users"]} >= {"own_owner_id"}


@pytest.mark.parametrize(
    ("models", "arguments", "message"),
    [
        (HEADER, (), "--membership is missing"),
        (HEADER + MEMBER, ("--levels", "A,A"), "--levels: a role is there twice"),
        (HEADER + MEMBER + "    role: Mapped[str]\n", (), "--levels is missing"),
        (HEADER + MEMBER + ROLE.replace("EDITOR", "BOSS"), (), "there are OWNER, BOSS, VIEWER"),
        (HEADER + MEMBER + ROLE, ("--role", "rol"), "is role meant"),
        (HEADER + MEMBER + ROLE, ("--on", "none"), "is needed"),
        (HEADER + MEMBER + ROLE, ("--users", "none"), "--users is missing: board_members.user_id"),
        (HEADER + MEMBER + ROLE, ("--user-type", "text"), "supabase_id is uuid"),
        (HEADER + MEMBER + ROLE, ("--guard", "boards"), "boards is a mirrored table"),
        ("1 / 0", (), "does not import .ZeroDivisionError"),
        ("x = 1", (), "declares and imports no SQLAlchemy model"),
    ],
)
def test_a_question_without_an_answer_names_its_flag(
    init: Init, models: str, arguments: tuple[str, ...], message: str
) -> None:
    """Nothing is written."""
    with pytest.raises(UsageError, match=message):
        init(*arguments, models=models)
    assert not Path(f"{MODULE}.py").exists()


def test_a_user_without_an_id_that_tokens_carry_is_refused(init: Init) -> None:
    """The primary's own number can never equal `auth.uid()`."""
    header = HEADER.replace(
        "    supabase_id: Mapped[UUID | None] = mapped_column(unique=True)\n", ""
    )
    with pytest.raises(UsageError, match=r"--auth-id is missing.*\(id is bigint\)"):
        init(models=header.replace("    name: Mapped[str]\n", "") + MEMBER + ROLE)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("rbac", (), "docs/models/rbac.md"),
        ("grants", (), "company_members, workspace_members, table_view_grants look like it"),
    ],
)
def test_a_model_of_another_kind_is_left_to_the_hand(
    init: Init, model: str, arguments: tuple[str, ...], message: str
) -> None:
    """The error says so."""
    with pytest.raises(UsageError, match=message):
        init(*arguments, "--models", f"examples.{model}.models")


def test_one_table_of_several_that_grant_names_the_others(init: Init) -> None:
    """Their rights are not in the module."""
    arguments = ("--resource", "workspaces", "--levels", "viewer,editor,owner")
    output = init(*arguments, "--models", "examples.grants.models")
    assert "company_members, table_view_grants" in output
    (access,) = written_registry().access
    assert isinstance(access, Membership)
    assert (access.mapping, access.levels) == ("workspace_members", ("viewer", "editor", "owner"))


def test_columns_that_may_decide_and_are_not_read_are_named(init: Init) -> None:
    """A person knows whether they do; so is an id in tokens that two users may have."""
    header = HEADER.replace("unique=True", "").replace("    name: M", "    status: M")
    output = init(models=header + MEMBER + ROLE + "    verified_at: Mapped[datetime | None]\n")
    assert "Not in the module: users.status, board_members.verified_at." in output
    assert "Make users.supabase_id unique" in output


def test_on_a_terminal_the_command_asks_for_what_it_cannot_guess(tmp_path: Path) -> None:
    """Here the order of the roles, and the table to guard."""
    (tmp_path / "app").mkdir()
    models = HEADER + MEMBER + ROLE.replace("EDITOR", "BOSS")
    (tmp_path / "app" / "models.py").write_text(models)
    terminal, stdin = pty.openpty()
    os.write(terminal, b"VIEWER, BOSS, OWNER\nmessages\n")
    done = subprocess.run(
        [str(Path(sys.executable).parent / "mirror"), "init", "--models", "app.models"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "there are OWNER, BOSS, VIEWER" in done.stderr
    text = (tmp_path / "mappings.py").read_text()
    assert 'levels=("VIEWER", "BOSS", "OWNER")' in text
    assert "guards=[messages]" in text


def test_the_next_steps_come_in_the_order_of_the_tutorial(init: Init) -> None:
    """The guards are installed with the rest, before a worker starts; without guards, no flag."""
    page = (ROOT / "docs" / "tutorial.md").read_text()
    typed = "".join(block.text for block in blocks(page) if block.language in {"sh", "python"})
    printed = init("--guard", "messages", models=HEADER + MEMBER + ROLE).partition("\nNext:\n")[2]
    steps = ["migrate --guards", "attach(make_session", "celery -A", "reconcile", "mirror doctor"]
    for text in (typed, printed):
        found = [text.index(step) for step in steps]
        assert found == sorted(found)
    assert "--guards" not in init("--force", models=HEADER + MEMBER + ROLE)


def test_a_file_that_exists_is_overwritten_only_by_force(init: Init) -> None:
    """Also one that no longer imports."""
    Path(f"{MODULE}.py").write_text("mine")
    with pytest.raises(UsageError, match="add --force"):
        init("--models", "examples.trip_chat.models")
    assert written_text() == "mine"
    init("--force", "--models", "examples.trip_chat.models")
    assert "registry = Registry(" in written_text()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("mappings", "name a .py file"),
        ("../mappings.py", "name a .py file"),
        ("my-mappings.py", "no name of a Python module"),
        ("taken.py", "Python would import the directory taken/"),
        ("missing/mappings.py", "cannot be written"),
    ],
)
def test_a_file_that_could_not_be_imported_is_refused(
    init: Init, output: str, message: str
) -> None:
    """The command says what to name instead."""
    Path("taken").mkdir()
    with pytest.raises(UsageError, match=message):
        init("--output", output, "--models", "examples.trip_chat.models")


def test_roles_are_ordered_only_if_the_strength_of_each_is_known() -> None:
    """A wrong order would give access; so an unknown word is asked for."""
    assert by_strength(["OWNER", "ADMIN", "MEMBER"]) == ("MEMBER", "ADMIN", "OWNER")
    assert by_strength(["SPECTATOR", "PLAYER", "DM"]) == campaigns.in_campaigns.levels
    assert by_strength(["owner", "boss"]) is None
    assert by_strength(["viewer", "reader"]) is None


def test_a_role_that_reads_by_its_name_does_not_write() -> None:
    """If there is no other role, the strongest writes."""
    assert weakest_writer(["viewer", "editor", "owner"]) == "editor"
    assert weakest_writer(["MEMBER", "OWNER"]) == "MEMBER"
    assert weakest_writer(["guest", "viewer"]) == "viewer"


def test_names_are_read_in_any_spelling() -> None:
    """In camel case, too; a noun is the singular of a table's name."""
    assert [snake(name) for name in ("clientId", "client_id", "Client ID")] == ["client_id"] * 3
    assert [singular(name) for name in ("trips", "companies", "boxes", "access")] == [
        "trip",
        "company",
        "box",
        "access",
    ]


def test_the_layout_breaks_a_line_only_if_it_is_too_long() -> None:
    """A tuple of one keeps its comma; two methods get lines of their own."""
    one = Group("key=(", ['"id"'])
    assert one.lines(0) == ['key=("id",)']
    chain = Chain(call("select", "a" * 50, "b" * 50), [call(".join", "c"), call(".where", "d")])
    assert assignment("q", chain) == dedent(
        f"""\
        q = select(
            {"a" * 50},
            {"b" * 50},
        )
        .join(c)
        .where(d)"""
    )
