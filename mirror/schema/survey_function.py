"""The function with which a reconcile surveys one mapping's rows in the target.

It reads the table and the ledger once each, in the order in which their rows lie, and joins
nothing: a visible row and its ledger's row add a hash each to their key's bucket. The primary adds
both for each of its rows. So a bucket that is equal on both sides holds the same rows, and each of
them is in the ledger.
"""

from collections.abc import Sequence
from textwrap import indent

from mirror.model.mapping import Mapping
from mirror.schema.compare_functions import MD5_HASH, RECORD_HASH, bare, collated, tables, values
from mirror.schema.quoting import identifier, literal


def survey_function(mapping: Mapping) -> str:
    """Return `mirror.survey_<mapping>`: what lies in one part of the rows, by bucket or by key.

    A key's bucket is the lowest `p_bits` bits of its hash. `p_wanted` has a bit for each bucket
    that is asked for, or is NULL. Parts are of the tables' blocks; the sums of all parts, XORed,
    are the whole's.
    """
    name = identifier("mirror", f"survey_{mapping.name}")
    table, ledger = tables(mapping)
    columns = [f"t.{identifier(column.name)}" for column in mapping.data_columns]
    kept = values(mapping)[len(mapping.columns) :]
    same = " and ".join(f"l.{identifier(key)} = t.{identifier(key)}" for key in mapping.key)
    # Asked of bare rows only: as a value, not with EXISTS, which would read the whole ledger first.
    gone = f"(select l.present is false from {ledger} as l where {same}) is true"
    seen = _rows(mapping, table, "t", "seen", columns, f"not ({bare(mapping, gone)})")
    known = _rows(mapping, ledger, "l", "known", kept, "l.present")
    seen_hash = _hash(f"row({', '.join(['k.key_hash', *_names('k.c', columns)])})")
    # A ledger row of nothing but its key adds the key's hash as it is.
    known_hash = (
        _hash(f"row({', '.join(['k.key_hash', *_names('k.c', kept)])})") if kept else "k.key_hash"
    )
    keys = _names("k.k", mapping.key)
    each = f"""\
select coalesce(jsonb_agg(jsonb_build_array({", ".join(_names("f.k", mapping.key))}, \
f.hash::text)), '[]')
into answer
from (
  select {", ".join(f"{key}::text" for key in keys)}, bit_xor(k.hash) as hash
  from (
    select {", ".join(keys)}, {seen_hash} as hash
    from {indent(seen, "    ").lstrip()}
    union all
    select {", ".join(keys)}, {known_hash}
    from {indent(known, "    ").lstrip()}
  ) as k
  group by {", ".join(keys)}
) as f;"""
    buckets = f"""\
select jsonb_build_object(
  'buckets', encode(coalesce(string_agg(int4send(f.bucket), ''), ''), 'base64'),
  'rows', encode(coalesce(string_agg(int4send(f.rows), ''), ''), 'base64'),
  'sums', encode(coalesce(string_agg(int8send(f.sum), ''), ''), 'base64')
)
into answer
from (
  select e.bucket, count(e.seen)::integer as rows, bit_xor(e.hash) as sum
  from (
    select (k.key_hash & low)::integer as bucket, true as seen, {seen_hash} as hash
    from {indent(seen, "    ").lstrip()}
    union all
    select (k.key_hash & low)::integer, null, {known_hash}
    from {indent(known, "    ").lstrip()}
  ) as e
  group by e.bucket
) as f;"""
    return f"""\
create or replace function {name}(
  p_seed bigint, p_md5 boolean, p_bits integer, p_wanted bytea, p_each boolean, p_part integer,
  p_parts integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  low constant bigint := (1::bigint << p_bits) - 1;
  wanted_low constant bigint := 8 * length(p_wanted) - 1;
  seen constant tid[] := mirror.part_of({literal(table)}, p_part, p_parts);
  known constant tid[] := mirror.part_of({literal(ledger)}, p_part, p_parts);
begin
  if p_each then
{indent(each, "    ")}
  else
{indent(buckets, "    ")}
  end if;
  return answer;
end
$$;
revoke all on function {name}(bigint, boolean, integer, bytea, boolean, integer, integer)
from public, anon, authenticated, service_role;"""


def _rows(
    mapping: Mapping, table: str, alias: str, part: str, columns: list[str], condition: str
) -> str:
    """Return a FROM item `k` of one table's wanted rows: key, columns, and the key's hash."""
    keys = [f"{alias}.{identifier(name)}" for name in mapping.key]
    names = [f"{key} as k{i}" for i, key in enumerate(keys)]
    names += [f"{column}::text{collated('text')} as c{i}" for i, column in enumerate(columns)]
    return f"""\
(
  select {", ".join(names)},
    {_hash(f"row({', '.join(keys)})")} as key_hash
  from {table} as {alias}
  where {alias}.ctid >= {part}[1] and {alias}.ctid < {part}[2]
    and {condition}
  -- So that a hash is taken once, not wherever it is named.
  offset 0
) as k
where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1"""


def _hash(row: str) -> str:
    return (
        f"case when p_md5 then {MD5_HASH.format(seed='p_seed', row=row)}"
        f" else {RECORD_HASH.format(seed='p_seed', row=row)} end"
    )


def _names(prefix: str, columns: Sequence[str]) -> list[str]:
    return [f"{prefix}{i}" for i in range(len(columns))]
