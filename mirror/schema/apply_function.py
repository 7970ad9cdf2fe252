"""Apply function: returns the SQL of the function in the target that writes a mapping's rows.

It is printed for each mapping: static SQL has a plan that is kept, and a user can read and explain
it where it runs. All other statements about a mapping are rare, so the engine makes them from its
declaration (`mirror.parts`).
"""

from textwrap import indent

from mirror.model.mapping import EVERYTHING, Mapping, Parent
from mirror.model.registry import Registry
from mirror.schema.names import function_name, ledger_name, table_name
from mirror.schema.quoting import comma, identifier, literal
from mirror.schema.skeletons import fill


def apply_function(registry: Registry, mapping: Mapping) -> str:
    """Return `mirror.apply_<mapping>`: admit each key by its fence, then write its row."""
    key = mapping.key
    references = [ref.name for ref in mapping.all_references if ref.name not in key]
    own_columns = [f"ref_{name}" for name in references]
    return fill(
        "apply",
        apply=function_name("apply", mapping),
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
        gone=_gone(registry, mapping),
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
    return {"row_values": ", ".join(values), "gone_values": ", ".join(gone), **for_parents}


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


def _gone(registry: Registry, mapping: Mapping) -> str:
    """Return what to do with rows that are gone: delete those that have no children.

    Static, because a revocation waits for it: to make and plan it takes a millisecond.
    `mirror.withdraw` does it for others, and for rows that stay.
    """
    if registry.children(mapping) or mapping.on_delete == "retain":
        return fill("refuse_earlier_engine")
    types = {column.name: column.type for column in mapping.columns}
    same = " and ".join(
        f"t.{identifier(name)} = (g.value ->> {place})::{types[name]}"
        for place, name in enumerate(mapping.key)
    )
    return fill("delete_leaves", table=table_name(mapping), t_is_g=same)


def _same_key(mapping: Mapping, one: str, other: str) -> str:
    return " and ".join(
        f"{one}.{identifier(name)} = {other}.{identifier(name)}" for name in mapping.key
    )
