"""Compare functions: the functions in the target with which a reconcile reads one mapping's rows.

A row consists of the visible row's columns and of the references that only the ledger keeps. A
key is a stray where table and ledger disagree about its existence. Its columns may be right today,
but the mirror would miss it when its scope changes.
"""

from mirror.model.mapping import Mapping
from mirror.schema.names import function_name, ledger_column, ledger_name, table_name
from mirror.schema.quoting import comma, identifier, literal
from mirror.schema.skeletons import fill

# Hashes of a row that are equal on every server. Both sides must hash the same texts.
RECORD_HASH = "hash_record_extended({row}, {seed})"
MD5_HASH = "('x' || left(md5({seed}::text || {row}::text), 16))::bit(64)::bigint"


def seeded_hash(row: str) -> str:
    """Return the hash of a row, in a function with the parameters `p_md5` and `p_seed`."""
    md5, record = (text.format(seed="p_seed", row=row) for text in (MD5_HASH, RECORD_HASH))
    return f"case when p_md5 then {md5} else {record} end"


def digest_function(mapping: Mapping) -> str:
    """Return `mirror.digest_<mapping>`: the sum of the hashes in one key range, or each of them.

    The range includes `p_from` and excludes `p_until`; NULL for `p_until` means no end. The
    function reads at most about `p_limit` rows and returns as `until` the key where it stopped.
    """
    return fill(
        "digest",
        digest=function_name("digest", mapping),
        limit_by_table=_limit(mapping, table_name(mapping)),
        limit_by_ledger=_limit(mapping, ledger_name(mapping)),
        open_range=_range(mapping, open_ended=True),
        closed_range=_range(mapping, open_ended=False),
    )


def rows_function(model: str, mapping: Mapping) -> str:
    """Return `mirror.rows_<mapping>`, which returns all that table and ledger know of some keys."""
    on = " and ".join(f"{{0}}.{identifier(name)} = a.k{i}" for i, name in enumerate(mapping.key))
    return fill(
        "rows",
        rows=function_name("rows", mapping),
        table=table_name(mapping),
        ledger=ledger_name(mapping),
        first_key=identifier(mapping.key[0]),
        key_texts=", ".join(f"a.k{i}::text" for i in range(len(mapping.key))),
        value_texts=", ".join(f"{value}::text" for value in row_values(mapping)),
        bare=bare(mapping),
        expired=f"t.{identifier(mapping.expires)} <= now()" if mapping.expires else "false",
        migration=literal(f"model_{model}"),
        asked=", ".join(
            f"(k ->> {i})::{column.type} as k{i}" for i, column in enumerate(mapping.key_columns)
        ),
        t_is_asked=on.format("t"),
        l_is_asked=on.format("l"),
    )


def expired_function(mapping: Mapping) -> list[str]:
    """Return `mirror.expired_<mapping>`, which names expired rows, and its index.

    The list is empty if the mapping's rows never expire.
    """
    if mapping.expires is None:
        return []
    table = table_name(mapping)
    return [
        fill(
            "expired",
            expired=function_name("expired", mapping),
            table=table,
            key_texts=comma(mapping.key, "s.", "::text"),
            t_key=comma(mapping.key, "t."),
            expires=identifier(mapping.expires),
            after=_typed_key(mapping, "p_after"),
        ),
        f"-- The sweep asks by time.\n"
        f"select mirror.add_index({literal(table)}, {literal(mapping.expires)});",
    ]


def revoke_compare_functions(mapping: Mapping) -> str:
    """Return the statement that lets only the engine call these functions."""
    return f"""\
revoke all on function
  {function_name("digest", mapping)}(
    text[], text[], bigint, boolean, integer, boolean
  ),
  {function_name("rows", mapping)}(jsonb)
from public, anon, authenticated, service_role;"""


def row_values(mapping: Mapping) -> list[str]:
    """Return the values of a row: columns of the table `t`, then references of the ledger `l`."""
    names = {column.name for column in mapping.columns}
    return [
        f"t.{identifier(name)}"
        if name in names
        else f"l.{identifier(ledger_column(mapping, name))}"
        for name, _ in mapping.row_layout
    ]


def bare(mapping: Mapping, gone: str = "l.present is false") -> str:
    """Return the condition that a visible row was withdrawn, but its bare key had to stay.

    `gone` is the condition that the ledger has it as absent.
    """
    nulls = [f"t.{identifier(column.name)} is null" for column in mapping.data_columns]
    if not nulls and mapping.on_delete == "delete":
        return "false"
    return " and ".join([*nulls, gone])


def collated(kind: str) -> str:
    """Return the clause that makes values of this type compare by their bytes."""
    return ' collate "C"' if kind == "text" else ""


def _bound(mapping: Mapping, alias: str, operator: str, array: str) -> str:
    bound = f"({comma(mapping.key, f'{alias}.')}) {operator} ({_typed_key(mapping, array)})"
    if len(mapping.key) > 1:
        # Redundant, but the planner estimates the number of rows from single columns alone.
        first = _typed_key(mapping, array).partition(", ")[0]
        bound += f" and {alias}.{identifier(mapping.key[0])} {operator[0]}= {first}"
    return bound


def _typed_key(mapping: Mapping, array: str) -> str:
    return ", ".join(
        f"{array}[{i}]::{column.type}{collated(column.type)}"
        for i, column in enumerate(mapping.key_columns, 1)
    )


def _limit(mapping: Mapping, relation: str) -> str:
    """Return the statements that end the range where a relation has too many rows of it."""
    return fill(
        "digest_limit",
        relation=relation,
        key_texts=comma(mapping.key, "s.", "::text"),
        s_key=comma(mapping.key, "s."),
        from_start=_bound(mapping, "s", ">=", "p_from"),
        below_end=_bound(mapping, "s", "<", "wanted_until"),
    )


def _range(mapping: Mapping, *, open_ended: bool) -> str:
    def in_range(alias: str) -> str:
        bounds = [_bound(mapping, alias, ">=", "p_from")]
        if not open_ended:
            bounds.append(_bound(mapping, alias, "<", "wanted_until"))
        return "\nand ".join(bounds)

    keys = [
        f"coalesce(t.{identifier(name)}, l.{identifier(name)})::text as k{i}"
        for i, name in enumerate(mapping.key)
    ]
    return fill(
        "digest_range",
        table=table_name(mapping),
        ledger=ledger_name(mapping),
        first_key=identifier(mapping.key[0]),
        f_key=", ".join(f"f.k{i}" for i in range(len(keys))),
        keys=", ".join(keys),
        values=", ".join(f"{value}::text{collated('text')}" for value in row_values(mapping)),
        md5_hash=MD5_HASH.format(seed="p_seed", row="h.r"),
        record_hash=RECORD_HASH.format(seed="p_seed", row="h.r"),
        bare=bare(mapping),
        t_in_range=in_range("t"),
        l_in_range=in_range("l"),
        t_is_l=" and ".join(f"t.{identifier(k)} = l.{identifier(k)}" for k in mapping.key),
    )
