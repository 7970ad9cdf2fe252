"""Recipe: the statements by which a writer in another language records changes of a model."""

from textwrap import indent

from mirror.model.mapping import EVERYTHING
from mirror.model.query.effects import Effect
from mirror.model.registry import Registry
from mirror.schema.quoting import literal


def recipe(registry: Registry) -> str:
    """Return, for each table of the primary, the INSERTs that record a change of one of its rows.

    `$1`, `$2`, … are values of the changed row, as texts.
    """
    found = []
    for table, effects in registry.effects.items():
        statements = dict.fromkeys(map(insert_for, effects))
        found.append("\n".join([f"{table}:", *(indent(one, "  ") for one in statements)]))
    return "\n".join(found)


def insert_for(effect: Effect) -> str:
    """Return the INSERT that records a change by one Effect of a table, under a comment."""
    mapping = literal(effect.mapping)
    values = ", ".join(f"${n}::text" for n, _ in enumerate(effect.columns, start=1))
    named = ", ".join(f"${n}: {column}" for n, column in enumerate(effect.columns, start=1))
    if effect.reference is None:
        return (
            f"-- {named}\ninsert into mirror.outbox (lane, mapping, key)\n"
            f"values (0, {mapping}, array[{values}]);"
        )
    whole = effect.reference == EVERYTHING
    key = "'{}'" if whole else f"array[{values}]"
    return (
        f"-- {'all rows' if whole else named}\n"
        f"insert into mirror.outbox (lane, mapping, reference, key)\n"
        f"values (0, {mapping}, {literal(effect.reference)}, "
        f"{key});"
    )
