"""Guarded: finds the columns of the target's table that the first Guard protects."""

import sys
from typing import Final

from sqlalchemy import MetaData, Table

from mirror.cli.init.choices import NONE, Choices
from mirror.cli.init.model import GuardedTable, Model, key_of, mapping_name
from mirror.cli.init.tables import type_of
from mirror.cli.init.words import SENDERS, snake
from mirror.errors import MirrorError, UsageError
from mirror.errors.redaction import one_line
from mirror.schema.connecting import migrating
from mirror.settings import load_settings

_SECONDS: Final = 10
_QUESTION: Final = "a table of yours on Supabase to guard, such as messages; empty: none yet"


def choose_guard(choices: Choices, model: Model) -> GuardedTable | None:
    """Return the table to guard; None: no flag names one.

    If SUPABASE_DB_URL is set and the table exists there, its columns decide the guesses and which
    of them users may give and change.

    Raises:
        UsageError: it is a mirrored table, or lacks a column.
    """
    if "guard" not in choices.given and choices.ask is not None:
        choices.given["guard"] = (choices.ask(_QUESTION).strip() or NONE,)
    name = choices.one("guard", "the table to guard", (), None, optional=True)
    if name is None:
        return None
    if name in {table.name for table in model.tables} | set(map(mapping_name, model.tables)):
        raise UsageError(
            f"--guard: {name} is a mirrored table; name a table of yours on Supabase, such as "
            f"messages."
        )
    table = _in_target(name)
    columns = [] if table is None else table.c.keys()
    on, owner = f"{model.noun}_id", "user_id"
    if table is not None:
        on = next((column for column in columns if snake(column) == on), "")
        typed = [c.name for c in table.c if type_of(c) == model.user_type and c.name != on]
        owner = next((c for word in SENDERS for c in typed if snake(c) == word), "")
    on = str(choices.one("guard-on", f"the column of {name} with the {model.noun}", columns, on))
    owner = str(choices.one("guard-owner", f"the column of {name} with its owner", columns, owner))
    if table is None:
        return GuardedTable(name, on, owner)
    given = [c for c in table.c if c.server_default is None and not c.identity and not c.computed]
    fixed = {on, owner, *(column.name for column in table.primary_key)}
    key = key_of(table)
    if key is not None and type_of(key) == "uuid" and key not in given:
        # Clients may choose a row's id, so that a repeated request adds no second row.
        given.insert(0, key)
    return GuardedTable(
        name,
        on,
        owner,
        insert=tuple(column.name for column in given),
        update=tuple(c.name for c in given if c.name not in fixed and type_of(c) == "text"),
    )


def _in_target(name: str) -> Table | None:
    """Return the table of this name in the target; None: it is not there, or cannot be looked up.

    The target may not be reachable yet, because nothing is written to it.
    """
    settings = load_settings()
    if settings.supabase_db_url is None:
        return None
    metadata = MetaData()
    try:
        with migrating(settings, "supabase", seconds=_SECONDS) as connection:
            metadata.reflect(connection, schema="public", only=lambda found, _: found == name)
    except MirrorError as error:
        print(one_line(f"warning: the columns of {name} are guessed: {error}"), file=sys.stderr)
    return metadata.tables.get(f"public.{name}")
