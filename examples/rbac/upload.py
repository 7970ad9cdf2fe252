"""Upload: checks and writes changes that clients made offline, and records them for the mirror.

A syncing client sends each of its transactions as one list of operations (`PUT` a row, `PATCH` some
columns, `DELETE` a row), and repeats the list until it gets a successful answer. So a list may
arrive twice, and it is written completely or not at all. A refused list is answered with status
200, too: after an error, the client would repeat the list for ever, and its later changes would
wait.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Column, String, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from examples.rbac.models import Permission, Role, RolePermission, User
from mirror import hooks

Row = User | Role | Permission | RolePermission
TABLES: dict[str, tuple[type[Any], frozenset[str]]] = {
    "users": (User, frozenset({"name", "email", "role_id"})),
    "roles": (Role, frozenset({"name", "description"})),
    "permissions": (Permission, frozenset({"name", "description"})),
    "role_permissions": (RolePermission, frozenset({"role_id", "permission_id"})),
}
"""The tables and columns that clients may write; the database sets the times of changes."""

_FOR_USERS = {"PUT": "users.create", "PATCH": "users.update", "DELETE": "users.delete"}


class Malformed(Exception):
    """Raised for a body of the wrong form, which a correct client never sends."""


class Refused(Exception):
    """Raised if a list must not be written and not be sent again; the message is for the user."""


@dataclass(frozen=True)
class Operation:
    """One change of one row, with a valid table, columns and types."""

    op: str
    table: str
    id: UUID
    data: dict[str, Any]


def answer(make_session: Callable[[], Session], caller: UUID, body: bytes) -> tuple[int, str]:
    """Check and write the operations in the body of a request `POST /api/sync`.

    Returns the status and body of the answer. Status 200: the operations were written, or were
    refused for the reason in `refused`. Status 400: the client has a bug. If the database is down,
    this raises an error, and the framework answers 500, so the client tries again later. `caller`
    is the subject of a verified token.
    """
    try:
        operations = parse(body)
    except Malformed as error:
        return 400, json.dumps({"error": str(error)})
    try:
        with make_session() as session, session.begin():
            upload(session, caller, operations)
    except Refused as refused:
        return 200, json.dumps({"refused": str(refused)})
    return 200, json.dumps({"refused": None})


def parse(body: bytes) -> list[Operation]:
    """Return the operations in a body.

    Raises:
        Malformed: the body has an invalid form, table, column, or type.
    """
    try:
        entries = json.loads(body)
    except ValueError:
        raise Malformed("the body must be JSON") from None
    if not isinstance(entries, list):
        raise Malformed("the body must be a list of operations")
    return [_operation(entry) for entry in entries]


def upload(session: Session, caller: UUID, operations: list[Operation]) -> None:
    """Write a client's changes in the session's transaction, and record them for the mirror.

    Raises:
        Refused: the caller lacks a permission, or a change contradicts the data; then the caller of
            this function must roll back.
    """
    try:
        for operation in operations:
            _apply(session, caller, operation)
            # The next operation is checked against the result of this one.
            session.flush()
    except IntegrityError as error:
        raise Refused("another row conflicts with it, or a referenced row is missing") from error


def _apply(session: Session, caller: UUID, operation: Operation) -> None:
    """Write one operation if the caller's permissions allow it, else raise Refused."""
    model, _ = TABLES[operation.table]
    row = session.get(model, operation.id)
    if operation.op == "DELETE":
        if row is not None:
            _check(session, caller, operation)
            _record(session, row)
            session.delete(row)
        return
    if row is None and operation.op == "PATCH":
        raise Refused(f"{operation.table}: the row does not exist any more")
    # A PUT of an existing row is a change: it was sent again, or another client made the row.
    new = row is None
    _check(session, caller, operation, "PUT" if new else "PATCH")
    if row is None:
        row = model(id=operation.id)
        session.add(row)
    else:
        # Record the old key, too: the change may alter columns of the key.
        _record(session, row)
    for name, value in operation.data.items():
        setattr(row, name, value)
    session.flush()
    _record(session, row)


def _record(session: Session, row: Row) -> None:
    """Record the change of a row with the mirror's hooks; nothing else here uses the mirror."""
    if isinstance(row, RolePermission):
        hooks.changed(session, "role_permissions", (row.role_id, row.permission_id))
    else:
        hooks.changed(session, row.__tablename__, row.id)
    if isinstance(row, Role):
        # When a role is deleted, the database sets the role of its users to NULL.
        hooks.scope_changed(session, "users", role_id=row.id)


def _check(session: Session, caller: UUID, operation: Operation, kind: str = "DELETE") -> None:
    """Raise Refused if the caller's permissions in the primary do not allow an operation.

    `kind` is PUT, PATCH or DELETE, by its effect: a PUT of an existing row is a PATCH.
    """
    permissions = set(
        session.scalars(
            select(Permission.name)
            .join(RolePermission, RolePermission.permission_id == Permission.id)
            .join(User, User.role_id == RolePermission.role_id)
            .where(User.id == caller)
        )
    )
    if operation.table == "users":
        own_name = operation.id == caller and kind == "PATCH" and set(operation.data) == {"name"}
        allowed = own_name and "profile.update" in permissions
        if not allowed and _FOR_USERS[kind] not in permissions:
            raise Refused(f"users: needs {_FOR_USERS[kind]}")
    # Otherwise a user with users.update could make themselves an administrator.
    changes_roles = operation.table != "users" or "role_id" in operation.data
    if changes_roles and "roles.manage" not in permissions:
        raise Refused(f"{operation.table}: needs roles.manage")


def _operation(entry: object) -> Operation:
    """Return an entry of the body as an Operation, or raise Malformed."""
    if not isinstance(entry, dict):
        raise Malformed("an operation must be an object")
    op, table, data = str(entry.get("op")), str(entry.get("type")), entry.get("data") or {}
    if op not in _FOR_USERS:
        raise Malformed("an operation must be a PUT, a PATCH or a DELETE")
    if table not in TABLES:
        raise Malformed("clients cannot write this table")
    if not isinstance(data, dict):
        raise Malformed("data must be an object")
    model, allowed = TABLES[table]
    # Clients repeat the id in the data.
    values = {} if op == "DELETE" else {name: data[name] for name in data if name != "id"}
    if not allowed.issuperset(values):
        raise Malformed("clients cannot write this column")
    for name, value in values.items():
        values[name] = _value(name, model.__table__.columns[name], value)
    return Operation(op, table, _uuid("id", entry.get("id")), values)


def _value(name: str, column: Column[Any], value: object) -> str | UUID | None:
    """Return a value in the column's type; None only if the column is nullable."""
    if value is None and column.nullable:
        return None
    if not isinstance(column.type, String):
        return _uuid(name, value)
    limit = column.type.length or 2000
    # PostgreSQL's text cannot contain NUL or surrogates.
    if not isinstance(value, str) or len(value) > limit or re.search("[\0\ud800-\udfff]", value):
        raise Malformed(f"{name} must be a text of at most {limit} characters")
    return value


def _uuid(name: str, value: object) -> UUID:
    try:
        return UUID(str(value))
    except ValueError:
        raise Malformed(f"{name} must be a UUID") from None
