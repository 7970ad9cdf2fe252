"""Mappings: the declarations of the mirrored tables, as text."""

from dataclasses import dataclass, field

from sqlalchemy import Table

from mirror.cli.init.layout import (
    Chain,
    Equal,
    Group,
    Part,
    assignment,
    call,
    named,
    quoted,
    tuple_of,
)
from mirror.cli.init.model import AnyColumn, Counts, Members, Model, Users, mapping_name
from mirror.cli.init.names import Names, labelled, variable
from mirror.cli.init.tables import type_of
from mirror.cli.init.words import NAMES, snake
from mirror.schema.quoting import identifier, literal

A_UUID = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"


@dataclass
class _Declared:
    """The parts of one Mapping, until it is printed."""

    name: str
    table: Table
    key: tuple[str, ...]
    columns: list[Part] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    """The columns that clients may read."""
    selected: list[Part] = field(default_factory=list)
    joins: list[Group] = field(default_factory=list)
    where: list[Part] = field(default_factory=list)
    references: list[Part] = field(default_factory=list)
    parents: list[Part] = field(default_factory=list)
    more: list[Part] = field(default_factory=list)
    """Arguments that only few mappings have."""
    using: str = ""
    indexed: str | None = None

    def add(self, name: str, kind: str, selected: Part, *, descriptive: bool = False) -> None:
        """Add a column with the expression that selects it."""
        flag = ["descriptive=True"] if descriptive else []
        self.columns.append(call("Column", quoted(name), quoted(kind), *flag))
        self.shown.append(name)
        self.selected.append(selected)

    def refer(self, name: str, kind: str, table: Table, selected: Part) -> None:
        """Add a reference that is not a column of the target."""
        arguments = [quoted(name), quoted(kind), f"table={quoted(table.key)}"]
        self.references.append(call("Reference", *arguments))
        self.selected.append(selected)

    def text(self) -> str:
        """Return the statement."""
        where = [call(".where", *self.where)] if self.where else []
        query = Chain(call("select", *self.selected), [*self.joins, *where])
        readable: list[Part] = [tuple_of(list(map(quoted, self.shown))), quoted(self.using)]
        if self.indexed is not None:
            readable.append(f"indexed=({quoted(self.indexed)},)")
        parts: list[Part] = [
            f"name={quoted(self.name)}",
            f"table={quoted(self.table.name)}",
            tuple_of(list(map(quoted, self.key)), "key"),
            tuple_of(self.columns, "columns"),
            named("query", query),
            *([tuple_of(self.references, "references")] if self.references else []),
            *([tuple_of(self.parents, "parents")] if self.parents else []),
            *self.more,
            named("readable", call("Readable", *readable)),
        ]
        return assignment(variable(self.name), call("Mapping", *parts, apart=True))


class Mappings:
    """Prints the mappings of a model."""

    def __init__(self, model: Model, names: Names) -> None:
        self._model = model
        self._names = names
        self._casts: dict[str, str] = {}
        names.use("select")
        self._mine = (
            f"any((select mirror.my_{model.noun}s({literal(model.levels[0])}))::"
            f"{type_of(model.resource_id)}[])"
        )

    def auth_ids(self) -> str:
        """Return the statements for the casts of users' ids; empty: no mapping needs one.

        Call it when all mappings are printed.
        """
        if not self._casts:
            return ""
        self._names.use("Uuid", "case", "cast")
        return "\n".join([f"_A_UUID = {quoted(A_UUID)}", *self._casts.values()])

    def users(self, users: Users) -> str:
        """Return the mapping of the users."""
        own = users.id.name
        declared = _Declared(mapping_name(users.table), users.table, (own,))
        declared.add(own, users.type, self._auth_as(users, own))
        self._add_names(declared, users.table)
        if users.translated:
            declared.where.append(call(f"{self._auth(users)}.is_not", "None"))
            declared.refer(
                f"own_{snake(own)}",
                str(type_of(users.id)),
                users.table,
                self._names.selected(users.id, f"own_{snake(own)}"),
            )
        declared.where += self._conditions(users.table)
        companions = f"mirror.my_{self._model.noun}_companions()"
        declared.using = f"{identifier(own)} = any((select {companions})::{users.type}[])"
        return declared.text()

    def resource(self) -> str:
        """Return the mapping of the resource, with the columns that name its owners."""
        model = self._model
        key = model.resource_id
        declared = _Declared(mapping_name(model.resource), model.resource, (key.name,))
        declared.add(key.name, str(type_of(key)), self._names.selected(key))
        self._add_names(declared, model.resource)
        for column, _ in model.owners:
            self._add_owner(declared, column)
        declared.where += self._conditions(model.resource)
        declared.using = f"{identifier(key.name)} = {self._mine}"
        return declared.text()

    def members(self, members: Members) -> str:
        """Return the mapping of the members."""
        model, names = self._model, self._names
        key = tuple(column.name for column in members.key)
        declared = _Declared(mapping_name(members.table), members.table, key)
        for column in members.key:
            if column not in {members.resource, members.user}:
                declared.add(column.name, str(type_of(column)), names.selected(column))
        on, user = members.resource.name, members.user.name
        declared.add(on, str(type_of(model.resource_id)), names.selected(members.resource))
        self._add_user(declared, members)
        for text in (members.role, members.status):
            if text is not None:
                declared.add(text.name, "text", names.selected(text))
        if members.status is not None:
            values = Group("{", [quoted(value) for value in members.active], "}")
            active = Group(f"{quoted(members.status.name)}: frozenset(", [values])
            declared.more.append(Group("active={", [active], "}"))
        if members.expires is not None:
            self._add_expiry(declared, members.expires)
        # An invitation may name no user yet. A join leaves it out by itself.
        joined = model.users is not None and model.users.translated
        for column in (members.resource, members.user):
            if column.nullable and not (joined and column is members.user):
                declared.where.append(call(f"{names.column(column)}.is_not", "None"))
        declared.where += self._conditions(members.table)
        declared.parents.append(call("Parent", quoted(mapping_name(model.resource)), quoted(on)))
        if model.users is not None:
            parent = quoted(mapping_name(model.users.table))
            declared.parents.append(call("Parent", parent, quoted(user)))
        declared.using = f"{identifier(on)} = {self._mine}"
        declared.indexed = None if key[0] == on else on
        return declared.text()

    def _add_user(self, declared: _Declared, members: Members) -> None:
        """Add the user's id as tokens carry it; if it is another, join the table of users."""
        user, users, names = members.user, self._model.users, self._names
        if users is None or not users.translated:
            declared.add(user.name, self._model.user_type, names.selected(user))
            return
        declared.add(user.name, users.type, self._auth_as(users, user.name))
        label = f"own_{snake(user.name)}"
        declared.refer(label, str(type_of(users.id)), users.table, names.selected(user, label))
        same = Equal(names.column(users.id), names.column(user))
        declared.joins.append(call(".join", names.table(users.table), same))
        # Two rows of users may have had one id in Auth, the deleted one and its successor.
        declared.where.append(call(f"{self._auth(users)}.is_not", "None"))
        declared.where += self._conditions(users.table)

    def _add_owner(self, declared: _Declared, column: AnyColumn) -> None:
        """Add a column of the resource that names a user."""
        users, names = self._model.users, self._names
        conditions = self._model.conditions.get(users.table.key, ()) if users else ()
        if users is None or not (users.translated or conditions):
            declared.add(column.name, self._model.user_type, names.selected(column))
            return
        alias = names.alias(users.table, f"user_of_{snake(column.name)}")
        auth = names.column(users.auth, alias)
        if users.cast:
            auth = self._cast(f"_auth_id_of_{snake(column.name)}", auth)
        declared.add(column.name, users.type, labelled(auth, column.name))
        label = f"own_{snake(column.name)}"
        declared.refer(label, str(type_of(users.id)), users.table, names.selected(column, label))
        same = Equal(names.column(users.id, alias), names.column(column))
        if conditions:
            names.use("and_")
        counting = [self._condition(c.column, c.counts, alias) for c in conditions]
        on: Part = call("and_", same, *counting) if counting else same
        declared.joins.append(call(".outerjoin", alias, on))

    def _add_expiry(self, declared: _Declared, column: AnyColumn) -> None:
        """Add the time from which a member counts as absent."""
        selected = self._names.selected(column)
        if type_of(column) != "timestamptz":
            self._names.use("func")
            time = call("func.timezone", quoted("UTC"), self._names.column(column)).flat()
            selected = labelled(time, column.name)
        declared.add(column.name, "timestamptz", selected)
        declared.more.append(f"expires={quoted(column.name)}")

    def _add_names(self, declared: _Declared, table: Table) -> None:
        """Add the first column that names the row for people, if there is one."""
        columns = [column for column in table.c if type_of(column) == "text"]
        for name in NAMES:
            for column in columns:
                if snake(column.name) == name and column.name not in declared.shown:
                    declared.add(
                        column.name, "text", self._names.selected(column), descriptive=True
                    )
                    return

    def _auth(self, users: Users) -> str:
        """Return the expression for the id of a user as tokens carry it."""
        auth = self._names.column(users.auth)
        return self._cast("_auth_id", auth) if users.cast else auth

    def _cast(self, name: str, column: str) -> str:
        """Give a name to the uuid that a column stores as text; NULL if it is none."""
        case = Group("(", [f"{column}.regexp_match(_A_UUID)", f"cast({column}, Uuid)"])
        self._casts[name] = assignment(name, call("case", case))
        return name

    def _auth_as(self, users: Users, label: str) -> Part:
        """Return the same expression under a label."""
        if users.cast:
            return labelled(self._auth(users), label)
        return self._names.selected(users.auth, label)

    def _conditions(self, table: Table) -> list[Part]:
        found = self._model.conditions.get(table.key, ())
        return [self._condition(one.column, one.counts) for one in found]

    def _condition(self, column: AnyColumn, counts: Counts, of: str | None = None) -> Part:
        method, _, value = counts.value.rstrip(")").partition("(")
        return call(f"{self._names.column(column, of)}.{method}", value)
