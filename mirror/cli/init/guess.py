"""Guess: finds the resource, its members and its users among the tables of the primary."""

from collections.abc import Sequence

from sqlalchemy import Table

from mirror.cli.init.candidates import Candidate, find_candidates, first
from mirror.cli.init.choices import Choices
from mirror.cli.init.model import (
    AnyColumn,
    Condition,
    Counts,
    Members,
    Model,
    Users,
    key_of,
    mapping_name,
)
from mirror.cli.init.tables import Tables, is_unique, target_of, type_of, values_of
from mirror.cli.init.words import (
    ACTIVE,
    AUTH_IDS,
    ENABLED,
    EXPIRES,
    GONE,
    OWNERS,
    ROLES,
    STATUSES,
    SUBJECTS,
    USERS,
    by_strength,
    singular,
    snake,
)
from mirror.errors import UsageError
from mirror.model.keys import KEY_TYPES

_UUID_CHARACTERS = 36
_HAND = "docs/models/ shows how to write it by hand"


def find_model(tables: Tables, choices: Choices) -> Model:
    """Return the model that the tables, the flags and the user's answers describe.

    Raises:
        UsageError: a question has no answer, or an answer cannot work; names the flag.
    """
    named = {table.name: key for key, table in tables.by_name.items()}
    guess = named.get(first(named, USERS) or "")
    users_name = choices.one(
        "users", "the table of your users", list(tables.by_name), guess, optional=True
    )
    candidates = find_candidates(tables, users_name)
    members_name, resource_name = _choose_tables(tables, choices, candidates)
    resource = tables.named(resource_name)
    chosen = tables.named(members_name) if members_name else None
    owners = _owners(choices, resource, needed=chosen is None)
    user, on = None, None
    if chosen is not None:
        found = [c for c in candidates if c.table == members_name and c.resource == resource_name]
        on = _column(choices, "on", f"the column with the {resource_name}", chosen, found, "on")
        user = _column(choices, "user", "the column with the user", chosen, found, "user")
    resource_id = _id_of(resource, on, tables, "resource")
    users = None
    if users_name is not None:
        pointing = user if user is not None else owners[0][0]
        users = _users(choices, tables, tables.named(users_name), pointing)
    noun = choices.one("noun", "the word for one resource", (), singular(mapping_name(resource)))
    listed = tuple(dict.fromkeys([*([users.table] if users else []), resource]))
    conditions = _conditions(choices, (*listed, *([chosen] if chosen is not None else [])))
    members, levels = None, tuple(role for _, role in owners)
    if chosen is not None and user is not None and on is not None:
        gone = {c.column.name for c in conditions.get(chosen.key, ()) if c.counts is Counts.NULL}
        members, levels = _members(choices, chosen, on, user, levels, gone)
    else:
        levels = _levels(choices, levels)
    unknown = [role for _, role in owners if role not in levels]
    if unknown:
        raise UsageError(f"--levels: {unknown[0]!r} of --owner is not among them; add it.")
    return Model(
        noun=snake(noun or ""),
        levels=levels,
        resource=resource,
        resource_id=resource_id,
        users=users,
        user_type=users.type if users else _bare_type(choices, user, owners),
        members=members,
        owners=owners,
        conditions=conditions,
        others=tuple(dict.fromkeys(c.table for c in candidates if c.table != members_name)),
    )


def _choose_tables(
    tables: Tables, choices: Choices, candidates: list[Candidate]
) -> tuple[str | None, str]:
    """Return the tables of the members (None: there is none) and of the resource."""
    given = choices.given.get("resource", ())
    fitting = [c for c in candidates if not given or c.resource in given]
    best = {c.table for c in fitting if c.score == fitting[0].score}
    likely = ", ".join(dict.fromkeys(c.table for c in fitting))
    question = "the table that says which users belong to which resources"
    if len(best) > 1:
        question += f" ({likely} look like it)"
    elif not best:
        question += (
            "; if columns of the resource's own table name its users, name them with --owner"
        )
        if {"roles", "permissions"} <= {snake(table.name) for table in tables.by_name.values()}:
            question += "; roles with permissions by name are another model: docs/models/rbac.md"
    members = choices.one(
        "membership",
        question,
        list(tables.by_name),
        best.pop() if len(best) == 1 else None,
        optional="owner" in choices.given,
    )
    pointed = list(dict.fromkeys(c.resource for c in candidates if c.table == members))
    resource = choices.one(
        "resource",
        "the table of what users have access to",
        list(tables.by_name),
        pointed[0] if len(pointed) == 1 else None,
    )
    return members, str(resource)


def _column(
    choices: Choices,
    flag: str,
    question: str,
    table: Table,
    candidates: list[Candidate],
    attribute: str,
) -> AnyColumn:
    guesses = dict.fromkeys(getattr(candidate, attribute).name for candidate in candidates)
    guess = next(iter(guesses)) if len(guesses) == 1 else None
    name = choices.one(flag, f"{question} in {table.name}", table.c.keys(), guess)
    return table.c[str(name)]


def _owners(
    choices: Choices, resource: Table, *, needed: bool
) -> tuple[tuple[AnyColumn, str], ...]:
    """Return the columns of the resource that name a user with a role, and the roles."""
    guess = first(resource.c, OWNERS) if needed else None
    pairs = choices.several(
        "owner",
        f"the column of {resource.name} with the id of its owner, as in owner_id=OWNER",
        (),
        (f"{guess}=OWNER",) if guess else (),
        optional=not needed,
    )
    found = []
    for pair in pairs:
        column, _, role = pair.partition("=")
        if column not in resource.c:
            names = ", ".join(resource.c.keys())
            raise UsageError(f"--owner: {resource.name} has no column {column!r}; it has {names}.")
        found.append((resource.c[column], role or "OWNER"))
    return tuple(found)


def _id_of(table: Table, pointing: AnyColumn | None, tables: Tables, flag: str) -> AnyColumn:
    """Return the column of a table to which `pointing` points: by its foreign key, or its key."""
    target = target_of(pointing, tables) if pointing is not None else None
    if target is not None and target[0] == table.key:
        found: AnyColumn | None = table.c[target[1]]
    else:
        found = key_of(table)
    if found is None or type_of(found) not in KEY_TYPES:
        raise UsageError(
            f"--{flag}: the primary key of {table.name} must be one column of type "
            f"{', '.join(KEY_TYPES)}; for another key, {_HAND}."
        )
    return found


def _users(choices: Choices, tables: Tables, table: Table, pointing: AnyColumn) -> Users:
    """Return the table of users, and by which of its columns tokens name them."""
    own = _id_of(table, pointing, tables, "users")
    usable = [column for column in table.c if type_of(column) in {"uuid", "text"}]
    guess = first(table.c, (*AUTH_IDS, *SUBJECTS)) or (own.name if own in usable else None)
    name = choices.one(
        "auth-id",
        f"the column of {table.name} with the id that Supabase's tokens carry ({own.name} is "
        f"{type_of(own)}); if there is none, add one, because policies know users only by that id",
        [column.name for column in usable],
        guess,
    )
    auth = table.c[str(name)]
    return Users(table, own, auth, _user_type(choices, auth))


def _user_type(choices: Choices, column: AnyColumn) -> str:
    """Return the type of users' ids in tokens, as a column of the primary suggests it."""
    if type_of(column) == "uuid":
        guess = "uuid"
    elif snake(column.name) in SUBJECTS:
        guess = "text"
    else:
        length = getattr(column.type, "length", None)
        guess = "uuid" if snake(column.name) in AUTH_IDS or length == _UUID_CHARACTERS else "text"
    kind = choices.one("user-type", "the type of users' ids in tokens", ("uuid", "text"), guess)
    if kind == "text" and type_of(column) == "uuid":
        raise UsageError(f"--user-type: column {column.name} is uuid, as are Supabase Auth's ids.")
    return str(kind)


def _bare_type(
    choices: Choices, user: AnyColumn | None, owners: Sequence[tuple[AnyColumn, str]]
) -> str:
    """Return the type of users' ids where the primary has no table of users."""
    column = user if user is not None else owners[0][0]
    if type_of(column) not in {"uuid", "text"}:
        raise UsageError(
            f"--users is missing: {column.table.name}.{column.name} is {type_of(column)}, which no "
            f"token has; name the table of users, and with --auth-id its column with the id that "
            f"Supabase's tokens carry."
        )
    kind = _user_type(choices, column)
    if kind != type_of(column):
        raise UsageError(
            f"--user-type: {column.table.name}.{column.name} is {type_of(column)}; the cast to "
            f"{kind} is written by hand: docs/capture.md, about user ids."
        )
    return kind


def _conditions(choices: Choices, tables: Sequence[Table]) -> dict[str, tuple[Condition, ...]]:
    """Return the conditions under which the rows of each table count."""
    columns = {f"{table.name}.{column.name}": column for table in tables for column in table.c}
    ends = {name: c for name, c in columns.items() if _how(c) in {Counts.NULL, Counts.NOT_TRUE}}
    flags = {name: c for name, c in columns.items() if type_of(c) == "boolean"}
    deleted = choices.several(
        "deleted",
        "",
        _with_bare(ends),
        [name for name, c in ends.items() if GONE.fullmatch(snake(c.name))],
        optional=True,
    )
    enabled = choices.several(
        "enabled",
        "",
        _with_bare(flags),
        [name for name, c in flags.items() if ENABLED.fullmatch(snake(c.name))],
        optional=True,
    )
    found: dict[str, tuple[Condition, ...]] = {}
    for name, column in columns.items():
        key = column.table.key
        how = _how(column)
        if how is not None and {name, column.name} & set(deleted):
            found[key] = (*found.get(key, ()), Condition(column, how))
        if {name, column.name} & set(enabled):
            found[key] = (*found.get(key, ()), Condition(column, Counts.TRUE))
    return found


def _how(column: AnyColumn) -> Counts | None:
    """Return how a column can say that a row is deleted; None: it cannot."""
    if type_of(column) == "boolean":
        return Counts.NOT_TRUE
    dated = type_of(column) in {"timestamptz", "timestamp", "date"}
    return Counts.NULL if dated and column.nullable else None


def _with_bare(columns: dict[str, AnyColumn]) -> list[str]:
    """Return the names with the table, and those without, which mean columns of all tables."""
    return [*columns, *dict.fromkeys(column.name for column in columns.values())]


def _members(
    choices: Choices,
    table: Table,
    on: AnyColumn,
    user: AnyColumn,
    owner_roles: tuple[str, ...],
    gone: set[str],
) -> tuple[Members, tuple[str, ...]]:
    """Return the table of members with its further columns, and the levels of the model."""
    texts = [c.name for c in table.c if type_of(c) == "text"]
    times = [c.name for c in table.c if type_of(c) in {"timestamptz", "timestamp"}]
    role = _optional(choices, "role", table, texts, ROLES)
    status = _optional(choices, "status", table, texts, STATUSES)
    expires = _optional(choices, "expires", table, times, EXPIRES)
    roles = owner_roles
    if role is not None:
        roles = tuple(dict.fromkeys([*values_of(role), *owner_roles]))
        if not values_of(role):
            # Any text may be a role: only the user knows them.
            roles = ()
    else:
        roles = ("MEMBER", *owner_roles)
    levels = _levels(choices, roles)
    active: tuple[str, ...] = ()
    if status is not None:
        known = values_of(status)
        active = choices.several(
            "active",
            f"the values of {status.name} that grant access",
            known,
            [value for value in known if snake(value) in ACTIVE],
        )
    alone = is_unique(table, {on.name, user.name}, gone=gone)
    key = (on, user) if alone else tuple(table.primary_key)
    if not key or any(type_of(column) not in KEY_TYPES for column in key):
        raise UsageError(
            f"--membership: {table.name} has neither one row for each {on.name} and {user.name}, "
            f"nor a primary key of types {', '.join(KEY_TYPES)}; {_HAND}."
        )
    return Members(table, key, on, user, role, status, active, expires), levels


def _levels(choices: Choices, roles: tuple[str, ...]) -> tuple[str, ...]:
    """Return the roles from weakest to strongest; a guess only if each one's strength is known."""
    guess = by_strength(roles) or ()
    question = "the roles from weakest to strongest, separated by commas"
    if roles and not guess:
        question += f" (there are {', '.join(roles)})"
    levels = choices.several("levels", question, (), guess)
    if len(set(levels)) != len(levels):
        raise UsageError("--levels: a role is there twice.")
    return levels


def _optional(
    choices: Choices, flag: str, table: Table, options: list[str], names: Sequence[str]
) -> AnyColumn | None:
    """Return a column that a table may lack."""
    guess = first(options, names)
    name = choices.one(flag, f"the {flag} in {table.name}", options, guess, optional=True)
    return None if name is None else table.c[name]
