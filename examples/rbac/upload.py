"""What clients changed while they were offline: checked, written, and recorded for the mirror.

A client that syncs sends each of its transactions as one list of operations (`PUT` a row, `PATCH`
some columns of one, `DELETE` one) and repeats it until it is answered. So the list is taken as a
whole or not at all, may come twice, and what is refused is answered, too: an error would keep the
client sending it for ever, and everything behind it.
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
"""What clients may write. When a row was made and changed, the database says."""

_FOR_USERS = {"PUT": "users.create", "PATCH": "users.update", "DELETE": "users.delete"}


class Malformed(Exception):
    """Raised for a body that no client of ours sends."""


class Refused(Exception):
    """Raised for a list that the client must not repeat; the message is for its user."""


@dataclass(frozen=True)
class Operation:
    """One change of one row, as far as its form can be trusted."""

    op: str
    table: str
    id: UUID
    data: dict[str, Any]


def answer(make_session: Callable[[], Session], caller: UUID, body: bytes) -> tuple[int, str]:
    """Return the status and body of the answer to `POST /api/sync`.

    `caller` is the subject of a token that was verified. 400 is for a client with a bug; a
    database that is down is an exception, which the framework answers with 500: try again later.
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
    """Return the operations that a body holds.

    Raises:
        Malformed: another shape, table, column, or type.
    """
    try:
        entries = json.loads(body)
    except ValueError:
        raise Malformed("JSON is expected") from None
    if not isinstance(entries, list):
        raise Malformed("a list of operations is expected")
    return [_operation(entry) for entry in entries]


def upload(session: Session, caller: UUID, operations: list[Operation]) -> None:
    """Write what a client changed, in the caller's transaction.

    Raises:
        Refused: the caller may not, or the data does not allow it; roll back.
    """
    try:
        for operation in operations:
            _apply(session, caller, operation)
            # Each is judged by what those before it have left.
            session.flush()
    except IntegrityError as error:
        raise Refused("another row is in the way, or one is missing") from error


def _apply(session: Session, caller: UUID, operation: Operation) -> None:
    model, _ = TABLES[operation.table]
    row = session.get(model, operation.id)
    if operation.op == "DELETE":
        if row is not None:
            _check(session, caller, operation)
            _record(session, row)
            session.delete(row)
        return
    if row is None and operation.op == "PATCH":
        raise Refused(f"{operation.table}: the row is gone")
    # Sent again after a lost answer, or made by somebody else meanwhile: then it is a change.
    new = row is None
    _check(session, caller, operation, "PUT" if new else "PATCH")
    if row is None:
        row = model(id=operation.id)
        session.add(row)
    else:
        # What it was, where that is part of the key.
        _record(session, row)
    for name, value in operation.data.items():
        setattr(row, name, value)
    session.flush()
    _record(session, row)


def _record(session: Session, row: Row) -> None:
    """Say that a row changes: these lines alone know of the mirror."""
    if isinstance(row, RolePermission):
        hooks.changed(session, "role_permissions", (row.role_id, row.permission_id))
    else:
        hooks.changed(session, row.__tablename__, row.id)
    if isinstance(row, Role):
        # Whoever has a role that is deleted has none then, by the database's own doing.
        hooks.scope_changed(session, "users", role_id=row.id)


def _check(session: Session, caller: UUID, operation: Operation, kind: str = "DELETE") -> None:
    """Refuse what the caller may not do, by what the primary says now."""
    held = set(
        session.scalars(
            select(Permission.name)
            .join(RolePermission, RolePermission.permission_id == Permission.id)
            .join(User, User.role_id == RolePermission.role_id)
            .where(User.id == caller)
        )
    )
    if operation.table == "users":
        own_name = operation.id == caller and kind == "PATCH" and set(operation.data) == {"name"}
        if not (own_name and "profile.update" in held) and _FOR_USERS[kind] not in held:
            raise Refused(f"users: needs {_FOR_USERS[kind]}")
    # Who may change users may not make themself an administrator.
    if (operation.table != "users" or "role_id" in operation.data) and "roles.manage" not in held:
        raise Refused(f"{operation.table}: needs roles.manage")


def _operation(entry: object) -> Operation:
    if not isinstance(entry, dict):
        raise Malformed("an operation is an object")
    op, table, data = str(entry.get("op")), str(entry.get("type")), entry.get("data") or {}
    if op not in _FOR_USERS:
        raise Malformed("an operation is a PUT, a PATCH or a DELETE")
    if table not in TABLES:
        raise Malformed("no such table")
    if not isinstance(data, dict):
        raise Malformed("data is an object")
    model, allowed = TABLES[table]
    # Clients repeat the id there.
    values = {} if op == "DELETE" else {name: data[name] for name in data if name != "id"}
    if not allowed.issuperset(values):
        raise Malformed("a column that is not for clients to write")
    for name, value in values.items():
        values[name] = _value(name, model.__table__.columns[name], value)
    return Operation(op, table, _uuid("id", entry.get("id")), values)


def _value(name: str, column: Column[Any], value: object) -> str | UUID | None:
    if value is None and column.nullable:
        return None
    if not isinstance(column.type, String):
        return _uuid(name, value)
    longest = column.type.length or 2000
    # Nothing that PostgreSQL's text cannot hold.
    if not isinstance(value, str) or len(value) > longest or re.search("[\0\ud800-\udfff]", value):
        raise Malformed(f"{name}: text of at most {longest} characters")
    return value


def _uuid(name: str, value: object) -> UUID:
    try:
        return UUID(str(value))
    except ValueError:
        raise Malformed(f"{name}: a UUID is expected") from None
