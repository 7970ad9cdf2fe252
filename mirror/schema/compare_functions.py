"""Compare functions: the functions in the target with which a reconcile reads one mapping's rows.

A compared row consists of the columns of the target's table and of the references that only the
ledger keeps. A key is a *stray* if the table has its row and the ledger does not, or the reverse. A
stray always counts as different: even if its columns are right today, the mirror would miss it when
its scope changes.
"""

from mirror.model.mapping import Mapping
from mirror.schema.names import function_name, ledger_column, ledger_name, table_name
from mirror.schema.quoting import comma, identifier, literal
from mirror.schema.skeletons import fill

# Two expressions for the hash of a row. The primary and the target must use the same one, on rows
# of the same texts. MD5 gives the same result on every server.
RECORD_HASH = "hash_record_extended({row}, {seed})"
MD5_HASH = "('x' || left(md5({seed}::text || {row}::text), 16))::bit(64)::bigint"


def seeded_hash(row: str) -> str:
    """Return the SQL expression for the hash of `row`, which is a row expression.

    The function around it must have the parameters `p_md5` and `p_seed`.
    """
    md5, record = (text.format(seed="p_seed", row=row) for text in (MD5_HASH, RECORD_HASH))
    return f"case when p_md5 then {md5} else {record} end"


def digest_function(mapping: Mapping) -> str:
    """Return the SQL of `mirror.digest_<mapping>`, which hashes the rows in one range of keys.

    It returns the number of rows, the sum of their hashes and the number of strays, and with
    `p_each` each key with its hash. The range includes `p_from` and excludes `p_until`; NULL for
    `p_until` means no end. The function reads at most about `p_limit` rows; it returns as `until`
    the key before which it stopped, which is `p_until` if it read the whole range.
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
    """Return the SQL of `mirror.rows_<mapping>`.

    For each key in `p_keys`, it returns the table's row and the ledger's row, each NULL if missing.
    `model` is the registry's name.
    """
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
    """Return the SQL of `mirror.expired_<mapping>`, which returns keys of expired rows.

    A second block adds the index for it. The list is empty if the mapping's rows never expire.
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
    """Return the statement that takes EXECUTE on two functions from all roles of the API.

    They are `digest_` and `rows_`; the mirror's own functions call them with their owner's rights.
    """
    return f"""\
revoke all on function
  {function_name("digest", mapping)}(
    text[], text[], bigint, boolean, integer, boolean
  ),
  {function_name("rows", mapping)}(jsonb)
from public, anon, authenticated, service_role;"""


def row_values(mapping: Mapping) -> list[str]:
    """Return SQL expressions for the values of a compared row, in the order of `row_layout`.

    Columns come from the table, under the alias `t`; other references from the ledger, `l`.
    """
    names = {column.name for column in mapping.columns}
    return [
        f"t.{identifier(name)}"
        if name in names
        else f"l.{identifier(ledger_column(mapping, name))}"
        for name, _ in mapping.row_layout
    ]


def bare(mapping: Mapping, gone: str = "l.present is false") -> str:
    """Return the condition that a row `t` of the table counts as absent: only its key is left.

    A foreign key held the row back, or the mapping retains it. `gone` is the condition that the
    ledger has the key as absent.
    """
    nulls = [f"t.{identifier(column.name)} is null" for column in mapping.data_columns]
    if not nulls and mapping.on_delete == "delete":
        return "false"
    return " and ".join([*nulls, gone])


def collated(kind: str) -> str:
    """Return the clause that makes values of this type compare by bytes; empty if they do so."""
    return ' collate "C"' if kind == "text" else ""


def _bound(mapping: Mapping, alias: str, operator: str, array: str) -> str:
    """Return the comparison of a row's key with the key in an array of texts."""
    bound = f"({comma(mapping.key, f'{alias}.')}) {operator} ({_typed_key(mapping, array)})"
    if len(mapping.key) > 1:
        # It adds nothing to the result: the planner estimates the number of rows by it, because it
        # takes single columns only.
        first = _typed_key(mapping, array).partition(", ")[0]
        bound += f" and {alias}.{identifier(mapping.key[0])} {operator[0]}= {first}"
    return bound


def _typed_key(mapping: Mapping, array: str) -> str:
    return ", ".join(
        f"{array}[{i}]::{column.type}{collated(column.type)}"
        for i, column in enumerate(mapping.key_columns, 1)
    )


def _limit(mapping: Mapping, relation: str) -> str:
    """Return the statements that shorten the range to at most `p_limit` rows of a relation."""
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
