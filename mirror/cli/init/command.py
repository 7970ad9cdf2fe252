"""Command: `mirror init` writes a mappings module for the tables of a backend."""

import sys
from dataclasses import replace
from pathlib import Path
from textwrap import indent
from types import ModuleType
from typing import Annotated, Final

import typer

from mirror.cli.init.advice import advice
from mirror.cli.init.choices import Choices
from mirror.cli.init.guarded import choose_guard
from mirror.cli.init.guess import find_model
from mirror.cli.init.model import Model
from mirror.cli.init.module import module_text, template
from mirror.cli.init.recipe import recipe
from mirror.cli.init.tables import Tables, tables_of_database, tables_of_models
from mirror.errors import MappingError, UsageError
from mirror.model.registry import Registry
from mirror.schema import guards_sql, model_sql, triggers_sql
from mirror.schema.connecting import migrating
from mirror.settings import load_settings

_SECONDS: Final = 30

_Name = str | None
_Names = list[str] | None


def _option(text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(help=text, rich_help_panel="Correct a guess")
    return option


def init(
    models: Annotated[
        str | None, typer.Option(help="The module with your SQLAlchemy models: app.models.")
    ] = None,
    database: Annotated[
        bool, typer.Option("--database", help="Look at the primary database instead.")
    ] = False,
    schema: Annotated[
        str | None, typer.Option(help="With --database: the schema of your tables.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("mappings.py"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    resource: Annotated[_Name, _option("The table of what users have access to.")] = None,
    membership: Annotated[
        _Name, _option("The table that says which users belong to which resources.")
    ] = None,
    users: Annotated[_Name, _option("The table of users, or none.")] = None,
    on: Annotated[_Name, _option("The membership's column with the resource.")] = None,
    user: Annotated[_Name, _option("The membership's column with the user.")] = None,
    role: Annotated[_Name, _option("The membership's column with the role, or none.")] = None,
    levels: Annotated[_Names, _option("The roles from weakest to strongest: MEMBER,OWNER.")] = None,
    status: Annotated[_Name, _option("The membership's column with a status, or none.")] = None,
    active: Annotated[_Names, _option("The values of the status that grant access.")] = None,
    expires: Annotated[_Name, _option("The membership's column with its end, or none.")] = None,
    owner: Annotated[
        _Names, _option("A column of the resource that names a user: owner_id=OWNER.")
    ] = None,
    deleted: Annotated[
        _Names, _option("Columns by which a row counts as deleted: deleted_at, or none.")
    ] = None,
    enabled: Annotated[
        _Names, _option("Columns that are true while a row counts: is_active, or none.")
    ] = None,
    auth_id: Annotated[_Name, _option("The users' column with the id that tokens carry.")] = None,
    user_type: Annotated[
        _Name, _option("The type of that id: uuid, or text for third-party auth.")
    ] = None,
    noun: Annotated[_Name, _option("The word for one resource: trip.")] = None,
    guard: Annotated[_Name, typer.Option(help="A table of yours on Supabase to guard.")] = None,
    guard_on: Annotated[_Name, _option("Its column with the resource.")] = None,
    guard_owner: Annotated[_Name, _option("Its column with the user that owns a row.")] = None,
) -> None:
    """Write a mappings module: the declarations of one kind of resource and its members."""
    module = _checked_output(output, force=force)
    given = {
        "resource": resource,
        "membership": membership,
        "users": users,
        "on": on,
        "user": user,
        "role": role,
        "levels": levels,
        "status": status,
        "active": active,
        "expires": expires,
        "owner": owner,
        "deleted": deleted,
        "enabled": enabled,
        "auth-id": auth_id,
        "user-type": user_type,
        "noun": noun,
        "guard": guard,
        "guard-on": guard_on,
        "guard-owner": guard_owner,
    }
    choices = Choices(
        {flag: _values(value) for flag, value in given.items() if value is not None},
        _ask if sys.stdin.isatty() else None,
    )
    tables = _tables(choices, models, schema, database=database)
    model = find_model(tables, choices)
    model = replace(model, guard=choose_guard(choices, model))
    text = module_text(model, tables)
    registry = _checked(text, output)
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--output: {output} cannot be written ({error.strerror}).") from None
    _report(output, module, model, choices, registry)


def _values(value: str | list[str]) -> tuple[str, ...]:
    """Return the values of a flag, which may be separated by commas, too."""
    texts = [value] if isinstance(value, str) else value
    return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())


def _ask(question: str) -> str:
    answer: str = typer.prompt(f"{question}\n", default="", show_default=False, err=True)
    return answer


def _checked_output(output: Path, *, force: bool) -> str:
    """Return the name under which the file will be imported from the working directory.

    Raises:
        UsageError: the file exists and `force` is not set, or could not be imported.
    """
    if output.suffix != ".py" or output.is_absolute() or ".." in output.parts:
        raise UsageError(
            f"--output: {output} could not be imported here; name a .py file below this directory."
        )
    if output.exists() and not force:
        raise UsageError(f"--output: {output} exists; add --force, or name another file.")
    package = output.with_suffix("")
    if package.is_dir():
        raise UsageError(
            f"--output: Python would import the directory {package}/ instead of {output}; name "
            f"another file, for example {package}/{package.name}.py."
        )
    names = list(package.parts)
    if not all(name.isidentifier() for name in names):
        raise UsageError(f"--output: {output} is no name of a Python module.")
    return ".".join(names)


def _tables(choices: Choices, models: str | None, schema: str | None, *, database: bool) -> Tables:
    """Return the tables of the primary."""
    if models is not None and database:
        raise UsageError("give either --models or --database, not both.")
    if models is None and not database and choices.ask is not None:
        models = choices.ask("The module with your SQLAlchemy models; empty: look at the database")
        database = not models
    if models:
        return tables_of_models(models)
    if not database:
        raise UsageError(
            "name the module with your SQLAlchemy models (--models app.models), or look at the "
            "primary itself (--database, with PRIMARY_DATABASE_URL)."
        )
    with migrating(load_settings(), "primary", seconds=_SECONDS) as connection:
        return tables_of_database(connection, schema)


def _checked(text: str, output: Path) -> Registry:
    """Return the registry of the text, if `mirror migrate` will accept it.

    Raises:
        UsageError: says which declaration cannot work.
    """
    module = ModuleType("checked_mappings")
    try:
        exec(compile(text, str(output), "exec"), vars(module))  # noqa: S102 - our own text
        registry: Registry = module.registry
        for printed in (model_sql, guards_sql, triggers_sql):
            printed(registry)
    except MappingError as error:
        raise UsageError(
            f"{error} Nothing was written: correct a guess with a flag (mirror init --help), or "
            f"write this model by hand; docs/models/ shows how."
        ) from error
    return registry


def _report(output: Path, module: str, model: Model, choices: Choices, registry: Registry) -> None:
    """Print the choices, the next steps, and the recipe for other languages."""
    print(f"wrote {output}\n")
    print("Chosen (a guess can be wrong; give the flag to correct it):")
    for choice in choices.made:
        how = "guessed" if choice.guessed else "given"
        print(f"  {'--' + choice.flag:<14} {choice.value:<40} {how}")
    for sentence in advice(model):
        print(f"\n{sentence}")
    migrate = "  3  mirror migrate\n"
    if model.guard:
        migrate = (
            f"  3  mirror migrate --guards    (when {model.guard.table} exists in the project)\n"
        )
    steps = template(
        "next.txt",
        output=str(output),
        mappings=f", MIRROR_MAPPINGS={module}" if module != "mappings" else "",
        migrate=migrate,
    )
    inserts = indent(recipe(registry), "  ")
    print(f"\n{steps}\n{template('recipe.txt', inserts=inserts)}", end="")
