-- Return the condition that a relation's keys lie in a range: from $1 on, and before $2 if it ends.
create or replace function mirror.within(parts jsonb, alias text, ends boolean) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select format('(%s) >= (%s)', parts ->> (alias || '_key'), parts ->> 'bound')
    -- Redundant, but the planner estimates the number of rows from single columns alone.
    || format(' and %s.%s >= %s', alias, parts ->> 'first_key', parts ->> 'first_bound')
    || case when ends then
      format(' and (%s) < (%s)', parts ->> (alias || '_key'), parts ->> 'end')
      || format(' and %s.%s <= %s', alias, parts ->> 'first_key', parts ->> 'first_end')
    else '' end
$$;


-- Return the hash of a row as an expression: equal on every server for equal rows.
create or replace function mirror.row_hash(one_row text, seed text, md5 text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select format(
    'case when %3$s then (''x'' || left(pg_catalog.md5((%2$s)::text || (%1$s)::text), 16))::bit(64)::bigint'
    ' else hash_record_extended(%1$s, %2$s) end',
    one_row, seed, md5
  )
$$;


-- Say what lies in some ranges of a mapping's keys, for a reconcile to compare. Nothing is locked
-- or written, so any number of these may run beside the workers.
--
-- request: {mapping, digest, seed, md5, limit, each, ranges: [[from, until], …]}; a range holds its
-- `from` and not its `until`, which may be null: no end.
-- Answers {probe, ranges: [{rows, sum, strays, until, each}]}: how many rows, the sum of their
-- hashes, where the answer stopped for the limit, and, if asked for, [key…, hash] of each row.
-- `probe` is the hash of a row that both sides know: equal, if they hash alike.
create or replace function mirror.digest(request jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
-- How values print is part of their hash.
set datestyle = 'ISO, YMD' set timezone = 'UTC' set intervalstyle = 'postgres'
set extra_float_digits = 1 set bytea_output = 'hex'
-- Ranges are small, whatever the planner thinks; one of its whole scans for each would be too slow.
set enable_seqscan = off set max_parallel_workers_per_gather = 0
as $$
declare
  parts jsonb;
  range jsonb;
  starts text[];
  ends text[];
  relation text;
  stopped text[];
  answer jsonb;
  answers jsonb[] := '{}';
  seed constant bigint := (request ->> 'seed')::bigint;
  md5 constant boolean := (request ->> 'md5')::boolean;
  probe constant record := row('permission'::text collate "C", null::text, 'ß€'::text collate "C");
begin
  perform mirror.check_mapping(request);
  parts := mirror.parts(request ->> 'mapping');
  for range in select value from jsonb_array_elements(request -> 'ranges') loop
    starts := array(select jsonb_array_elements_text(range -> 0));
    ends := case when range -> 1 <> 'null' then array(select jsonb_array_elements_text(range -> 1)) end;
    -- End the range where table or ledger have too many rows of it.
    foreach relation in array array['table', 'ledger'] loop
      execute mirror.fill(
        'select array[{s_texts}] from {relation} as s where {within}'
        ' order by {s_key} offset $3 limit 1',
        parts || jsonb_build_object(
          'relation', parts -> relation, 'within', mirror.within(parts, 's', ends is not null)
        )
      ) into stopped using starts, ends, (request ->> 'limit')::integer;
      ends := coalesce(stopped, ends);
    end loop;
    execute mirror.fill(
      $sql$
      select jsonb_build_object(
        'rows', count(*) filter (where k.there),
        'sum', coalesce(sum(k.hash) filter (where k.there), 0)::text,
        'strays', count(*) filter (where k.stray)
      ) || case when $5 then jsonb_build_object('each', coalesce(jsonb_agg(
        -- Without a hash: whatever the other side has, it differs.
        jsonb_build_array({numbers}, case when k.there and not k.stray then k.hash::text end)
      ), '[]')) else jsonb_build_object() end
      from (
        select h.*, {hash} as hash
        from (
          select {any_numbered}, row({row_values}) as r,
            t.{first_key} is not null and not ({bare}) as there,
            case when t.{first_key} is null then l.present
              else l.present is not true and not ({bare}) end as stray
          from (select t.* from {table} as t where {t_within}) as t
          full join (select l.* from {ledger} as l where {l_within}) as l on {t_is_l}
        ) as h
        where h.there or h.stray
      ) as k
      $sql$,
      parts || jsonb_build_object(
        'hash', mirror.row_hash('h.r', '$3', '$4'),
        't_within', mirror.within(parts, 't', ends is not null),
        'l_within', mirror.within(parts, 'l', ends is not null)
      )
    ) into answer using starts, ends, seed, md5, (request ->> 'each')::boolean;
    answers := answers || (answer || jsonb_build_object('until', ends));
  end loop;
  return jsonb_build_object(
    'probe', case
      when md5 then ('x' || left(pg_catalog.md5(seed::text || probe::text), 16))::bit(64)::bigint
      else hash_record_extended(probe, seed)
    end::text,
    'ranges', to_jsonb(answers)
  );
end
$$;


-- Return the hash of a row as an expression, for a survey: its md5 if $2, otherwise the expression
-- `other`, which is faster than the hash of a record. $1 is the seed.
create or replace function mirror.survey_hash(one_row text, other text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select format(
    'case when $2 then (''x'' || left(pg_catalog.md5($1::text || (%s)::text), 16))::bit(64)::bigint'
    ' else %s end',
    one_row, other
  )
$$;


-- Return where a part of a table's rows begins, and where it ends: before that.
create or replace function mirror.part_of(name regclass, part integer, parts integer) returns tid[]
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select array[
    format('(%s,0)', blocks * part / parts),
    -- Rows that were added meanwhile belong to the last part.
    format('(%s,0)', case when part + 1 < parts then blocks * (part + 1) / parts else 4294967294 end)
  ]::tid[]
  from (select pg_relation_size(name) / current_setting('block_size')::bigint as blocks) as s
$$;


-- Say what lies in a part of a mapping's rows, by the lowest bits of their keys' hashes.
--
-- request: {mapping, digest, seed, md5, bits, wanted, each, part, parts}; `wanted`, in base64, has a
-- bit for each bucket that is asked for; null: all are.
-- Answers {buckets, rows, sums}: numbers of buckets and, for each, how many rows are visible, and
-- hashes XORed; all packed and in base64, a bucket up to twice. Or, if `each` is asked for,
-- [[key…, hash]].
create or replace function mirror.survey(request jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
-- How values print is part of their hash.
set datestyle = 'ISO, YMD' set timezone = 'UTC' set intervalstyle = 'postgres'
set extra_float_digits = 1 set bytea_output = 'hex'
as $$
declare
  parts jsonb;
  answer jsonb;
begin
  perform mirror.check_mapping(request);
  parts := mirror.parts(request ->> 'mapping');
  -- Each relation is read once, in the order of its blocks; nothing is joined. A visible row and its
  -- ledger row each add a hash to the bucket of their key.
  parts := parts || jsonb_build_object(
    't_hash', mirror.survey_hash(
      format('row(%s)', parts ->> 't_key'), parts ->> 't_key_hash'
    ),
    'l_hash', mirror.survey_hash(
      format('row(%s)', parts ->> 'l_key'), parts ->> 'l_key_hash'
    ),
    'seen_hash', mirror.survey_hash(
      format('row(k.key_hash%s)', parts ->> 't_numbers'), parts ->> 't_values_hash'
    ),
    -- A ledger row with nothing but its key adds the key's hash as it is.
    'known_hash', case when parts ->> 'l_numbers' = '' then 'k.key_hash'
      else mirror.survey_hash(
        format('row(k.key_hash%s)', parts ->> 'l_numbers'), parts ->> 'l_values_hash'
      ) end,
    'wanted', '($4 is null or get_bit($4, k.key_hash & (8 * length($4) - 1)) = 1)'
  );
  parts := parts || jsonb_build_object('both', mirror.fill(
    $sql$(
      select {numbers}, k.key_hash, {seen_hash} as hash, true as seen
      from (
        select {t_numbered}{t_values}, {t_hash} as key_hash
        from {table} as t
        where t.ctid >= $5[1] and t.ctid < $5[2] and not ({bare_alone})
        -- So that a hash is taken once, not wherever it is named.
        offset 0
      ) as k
      where {wanted}
      union all
      select {numbers}, k.key_hash, {known_hash}, null
      from (
        select {l_numbered}{l_values}, {l_hash} as key_hash
        from {ledger} as l
        where l.ctid >= $6[1] and l.ctid < $6[2] and l.present
        offset 0
      ) as k
      where {wanted}
    ) as k$sql$,
    parts
  ));
  execute mirror.fill(
    case when (request ->> 'each')::boolean then $sql$
      select coalesce(jsonb_agg(jsonb_build_array({number_texts}, k.hash::text)), '[]')
      from (select {numbers}, bit_xor(k.hash) as hash from {both} group by {numbers}) as k
    $sql$ else $sql$
      select jsonb_build_object(
        'buckets', encode(coalesce(string_agg(int4send(f.bucket), ''), ''), 'base64'),
        'rows', encode(coalesce(string_agg(int4send(f.rows), ''), ''), 'base64'),
        'sums', encode(coalesce(string_agg(int8send(f.sum), ''), ''), 'base64')
      )
      from (
        select (k.key_hash & $3)::integer as bucket, count(k.seen)::integer as rows,
          bit_xor(k.hash) as sum
        from {both}
        group by 1
      ) as f
    $sql$ end, parts
  )
  into answer
  using (request ->> 'seed')::bigint, (request ->> 'md5')::boolean,
    (1::bigint << (request ->> 'bits')::integer) - 1, decode(request ->> 'wanted', 'base64'),
    mirror.part_of(
      (parts ->> 'table')::regclass, (request ->> 'part')::integer, (request ->> 'parts')::integer
    ),
    mirror.part_of(
      (parts ->> 'ledger')::regclass, (request ->> 'part')::integer, (request ->> 'parts')::integer
    );
  return answer;
end
$$;


-- Return the condition that an ancestor of a row with this alias has expired, as SQL; null: none can.
create or replace function mirror.ancestor_expired(mapping text, row_alias text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  found text;
  parent record;
  above text;
  expired text;
begin
  for parent in
    select p.name, p.declaration as declared, link.place, link.value ->> 1 as col
    from mirror.mappings as m
    cross join jsonb_array_elements(m.declaration -> 'parents') with ordinality as link (value, place)
    join mirror.mappings as p on p.name = link.value ->> 0
    where m.name = mapping
  loop
    above := format('%s_%s', row_alias, parent.place);
    expired := mirror.ancestor_expired(parent.name, above);
    if parent.declared ? 'expires' then
      expired := concat_ws(
        ' or ', format('%s.%I <= now()', above, parent.declared ->> 'expires'), expired
      );
    end if;
    continue when expired is null;
    found := concat_ws(' or ', found, format(
      'exists (select from %1$I.%2$I as %3$s where %3$s.%4$I = %5$s.%6$I and (%7$s))',
      parent.declared #>> '{table,0}', parent.declared #>> '{table,1}', above,
      parent.declared #>> '{key,0}', row_alias, parent.col, expired
    ));
  end loop;
  return found;
end
$$;


-- Say everything that is known of some keys.
--
-- request: {mapping, digest, keys}; without `keys`, those that are withheld. Answers [{key, row,
-- present, epoch, fence, applied_at, edited, expired, outdated, withheld}]: the visible row with its
-- references, or null; the ledger's row, if any; whether somebody else wrote the visible row since;
-- whether the row or an ancestor has expired;
-- whether the model was migrated since; why the key is withheld, or null.
create or replace function mirror.rows(request jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD' set timezone = 'UTC' set intervalstyle = 'postgres'
set extra_float_digits = 1 set bytea_output = 'hex'
as $$
declare
  parts jsonb;
  answer jsonb;
begin
  perform mirror.check_mapping(request);
  parts := mirror.parts(request ->> 'mapping');
  execute mirror.fill(
    $sql$
    select coalesce(jsonb_agg(jsonb_build_object(
      'key', g.value,
      'row', case when t.{first_key} is not null and not ({bare}) then
        jsonb_build_array({row_texts})
      end,
      'present', l.present,
      'epoch', l.epoch,
      'fence', l.fence,
      'applied_at', l.applied_at,
      -- A row that was written after its ledger's was written by somebody else.
      'edited', coalesce(age(t.xmin) < age(l.xmin), false),
      'expired', coalesce({over}, false),
      'outdated', coalesce(l.applied_at < (
        select a.applied_at from mirror.migrations as a where a.name = $2
      ), false),
      'withheld', w.reason
    )), '[]')
    from jsonb_array_elements($1) as g
    left join {table} as t on {t_is_g}
    left join {ledger} as l on {l_is_g}
    left join mirror.withheld as w on w.mapping = $3 and to_jsonb(w.key) = g.value
    $sql$, parts || jsonb_build_object('over', concat_ws(
      ' or ', parts ->> 'expired', mirror.ancestor_expired(request ->> 'mapping', 't')
    ))
  ) into answer using coalesce(request -> 'keys', (
    select jsonb_agg(to_jsonb(w.key)) from mirror.withheld as w
    where w.mapping = request ->> 'mapping'
  )), (
    select 'model_' || m.model from mirror.mappings as m where m.name = request ->> 'mapping'
  ), request ->> 'mapping';
  return answer;
end
$$;


-- Name rows of a mapping that have expired.
--
-- request: {mapping, digest, after, limit}; `after` is a key, or empty. Answers [key], in order.
create or replace function mirror.expired(request jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  parts jsonb;
  after text[];
  answer jsonb;
begin
  perform mirror.check_mapping(request);
  parts := mirror.parts(request ->> 'mapping');
  after := array(select jsonb_array_elements_text(request -> 'after'));
  execute mirror.fill(
    'select coalesce(jsonb_agg(jsonb_build_array({s_texts})), ''[]'')'
    ' from ('
    ' select {t_key} from {table} as t where {expired} {beyond}'
    ' order by {t_key} limit $2'
    ') as s',
    parts || jsonb_build_object('beyond', case when cardinality(after) > 0
      then format('and (%s) > (%s)', parts ->> 't_key', parts ->> 'bound') else '' end)
  ) into answer using after, (request ->> 'limit')::integer;
  return answer;
end
$$;


-- Refuse a reader whose declaration of a mapping is not the one that this database has.
create or replace function mirror.check_mapping(request jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (
    select from mirror.mappings as m
    where m.name = request ->> 'mapping' and m.digest = request ->> 'digest'
  ) then
    raise exception 'the target holds another version of mapping(s) %', request ->> 'mapping'
      using errcode = 'MR001',
        hint = 'Deploy the worker whose declarations were migrated, or run `mirror migrate supabase`.';
  end if;
end
$$;
