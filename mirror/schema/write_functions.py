"""Write functions: the functions in the target that write the rows of one mapping.

They are printed for each mapping instead of composed at run time. Static SQL has cached plans and
typed keys, and a user can read, explain and review it where it runs.
"""

from textwrap import indent

from mirror.model.mapping import EVERYTHING, Mapping, Parent
from mirror.model.registry import Registry
from mirror.schema.names import function_name, ledger_column, ledger_name, table_name
from mirror.schema.quoting import comma, identifier, literal
from mirror.schema.skeletons import fill


def apply_function(registry: Registry, mapping: Mapping) -> str:
    """Return `mirror.apply_<mapping>`: admit each key by its fence, then write its row."""
    key = mapping.key
    references = [ref.name for ref in mapping.all_references if ref.name not in key]
    own_columns = [f"ref_{name}" for name in references]
    gone = [f"gone_{name}" for name in key]
    return fill(
        "apply",
        apply=function_name("apply", mapping),
        withdraw=function_name("withdraw", mapping),
        table=table_name(mapping),
        ledger=ledger_name(mapping),
        key=comma(key),
        j_key=comma(key, "j."),
        l_key=comma(key, "l."),
        first_key=identifier(key[0]),
        j_key_json=f"jsonb_build_array({comma(key, 'j.', '::text')})",
        l_is_j=_same_key(mapping, "l", "j"),
        mapping=literal(mapping.name),
        a_is_j=_same_key(mapping, "a", "j"),
        columns=comma(column.name for column in mapping.columns),
        j_columns=comma((column.name for column in mapping.columns), "j."),
        on_conflict=_on_conflict(mapping),
        ledger_columns=comma([*key, *own_columns]),
        ledger_values=comma([*key, *references], "j."),
        new_references="".join(
            f"{identifier(name)} = excluded.{identifier(name)}, " for name in own_columns
        ),
        **_known(registry, mapping),
        orphan=_orphan(registry, mapping),
        gone=comma(gone),
        first_gone=identifier(gone[0]),
        gone_declarations="\n".join(
            f"{identifier(name)} {column.type}[];"
            for name, column in zip(gone, mapping.key_columns, strict=True)
        ),
        gone_arrays=",\n".join(
            f"array_agg(j.{identifier(name)}) filter (where not a.present)" for name in key
        ),
        **_incoming(mapping, is_parent=bool(registry.children(mapping))),
    )


def _incoming(mapping: Mapping, *, is_parent: bool) -> dict[str, str]:
    """Return the fragments of `apply.sql` that parse the input, and those for parents alone.

    A worker could write a parent without its children and then die. The parent would be present
    at the next attempt, and nothing would read its children again. So both must come in one call:
    `whole` says that they do, and a parent that appears `alone` is refused.
    """
    values = [
        f"(r ->> {i})::{kind} as {identifier(name)}"
        for i, (name, kind) in enumerate(mapping.row_layout)
    ]
    gone = [
        f"(g ->> {mapping.key.index(name)})::{kind}" if name in mapping.key else f"null::{kind}"
        for name, kind in mapping.row_layout
    ]
    for_parents = dict.fromkeys(
        ["alone", "and_not_alone", "and_stale_or_not_alone", "appearing"], ""
    )
    if is_parent:
        values.append(f"coalesce((r ->> {len(values)})::boolean, false) as whole")
        gone.append("null::boolean")
        j_key_json = f"jsonb_build_array({comma(mapping.key, 'j.', '::text')})"
        for_parents = {
            "alone": ",\nk.present and not k.was_present and not k.whole as alone",
            "and_not_alone": " and not j.alone",
            "and_stale_or_not_alone": " and (j.stale or not j.alone)",
            "appearing": f",\n'appearing', coalesce(jsonb_agg({j_key_json})"
            " filter (where j.alone and not j.stale and not j.orphan), '[]')",
        }
    return {"row_values": ",\n".join(values), "gone_values": ", ".join(gone), **for_parents}


def _on_conflict(mapping: Mapping) -> str:
    """Return what to do where the row exists: update it if one of its values differs."""
    names = [column.name for column in mapping.data_columns]
    if not names:
        return "do nothing"
    updates = ",\n  ".join(f"{identifier(name)} = excluded.{identifier(name)}" for name in names)
    return (
        f"do update set\n  {updates}\n"
        f"where ({comma(names, 't.')})\n  is distinct from ({comma(names, 'excluded.')})"
    )


def _scope_fences(mapping: Mapping) -> list[str]:
    """Return, for each scope that a row can be in, its fence."""
    values = {EVERYTHING: "''"} | {
        reference.name: f"i.{identifier(reference.name)}::text"
        for reference in mapping.all_references
    }
    return [
        fill(
            "scope_fence", mapping=literal(mapping.name), reference=literal(reference), value=value
        )
        for reference, value in values.items()
    ]


def _known(registry: Registry, mapping: Mapping) -> dict[str, str]:
    """Return the fragments of `apply.sql` that find out what is known of a key before the upsert.

    A leaf's ledger is not asked before: the upsert itself refuses what is older. For a parent, the
    row must be known to have been present, in the table too: if a user deleted a parent's row by
    hand, its foreign keys deleted the children as well.
    """
    scopes = ",\n".join(_scope_fences(mapping))
    newest = f"case when later_scopes and i.present then greatest(\n{indent(scopes, '  ')}\n) end"
    if not registry.children(mapping):
        return {"known": f"{newest} as newest", "known_ledger": "", "or_of_itself": ""}
    return {
        "known": (
            "coalesce(l.present, false) and exists (\n"
            f"  select from {table_name(mapping)} as t where {_same_key(mapping, 't', 'i')}\n"
            ") as was_present,\n"
            "greatest(\n  case when l.epoch = p_epoch then l.fence end,\n"
            f"{indent(newest, '  ')}\n) as newest"
        ),
        "known_ledger": fill(
            "known_ledger", ledger=ledger_name(mapping), s_is_i=_same_key(mapping, "s", "i")
        ),
        "or_of_itself": ", or of the key itself",
    }


def _orphan(registry: Registry, mapping: Mapping) -> str:
    """Return the condition that a parent of the row is missing.

    The ledger decides: the table still has a parent that only a foreign key holds back. The ledger
    still has one that was deleted by hand; the row's foreign key then fails the call, and
    `mirror.forget_lost_parents` corrects the ledger for the second attempt.
    """
    if not mapping.parents:
        return "false"
    missing = " or ".join(_missing(parent, registry[parent.mapping]) for parent in mapping.parents)
    return f"k.present and not coalesce(k.newest > p_fence, false) and (\n  {missing}\n)"


def _missing(parent: Parent, other: Mapping) -> str:
    column = identifier(parent.column)
    # Not EXISTS: PostgreSQL might read all parents for it before the first key.
    return (
        f"(k.{column} is not null and (\n"
        f"    select true from {ledger_name(other)} as p\n"
        f"    where p.{identifier(other.key[0])} = k.{column} and p.present\n"
        f"  ) is null)"
    )


def withdraw_function(registry: Registry, mapping: Mapping) -> str:
    """Return `mirror.withdraw_<mapping>`: remove rows whose ledger says absent, children first."""
    declarations, steps = [], []
    for number, (child, parent) in enumerate(registry.children(mapping), 1):
        declarations += [
            f"{identifier(f'child{number}_{column.name}')} {column.type}[];"
            for column in child.key_columns
        ]
        steps.append(_withdraw_children(mapping, child, parent.column, number))
    table, key = table_name(mapping), mapping.key
    arrays = [f"p_{name}" for name in key]
    nulls = ", ".join(f"{identifier(column.name)} = null" for column in mapping.data_columns)
    rows = f"unnest({comma(arrays)}) as g ({comma(key)})\n  where {_same_key(mapping, 't', 'g')};"
    delete = f"delete from {table} as t\n  using {rows}"
    if mapping.on_delete == "retain":
        steps.append(f"update {table} as t set {nulls}\n  from {rows}" if nulls else "null;")
    elif not nulls and not registry.children(mapping):
        # The bare key would still grant. If another table's foreign key holds it back: fail.
        steps.append(f"set constraints all immediate;\n{delete}")
    else:
        declarations.append("held jsonb := '[]';")
        one = " and ".join(f"t.{identifier(name)} = {identifier(f'p_{name}')}[i]" for name in key)
        steps.append(
            fill(
                "withdraw_rows",
                delete=delete,
                table=table,
                first_array=identifier(arrays[0]),
                t_is_one=one,
                blank=f"update {table} as t set {nulls} where {one};" if nulls else "null;",
                one_texts=comma(arrays, after="[i]::text"),
                mapping=literal(mapping.name),
            )
        )
    return fill(
        "withdraw",
        withdraw=function_name("withdraw", mapping),
        key_parameters="".join(
            f", {identifier('p_' + column.name)} {column.type}[]" for column in mapping.key_columns
        ),
        declarations="\n".join(declarations),
        steps="\n\n".join(steps),
    )


def _withdraw_children(mapping: Mapping, child: Mapping, column: str, number: int) -> str:
    children = [f"child{number}_{name}" for name in child.key]
    return fill(
        "withdraw_children",
        child=child.name,
        child_literal=literal(child.name),
        reference=literal(column),
        reference_column=identifier(ledger_column(child, column)),
        parent_keys=identifier(f"p_{mapping.key[0]}"),
        ledger=ledger_name(child),
        l_key=comma(child.key, "l."),
        key_arrays=comma(child.key, "array_agg(", ")"),
        children=comma(children),
        first_child=identifier(children[0]),
        withdraw=function_name("withdraw", child),
    )


def scope_function(mapping: Mapping) -> str:
    """Return `mirror.scope_<mapping>`: the keys known under some values of a reference."""
    conditions = {EVERYTHING: ""} | {
        reference.name: f"and l.{identifier(ledger_column(mapping, reference.name))}"
        f" = any(p_values::{reference.type}[])"
        for reference in mapping.all_references
    }
    branches = [
        fill(
            "scope_branch",
            reference=literal(reference),
            ledger=ledger_name(mapping),
            key_texts=comma(mapping.key, "f.", "::text"),
            f_key=comma(mapping.key, "f."),
            l_key=comma(mapping.key, "l."),
            and_under=condition,
            after=", ".join(
                f"p_after[{i}]::{column.type}" for i, column in enumerate(mapping.key_columns, 1)
            ),
        )
        for reference, condition in conditions.items()
    ]
    return fill(
        "scope",
        scope=function_name("scope", mapping),
        branches="\n".join(branches),
        mapping=mapping.name,
    )


def revoke_write_functions(mapping: Mapping) -> str:
    """Return the statement that lets only the engine call these functions."""
    arrays = ", ".join(f"{column.type}[]" for column in mapping.key_columns)
    return f"""\
revoke all on function
  {function_name("apply", mapping)}(integer, bigint, jsonb, jsonb),
  {function_name("scope", mapping)}(text, text[], text[], integer),
  {function_name("withdraw", mapping)}(integer, bigint, {arrays})
from public, anon, authenticated, service_role;"""


def _same_key(mapping: Mapping, one: str, other: str) -> str:
    return " and ".join(
        f"{one}.{identifier(name)} = {other}.{identifier(name)}" for name in mapping.key
    )
