"""Columns: the SQL of the trigger that limits a guard's updates by column.

A policy cannot do that, because it decides about whole rows.
"""

from collections.abc import Sequence
from textwrap import indent

from mirror.access.rules import PolicyCondition, all_of, any_of
from mirror.model.registry import Registry
from mirror.schema.quoting import comma, identifier, literal


def column_rules(
    registry: Registry,
    relation: tuple[str, str],
    rules: Sequence[tuple[tuple[str, ...], PolicyCondition]],
) -> str:
    """Return the SQL of a trigger that refuses a change of a column if no rule allows it.

    Each rule is a pair: columns, and the condition under which a caller may change them. It must be
    true of the row before and after. Columns that no rule names, and other rows, are refused by
    column grants and the policy. For roles that bypass row-level security, the trigger does
    nothing.
    """
    schema, table = relation
    columns = dict.fromkeys(column for names, _ in rules for column in names)
    columns_by_rules: dict[tuple[int, ...], list[str]] = {}
    for column in columns:
        numbers = tuple(i for i, (names, _) in enumerate(rules) if column in names)
        columns_by_rules.setdefault(numbers, []).append(column)
    checks = "\n".join(
        _check(relation, names, [rules[i][1] for i in numbers])
        for numbers, names in columns_by_rules.items()
    )
    # Another schema may have a table of the same name.
    called = table if schema == "public" else f"{schema}.{table}"
    function = identifier("mirror", f"columns_{registry.name}_{called}")
    name = identifier(schema, table)
    return f"""\
-- {table}: a policy judges rows, this their columns. After all other triggers, so that it sees what
-- is written.
create or replace function {function}() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  -- Through a partition, the table's.
  if not row_security_active(coalesce(pg_partition_root(tg_relid), tg_relid)) then
    return null;
  end if;
{indent(checks, "  ")}
  return null;
end
$$;
revoke all on function {function}() from public, anon, authenticated, service_role;

create trigger {identifier(f"mirror_{registry.name}_columns")}
after update on {name}
for each row execute function {function}();"""


def _check(relation: tuple[str, str], names: list[str], conditions: list[PolicyCondition]) -> str:
    """Return the statement that refuses a change of one of the columns `names`.

    It allows the change if one of the conditions is true of the old and of the new row.
    """
    new, old = (", ".join(f"{row}.{identifier(name)}" for name in names) for row in ("new", "old"))
    allowed = any_of(
        *(all_of(_holds(relation, "old", c), _holds(relation, "new", c)) for c in conditions)
    )
    message = f"you may not change {comma(names)} of this row of {relation[1]}"
    return f"""\
if record_image_ne(row({new}), row({old}))
  and not (
{indent(allowed.text, "    ")}
  )
then
  raise exception using errcode = 'insufficient_privilege',
    message = {literal(message)};
end if;"""


def _holds(relation: tuple[str, str], row: str, condition: PolicyCondition) -> PolicyCondition:
    """Return the condition applied to the trigger's `row`, which is `old` or `new`.

    The row gets the table's name as its alias, because the condition may use that name.
    """
    return PolicyCondition(
        f"exists (\n  select from (select {row}.*) as {identifier(relation[1])}\n"
        f"  where {indent(condition.text, '    ').lstrip()}\n)"
    )
