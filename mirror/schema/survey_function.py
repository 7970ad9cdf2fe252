"""Survey function: the SQL of the target's function that hashes a mapping's rows by bucket.

A reconcile compares its result with the primary's, to find the buckets that differ. The function
reads the table and the ledger once each, in the order of their blocks, and joins nothing: a row of
the table and its ledger row each add a hash to the bucket of their key. The primary adds both
hashes for each of its rows. So if the sums of a bucket are equal on both sides, the bucket holds
the same rows, and the ledger has all of them.
"""

from collections.abc import Iterable, Sequence

from mirror.model.mapping import Mapping
from mirror.schema.compare_functions import bare, collated, row_values, seeded_hash
from mirror.schema.names import function_name, ledger_name, table_name
from mirror.schema.quoting import identifier, literal
from mirror.schema.skeletons import fill


def survey_function(mapping: Mapping) -> str:
    """Return the SQL of `mirror.survey_<mapping>`, which hashes one part of the mapping's rows.

    The part is number `p_part` of `p_parts` ranges of the tables' blocks. The function returns the
    sums of hashes by bucket, or with `p_each` by key. A key's bucket is the lowest `p_bits` bits of
    its hash. `p_wanted` has one bit for each bucket, set if the bucket is wanted; NULL means all.
    The sums of all parts, XORed, are the sum of the whole.
    """
    table, ledger = table_name(mapping), ledger_name(mapping)
    columns = [f"t.{identifier(column.name)}" for column in mapping.data_columns]
    kept = row_values(mapping)[len(mapping.columns) :]
    same = " and ".join(f"l.{identifier(key)} = t.{identifier(key)}" for key in mapping.key)
    # Evaluated for bare rows only: as a value, because EXISTS would read the whole ledger first.
    gone = f"(select l.present is false from {ledger} as l where {same}) is true"
    # A ledger row with nothing but its key adds the key's hash as it is.
    known_hash = _hash(["k.key_hash", *_numbered("k.c", kept)]) if kept else "k.key_hash"
    return fill(
        "survey",
        survey=function_name("survey", mapping),
        table_literal=literal(table),
        ledger_literal=literal(ledger),
        f_key=", ".join(_numbered("f.k", mapping.key)),
        k_key=", ".join(_numbered("k.k", mapping.key)),
        key_texts=", ".join(f"{key}::text" for key in _numbered("k.k", mapping.key)),
        seen_hash=_hash(["k.key_hash", *_numbered("k.c", columns)]),
        seen_rows=_rows(mapping, table, "t", "seen", columns, f"not ({bare(mapping, gone)})"),
        known_hash=known_hash,
        known_rows=_rows(mapping, ledger, "l", "known", kept, "l.present"),
    )


def _rows(
    mapping: Mapping, relation: str, alias: str, part: str, columns: list[str], condition: str
) -> str:
    """Return a FROM item `k` with rows of one relation: their key, columns, and hash of the key.

    It yields the rows that meet `condition` and are in the part and the wanted buckets. `part` is
    the variable of the function that holds the part's range of blocks: `seen` or `known`.
    """
    keys = [f"{alias}.{identifier(name)}" for name in mapping.key]
    values = [f"{key} as k{i}" for i, key in enumerate(keys)]
    values += [f"{column}::text{collated('text')} as c{i}" for i, column in enumerate(columns)]
    return fill(
        "survey_rows",
        values=", ".join(values),
        key_hash=_hash(keys),
        relation=relation,
        alias=alias,
        part=part,
        condition=condition,
    )


def _hash(values: Iterable[str]) -> str:
    return seeded_hash(f"row({', '.join(values)})")


def _numbered(prefix: str, columns: Sequence[str]) -> list[str]:
    return [f"{prefix}{i}" for i in range(len(columns))]
