"""Module: the text of a mappings module, from a template and the declarations of a model."""

from importlib.resources import files
from string import Template
from typing import Final

from mirror.cli.init.layout import Group, Part, assignment, call, named, quoted, tuple_of
from mirror.cli.init.mappings import Mappings
from mirror.cli.init.model import GuardedTable, Model, mapping_name
from mirror.cli.init.names import Names, variable
from mirror.cli.init.tables import Tables
from mirror.cli.init.words import weakest_writer

_COMMENTS: Final = {
    "users": "Members may read each other's rows: the columns in `readable`, and no others.",
    "resource": "No rule decides by a descriptive column, so its changes never delay a revocation.",
    "members": "A row leaves the target when the query does not return it, or a parent leaves.",
    "auth_id": "The id in tokens; NULL if the text is no uuid, because a cast would fail for all.",
    "guard": "A table of yours on Supabase. A verb without a rule is forbidden.",
}


def template(name: str, **values: str) -> str:
    """Return a text of the folder `templates` with its places filled."""
    folder = files("mirror.cli.init") / "templates"
    return Template((folder / name).read_text(encoding="utf-8")).substitute(values)


def module_text(model: Model, tables: Tables) -> str:
    """Return the Python text of the mappings module."""
    declared = [variable(mapping_name(table)) for table in model.tables]
    names = Names(tables, declared + ([variable(model.guard.table)] if model.guard else []))
    mappings = Mappings(model, names)
    declarations = []
    if model.users is not None:
        declarations.append(_commented("users", mappings.users(model.users)))
    declarations.append(_commented("resource", mappings.resource()))
    if model.members is not None:
        declarations.append(_commented("members", mappings.members(model.members)))
    if model.guard is not None:
        declarations.append(_guard(model, model.guard))
    auth_ids = mappings.auth_ids()
    parts = [
        *filter(None, [names.definitions()]),
        *([_commented("auth_id", auth_ids)] if auth_ids else []),
        *declarations,
        _registry(model),
    ]
    text = "\n\n".join(parts)
    return template(
        "module.txt",
        title=f"Mappings: the rows that decide what users may do with a {model.noun}.",
        imports=names.imports(_imported(text)),
        parts=text,
    )


def _commented(name: str, statement: str) -> str:
    return f"# {_COMMENTS[name]}\n{statement}"


def _imported(text: str) -> list[str]:
    """Return the names that a text of declarations takes from `mirror`."""
    known = (
        "Allow Always Column Guard Mapping Membership Own Parent Readable Reference Registry Seat"
    )
    return [name for name in known.split() if f"{name}(" in text]


def _guard(model: Model, guard: GuardedTable) -> str:
    """Return the Guard of the first table: members read, writers also write what is their own."""
    weakest, strongest = model.levels[0], model.levels[-1]
    writer = weakest_writer(model.levels)
    own = call("Own", quoted(writer))
    insert: Part = own
    if guard.insert:
        insert = call("Allow", own, tuple_of(list(map(quoted, guard.insert)), "columns"))
    parts: list[Part] = [
        f"table={quoted(guard.table)}",
        f"via={quoted(model.via)}",
        f"on={quoted(guard.on)}",
        f"owner={quoted(guard.owner)}",
        f"read={quoted(weakest)}",
        named("insert", insert),
    ]
    if guard.update:
        columns = tuple_of(list(map(quoted, guard.update)), "columns")
        parts.append(named("update", call("Allow", own, columns)))
    delete: Part = own
    if strongest != writer:
        delete = call("Allow", own, quoted(strongest))
    parts.append(named("delete", delete))
    statement = assignment(variable(guard.table), call("Guard", *parts, apart=True))
    return _commented("guard", statement)


def _registry(model: Model) -> str:
    """Return the registry with the membership."""
    seats: list[tuple[str, str, str, Part]] = []
    for column, role in model.owners:
        via = mapping_name(model.resource)
        always = call("Always", quoted(role))
        seats.append((via, model.resource_id.name, column.name, always))
    members = model.members
    if members is not None:
        role_of: Part = call("Always", quoted(model.levels[0]))
        if members.role is not None:
            role_of = quoted(members.role.name)
        via = mapping_name(members.table)
        seats.append((via, members.resource.name, members.user.name, role_of))
    first, *others = [_seat(*seat) for seat in seats]
    also: list[Part] = [call("Seat", *seat) for seat in others]
    membership = call(
        "Membership",
        *first,
        *([tuple_of(also, "also")] if also else []),
        tuple_of(list(map(quoted, model.levels)), "levels"),
        f"noun={quoted(model.noun)}",
        apart=True,
    )
    mappings = ", ".join(variable(mapping_name(table)) for table in model.tables)
    parts: list[Part] = [
        quoted(mapping_name(model.resource)),
        Group("[", mappings.split(", "), "]"),
        Group("access=[", [membership], "]", apart=True),
    ]
    if model.guard is not None:
        parts.append(f"guards=[{variable(model.guard.table)}]")
    return assignment("registry", call("Registry", *parts, apart=True))


def _seat(mapping: str, resource: str, user: str, role: Part) -> list[Part]:
    return [
        f"mapping={quoted(mapping)}",
        f"resource={quoted(resource)}",
        f"user={quoted(user)}",
        named("role", role),
    ]
