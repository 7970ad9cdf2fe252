create or replace function {survey}(
  p_seed bigint, p_md5 boolean, p_bits integer, p_wanted bytea, p_each boolean, p_part integer,
  p_parts integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  low constant bigint := (1::bigint << p_bits) - 1;
  wanted_low constant bigint := 8 * length(p_wanted) - 1;
  seen constant tid[] := mirror.part_of({table_literal}, p_part, p_parts);
  known constant tid[] := mirror.part_of({ledger_literal}, p_part, p_parts);
begin
  if p_each then
    select coalesce(jsonb_agg(jsonb_build_array({f_key}, f.hash::text)), '[]')
    into answer
    from (
      select {key_texts}, bit_xor(k.hash) as hash
      from (
        select {k_key}, {seen_hash} as hash
        from {seen_rows}
        union all
        select {k_key}, {known_hash}
        from {known_rows}
      ) as k
      group by {k_key}
    ) as f;
  else
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
        from {seen_rows}
        union all
        select (k.key_hash & low)::integer, null, {known_hash}
        from {known_rows}
      ) as e
      group by e.bucket
    ) as f;
  end if;
  return answer;
end
$$;
revoke all on function {survey}(bigint, boolean, integer, bytea, boolean, integer, integer)
from public, anon, authenticated, service_role;
