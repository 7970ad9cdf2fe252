-- Mark a key: it grants nothing, whatever rows are there, until a write of the same or a newer read
-- is admitted.
create or replace function mirror.mark(
  mapping text, key jsonb, reason text, p_epoch integer, p_fence bigint
) returns void
language sql set search_path = pg_catalog, pg_temp
as $$
  insert into mirror.withheld as w (mapping, key, reason, epoch, fence)
  values (mapping, array(select jsonb_array_elements_text(key)), reason, p_epoch, p_fence)
  on conflict on constraint withheld_pkey do update
  -- A withdrawal goes on, whatever becomes of the key meanwhile.
  set reason = case w.reason when 'withdrawing' then w.reason else excluded.reason end,
    epoch = excluded.epoch, fence = excluded.fence
  where (w.epoch, w.fence) < (excluded.epoch, excluded.fence)
$$;


-- Return the key of a row as a call sends it: a JSON array of texts.
create or replace function mirror.key_of(mapping text, sent jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select jsonb_agg(sent -> (c.place - 1)::integer order by k.place)
  from mirror.mappings as m
  cross join jsonb_array_elements_text(m.declaration -> 'key') with ordinality as k (name, place)
  join jsonb_array_elements(m.declaration -> 'columns') with ordinality as c (declared, place)
    on c.declared ->> 0 = k.name
  where m.name = key_of.mapping
$$;


-- Return the keys that the answer to a section says were not written.
create or replace function mirror.refused(answer jsonb) returns setof jsonb
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select one.value
  from unnest(array['stale', 'orphans', 'appearing']) as name
  cross join jsonb_array_elements(answer -> name) as one
$$;


-- Remove the marks of keys that a call has written: all of its keys but those that `answer` refuses.
create or replace function mirror.release(
  mapping text, p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb, answer jsonb
) returns void
language sql set search_path = pg_catalog, pg_temp
as $$
  delete from mirror.withheld as w
  using (
    select mirror.key_of(release.mapping, r.value) as key from jsonb_array_elements(p_rows) as r
    union
    select g.value from jsonb_array_elements(p_gone) as g
  ) as sent
  where w.mapping = release.mapping and to_jsonb(w.key) = sent.key
    and (w.epoch, w.fence) <= (p_epoch, p_fence)
    and sent.key not in (select mirror.refused(answer))
$$;


-- Whether some other row of a mapping can be written as it is: by the function that writes its rows,
-- by an update, and unaltered by triggers. Each attempt is undone. True if there is no other row. The
-- rows tried are from both ends of the key's order.
create or replace function mirror.can_write_others(mapping text, key jsonb, p_epoch integer)
returns boolean
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  newest_fence constant bigint := 9223372036854775807;
  parts constant jsonb := mirror.parts(mapping);
  others jsonb;
  other jsonb;
  sent jsonb;
begin
  execute mirror.fill(
    'select jsonb_agg(f.sent) from ('
    ' (select jsonb_build_array({row_texts}, true) as sent'
    ' from {table} as t join {ledger} as l on {t_is_l} order by t.{first_key} limit 5)'
    ' union'
    ' (select jsonb_build_array({row_texts}, true)'
    ' from {table} as t join {ledger} as l on {t_is_l} order by t.{first_key} desc limit 5)'
    ') as f where mirror.key_of($2, f.sent) <> $1', parts
  ) into others using key, mapping;
  if others is null then
    return true;
  end if;
  for other in select value from jsonb_array_elements(others) loop
    begin
      sent := jsonb_build_array(other);
      execute format('select mirror.%I($1, $2, $3, $4)', 'apply_' || mapping)
        using p_epoch, newest_fence, sent, '[]'::jsonb;
      execute mirror.fill(
        'update {table} as t set {first_key} = t.{first_key}'
        ' from (select $1 as value) as g where {t_is_g}', parts
      ) using mirror.key_of(mapping, other);
      set constraints all immediate;
      perform mirror.check_written(mapping, sent, '[]', '{}');
      raise exception using errcode = 'MR020';
    exception
      when sqlstate 'MR020' then
        return true;
      when others then
        -- Somebody was in the way, or the time is over: that says nothing about the row.
        if left(sqlstate, 2) in ('40', '55', '57') then
          raise;
        end if;
    end;
  end loop;
  return false;
end
$$;


-- Withhold a key whose row can be neither read nor written although it may have lost access. A row
-- without children is removed; with children it stays, and the mark closes it and them.
--
-- The reason `withdrawing` only marks the key: the worker removes its children and then the key.
-- Without a reason, nothing is changed; the answer says whether the key is to blame at all.
--
-- request: the envelope, with one section {mapping, digest, key, reason}. Answers {outcome}:
-- `withheld`; `newer`: a read of the same age or a newer one was written; `mapping`: no row of this
-- mapping can be written, so the key is not to blame; `budget`: too many keys are withheld already.
create or replace function mirror.withhold(request jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  -- A fault that withholds more than this in an hour is no fault of single rows.
  most_in_an_hour constant integer := 20;
  p_epoch constant integer := (request ->> 'epoch')::integer;
  p_fence constant bigint := (request ->> 'fence')::bigint;
  p_mapping constant text := request #>> '{sections,0,mapping}';
  wanted constant jsonb := request #> '{sections,0,key}';
  reason constant text := request #>> '{sections,0,reason}';
  parts jsonb;
  newer boolean;
  visible boolean;
  lately bigint;
  total bigint;
  answer jsonb;
begin
  if mirror.admit(request, reason is not null) > p_fence then
    return jsonb_build_object('outcome', 'newer');
  end if;
  parts := mirror.parts(p_mapping);
  execute mirror.fill(
    'select exists (select from {ledger} as l cross join (select $1 as value) as g'
    ' where {l_is_g} and (l.epoch, l.fence) >= ($2, $3))', parts
  ) into newer using wanted, p_epoch, p_fence;
  if newer then
    return jsonb_build_object('outcome', 'newer');
  end if;
  if reason = 'withdrawing' then
    perform mirror.mark(p_mapping, wanted, 'withdrawing', p_epoch, p_fence);
    return jsonb_build_object('outcome', 'withheld');
  end if;

  if not exists (
    select from mirror.withheld as w where w.mapping = p_mapping and to_jsonb(w.key) = wanted
  ) then
    if not mirror.can_write_others(p_mapping, wanted, p_epoch) then
      return jsonb_build_object('outcome', 'mapping');
    end if;
    select count(*) filter (where w.since > now() - interval '1 hour'),
      count(*) filter (where w.mapping = p_mapping)
    into lately, total
    from mirror.withheld as w where w.reason <> 'withdrawing';
    if lately >= most_in_an_hour or total >= greatest(most_in_an_hour, (
      select c.reltuples / 1000 from pg_class as c where c.oid = (parts ->> 'ledger')::regclass
    )) then
      return jsonb_build_object('outcome', 'budget');
    end if;
  end if;
  if reason is null then
    return jsonb_build_object('outcome', 'withheld');
  end if;

  begin
    perform mirror.mark(p_mapping, wanted, reason, p_epoch, p_fence);
  exception when program_limit_exceeded then
    -- No index holds so long a key, so no row of it was ever mirrored. There is nothing to withhold,
    -- unless a table without such an index has a row of it.
    execute mirror.fill(
      'select exists (select from {table} as t cross join (select $1 as value) as g where {t_is_g})',
      parts
    ) into visible using wanted;
    if visible then
      raise;
    end if;
    return jsonb_build_object('outcome', 'withheld');
  end;
  if parts -> 'children' = '[]' then
    begin
      perform set_config('mirror.withdraws', 'true', true);
      execute format('select mirror.%I($1, $2, $3, $4)', 'apply_' || p_mapping)
        into answer using p_epoch, p_fence, '[]'::jsonb, jsonb_build_array(wanted);
      perform mirror.withdraw(p_mapping, p_epoch, p_fence, answer -> 'gone');
    exception when others then
      -- The row cannot be removed either. The mark alone keeps helpers from counting it.
      null;
    end;
  end if;
  return jsonb_build_object('outcome', 'withheld');
end
$$;


-- Whether any key of any mapping is withheld. Policies of mirrored tables call it as
-- `(select mirror.any_withheld())`: once per statement. Only if it is true do they look for the rows'
-- own marks.
create or replace function mirror.any_withheld() returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (select from mirror.withheld);
end
$$;
revoke all on function mirror.any_withheld() from public, anon, authenticated, service_role;
grant execute on function mirror.any_withheld() to authenticated;
