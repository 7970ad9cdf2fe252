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
  range jsonb;
  answer jsonb;
  answers jsonb[] := '{}';
  seed constant bigint := (request ->> 'seed')::bigint;
  md5 constant boolean := (request ->> 'md5')::boolean;
  probe constant record := row('permission'::text collate "C", null::text, 'ß€'::text collate "C");
begin
  perform mirror.check_mapping(request);
  for range in select value from jsonb_array_elements(request -> 'ranges') loop
    execute format('select mirror.%I($1, $2, $3, $4, $5, $6)', 'digest_' || (request ->> 'mapping'))
      into answer
      using array(select jsonb_array_elements_text(range -> 0)),
        case when range -> 1 <> 'null' then array(select jsonb_array_elements_text(range -> 1)) end,
        seed, md5, (request ->> 'limit')::integer, (request ->> 'each')::boolean;
    answers := answers || answer;
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


-- Return where a part of a table's rows begins, and where it ends: before that.
create or replace function mirror.part_of(name regclass, part integer, parts integer) returns tid[]
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select array[
    format('(%s,0)', blocks * part / parts),
    -- What was added meanwhile belongs to the last part.
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
-- Whole tables are read: a plan that does not know which part, or that md5 is not asked for, is
-- dearer than to plan.
set plan_cache_mode = force_custom_plan
as $$
declare
  answer jsonb;
begin
  perform mirror.check_mapping(request);
  execute format('select mirror.%I($1, $2, $3, $4, $5, $6, $7)', 'survey_' || (request ->> 'mapping'))
    into answer
    using (request ->> 'seed')::bigint, (request ->> 'md5')::boolean, (request ->> 'bits')::integer,
      decode(request ->> 'wanted', 'base64'), (request ->> 'each')::boolean,
      (request ->> 'part')::integer, (request ->> 'parts')::integer;
  return answer;
end
$$;


-- Say everything that is known of some keys.
--
-- request: {mapping, digest, keys}. Answers [{key, row, present, epoch, fence, edited, expired,
-- outdated}]: the visible row with its references, or null; the ledger's row, if any; whether
-- somebody else wrote the visible row since; whether the model was migrated since.
create or replace function mirror.rows(request jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD' set timezone = 'UTC' set intervalstyle = 'postgres'
set extra_float_digits = 1 set bytea_output = 'hex'
as $$
declare
  answer jsonb;
begin
  perform mirror.check_mapping(request);
  execute format('select mirror.%I($1)', 'rows_' || (request ->> 'mapping'))
    into answer using request -> 'keys';
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
  answer jsonb;
begin
  perform mirror.check_mapping(request);
  execute format('select mirror.%I($1, $2)', 'expired_' || (request ->> 'mapping'))
    into answer
    using array(select jsonb_array_elements_text(request -> 'after')),
      (request ->> 'limit')::integer;
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
