"""Guarded: finds the columns of the target's table that the first Guard protects."""

from mirror.cli.init.choices import Choices
from mirror.cli.init.model import GuardedTable, Model, mapping_name
from mirror.errors import UsageError


def choose_guard(choices: Choices, model: Model) -> GuardedTable | None:
    """Return the table to guard; None: no flag names one.

    Raises:
        UsageError: it is a mirrored table.
    """
    table = choices.one("guard", "the table to guard", (), None, optional=True)
    if table is None:
        return None
    if table in {mapping_name(each) for each in model.tables}:
        raise UsageError(
            f"--guard: {table} is a mirrored table; name a table of yours on Supabase, such as "
            f"messages."
        )
    on = choices.one(
        "guard-on", f"the column of {table} with the {model.noun}", (), f"{model.noun}_id"
    )
    owner = choices.one("guard-owner", f"the column of {table} with the owner", (), "user_id")
    return GuardedTable(table, str(on), str(owner))
