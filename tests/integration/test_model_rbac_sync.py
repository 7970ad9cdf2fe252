"""Clients of the RBAC example: rows that PowerSync's own evaluator gives them, and uploads."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.orm import Session

from examples.rbac import data, upload
from mappings import rbac
from mirror import hooks
from mirror.devstack.node import find_program, install
from mirror.testing import Sandboxes
from tests.support.model_pair import ModelPair, model_pair

PACKAGE = Path(__file__).parent.parent / "supabase"
EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "rbac"
TABLES = {
    "users": ("id", "name", "role_id"),
    "roles": ("id", "name"),
    "permissions": ("id", "name"),
    "role_permissions": ("role_id", "permission_id"),
}


@pytest.fixture
def pair(sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelPair]:
    """The example's data, mirrored. Only the hooks of the upload capture changes."""
    monkeypatch.setenv("MIRROR_MAPPINGS", "mappings.rbac")
    monkeypatch.setenv("MIRROR_DOORBELL", "off")
    hooks.default.cache_clear()
    with model_pair(sandboxes, rbac.registry, data.populate) as pair:
        pair.no_triggers()
        yield pair


def evaluated(pair: ModelPair, users: list[str]) -> dict[str, Any]:
    """Return the rows of each user, as PowerSync evaluates the example's file on the primary."""
    install(PACKAGE)
    tables = {
        name: [row for (row,) in pair.ask(f"select to_jsonb(t) from {name} as t")]
        for name in TABLES
    }
    asked = {"yaml": (EXAMPLE / "sync.yaml").read_text(), "tables": tables, "users": users}
    done = subprocess.run(
        [find_program("node"), "streams.mjs"],
        cwd=PACKAGE,
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def primary_rows(pair: ModelPair) -> dict[str, list[Any]]:
    """Return all rows of the primary, by table."""
    return {name: pair.ask(f"select * from {name} order by 1, 2") for name in TABLES}


def test_a_client_syncs_the_rows_that_row_level_security_lets_its_user_see(pair: ModelPair) -> None:
    """All four tables agree by row, for each user and a stranger; no e-mail address is synced."""
    pair.ask("update users set role_id = null where name = 'Jane Customer'")
    pair.primary.query(
        "insert into mirror.outbox (mapping, reference, key) values ('users', '*', '{}')"
    )
    pair.mirror()
    users = [str(uuid4()), *(str(user) for (user,) in pair.ask("select id from users"))]
    answer = evaluated(pair, users)
    assert (answer["errors"], set(answer["tables"])) == ([], set(TABLES))
    for user in users:
        synced: dict[str, set[tuple[str, ...]]] = {name: set() for name in TABLES}
        for row in answer["sent"][user]:
            name, record = json.loads(row)
            synced[name].add(tuple(record[column] for column in TABLES[name]))
            assert "email" not in record
        seen = {
            name: {
                tuple(value and str(value) for value in row)
                for row in pair.asked(UUID(user), f"select {', '.join(columns)} from {name}")
            }
            for name, columns in TABLES.items()
        }
        assert synced == seen
    assert {len(answer["sent"][user]) for user in users} == {0, 1, 6, 13, 31}


def test_the_publication_has_the_tables_that_are_synced_and_no_other(pair: ModelPair) -> None:
    """Above all, the outbox is not in it."""
    pair.primary.query((EXAMPLE / "powersync.sql").read_text())
    published = pair.primary.query(
        "select schemaname || '.' || tablename from pg_publication_tables"
        " where pubname = 'powersync'"
    )
    assert {name for (name,) in published} == {f"public.{name}" for name in TABLES}


# The upload


def put(table: str, row: str, **values: Any) -> dict[str, Any]:
    """Return the operation that inserts a row."""
    return {"op": "PUT", "type": table, "id": row, "data": {"id": row} | values}


def patch(table: str, row: str, **values: Any) -> dict[str, Any]:
    """Return the operation that changes a row."""
    return put(table, row, **values) | {"op": "PATCH"}


def drop(table: str, row: str) -> dict[str, Any]:
    """Return the operation that deletes a row."""
    return {"op": "DELETE", "type": table, "id": row, "data": None}


def send(pair: ModelPair, user: str, *operations: Any) -> tuple[int, Any]:
    """Upload as a user of the example, mirror the events of the hooks, and return the answer."""
    caller = UUID(ids(pair, "users")[user])
    body = json.dumps(operations).encode()
    status, text = upload.answer(lambda: Session(pair.engine), caller, body)
    pair.mirror()
    return status, json.loads(text)


def ids(pair: ModelPair, table: str) -> dict[str, str]:
    """Return the rows' ids by name."""
    return dict(pair.ask(f"select name, id::text from {table}"))


def permissions_of(pair: ModelPair, user: str) -> set[str]:
    """Return the names of a user's permissions on the target."""
    rows = pair.asked(UUID(user), "select unnest(mirror.my_permissions())")
    return {str(name) for (name,) in rows}


TAKEN = (200, {"refused": None})


def test_a_role_is_made_given_changed_and_taken_away_by_uploads(pair: ModelPair) -> None:
    """The test sends PUT, PATCH and DELETE for every table; only the hooks capture them."""
    role, link, user, permission = (str(uuid4()) for _ in range(4))
    known = ids(pair, "permissions")
    operations = [
        put("roles", role, name="auditor", description=None),
        put("permissions", permission, name="audit.read"),
        put("role_permissions", link, role_id=role, permission_id=permission),
        put("users", user, name="Ann", email="ann@example.com", role_id=role),
    ]
    assert send(pair, "Admin User", *operations) == TAKEN
    assert permissions_of(pair, user) == {"audit.read"}
    # The answer was lost, so the client sends the operations again.
    assert send(pair, "Admin User", *operations) == TAKEN

    assert send(pair, "Admin User", patch("permissions", permission, name="audit.see")) == TAKEN
    assert permissions_of(pair, user) == {"audit.see"}
    moved = patch("role_permissions", link, permission_id=known["users.read"])
    assert send(pair, "Admin User", moved) == TAKEN
    assert permissions_of(pair, user) == {"users.read"}
    assert send(pair, "Admin User", patch("roles", role, description="reads")) == TAKEN
    customer = ids(pair, "roles")["customer"]
    assert send(pair, "Admin User", patch("users", user, role_id=customer)) == TAKEN
    assert permissions_of(pair, user) == {"profile.read", "profile.update"}

    assert send(pair, "Admin User", drop("roles", customer)) == TAKEN
    assert permissions_of(pair, user) == set()
    assert pair.target.value("select count(*) from users where role_id is null") == 3
    gone = [
        drop("role_permissions", link),
        drop("permissions", permission),
        drop("users", user),
        drop("roles", role),
    ]
    assert send(pair, "Admin User", *gone) == TAKEN
    assert send(pair, "Admin User", *gone) == TAKEN
    assert user not in ids(pair, "users").values()


def test_a_list_with_a_forbidden_operation_is_refused_as_a_whole_and_answered(
    pair: ModelPair,
) -> None:
    """An error would block the client's queue. No operation of the list is written."""
    users, roles = ids(pair, "users"), ids(pair, "roles")
    admin, manager, john = users["Admin User"], users["Manager User"], users["John Customer"]
    refusals = [
        # A user with the right to change users may not make themself an administrator.
        ("Manager User", patch("users", manager, role_id=roles["admin"]), "needs roles.manage"),
        ("Manager User", put("users", str(uuid4()), name="x", email="x"), "needs users.create"),
        ("Manager User", drop("users", john), "needs users.delete"),
        ("Manager User", drop("roles", roles["admin"]), "needs roles.manage"),
        ("John Customer", patch("users", john, email="a@b"), "needs users.update"),
        ("John Customer", patch("users", admin, name="x"), "needs users.update"),
        ("Admin User", patch("users", str(uuid4()), name="x"), "the row does not exist any more"),
        ("Admin User", patch("users", john, role_id=str(uuid4())), "another row conflicts"),
        ("Admin User", patch("users", john, email="admin@example.com"), "another row conflicts"),
        ("Admin User", put("users", str(uuid4()), name="x"), "another row conflicts"),
    ]
    before = primary_rows(pair)
    for user, operation, why in refusals:
        allowed = patch("users", users[user], name="Mandy")
        status, answer = send(pair, user, allowed, operation)
        assert (status, why in answer["refused"]) == (200, True), (operation, answer)
    assert primary_rows(pair) == before
    assert send(pair, "John Customer", patch("users", john, name="Jack")) == TAKEN


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{}",
        b"[1]",
        b'[{"op": ["PUT"]}]',
        b'[{"op": "PUT", "type": "outbox", "id": "1"}]',
        b'[{"op": "PUT", "type": "users", "id": "1"}]',
        b'[{"op": "DELETE", "type": "users", "id": "x; drop table users"}]',
        b'[{"op": "PATCH", "type": "users", "id": "%b", "data": {"created_at": "x"}}]',
        b'[{"op": "PATCH", "type": "users", "id": "%b", "data": {"name": null}}]',
        b'[{"op": "PATCH", "type": "users", "id": "%b", "data": {"name": 1}}]',
        b'[{"op": "PATCH", "type": "users", "id": "%b", "data": {"name": "\\ud800"}}]',
        b'[{"op": "PATCH", "type": "users", "id": "%b", "data": {"name": "\\u0000"}}]',
        b'[{"op": "PATCH", "type": "users", "id": "%b", "data": {"role_id": "admin"}}]',
        b'[{"op": "PATCH", "type": "roles", "id": "%b", "data": {"name": "' + b"x" * 51 + b'"}}]',
        b'[{"op": "PATCH", "type": "users", "id": "%b", "data": [1]}]',
    ],
)
def test_a_malformed_body_is_a_bad_request(body: bytes) -> None:
    """This happens before any query."""

    def no_session() -> Session:
        raise AssertionError

    status, text = upload.answer(no_session, uuid4(), body.replace(b"%b", b"0" * 32))
    assert status == 400
    assert json.loads(text)["error"]
