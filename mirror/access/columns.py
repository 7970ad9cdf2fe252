"""Columns: who may change which ones of a row, where a policy can only judge the row."""

from collections.abc import Sequence
from textwrap import indent

from mirror.access.rules import PolicyCondition, both, one_of
from mirror.model.registry import Registry
from mirror.schema.quoting import comma, identifier, literal


def column_rules(
    registry: Registry,
    relation: tuple[str, str],
    rules: Sequence[tuple[tuple[str, ...], PolicyCondition]],
) -> str:
    """Return the block that refuses a change of columns to whom none of their rules admits.

    `rules` are columns and what must be true of a row for whoever changes them, before and after.
    Grants and the policy see to the rest: that nobody changes other columns, or other rows. Whoever
    is not bound by policies is not bound by this.
    """
    schema, table = relation
    columns = dict.fromkeys(column for names, _ in rules for column in names)
    groups: dict[tuple[int, ...], list[str]] = {}
    for column in columns:
        admitted = tuple(i for i, (names, _) in enumerate(rules) if column in names)
        groups.setdefault(admitted, []).append(column)
    checks = "\n".join(
        _check(relation, names, [rules[i][1] for i in admitted])
        for admitted, names in groups.items()
    )
    function = identifier("mirror", f"columns_{registry.name}_{table}")
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
    """Return the statement that looks at columns with the same rules."""
    new, old = (", ".join(f"{row}.{identifier(name)}" for name in names) for row in ("new", "old"))
    admitted = one_of(
        *(both(_holds(relation, "old", c), _holds(relation, "new", c)) for c in conditions)
    )
    message = f"you may not change {comma(names)} of this row of {relation[1]}"
    return f"""\
if record_image_ne(row({new}), row({old}))
  and not (
{indent(admitted.text, "    ")}
  )
then
  raise exception using errcode = 'insufficient_privilege',
    message = {literal(message)};
end if;"""


def _holds(relation: tuple[str, str], row: str, condition: PolicyCondition) -> PolicyCondition:
    """Return that a condition holds for a trigger's row, which has the table's name there."""
    return PolicyCondition(
        f"exists (\n  select from (select {row}.*) as {identifier(relation[1])}\n"
        f"  where {indent(condition.text, '    ').lstrip()}\n)"
    )
