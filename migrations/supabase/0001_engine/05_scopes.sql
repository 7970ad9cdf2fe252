-- Note that these scopes are being read at this fence, and return the keys known under them.
--
-- ARCHITECTURE.md describes the request and the answer. Only the first page (no `after`) closes a
-- scope to earlier reads: they may have missed what it was opened for. Later pages need not, and
-- would make every other worker read again for as long as a large scope takes.
create or replace function mirror.open_scopes(request jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  section jsonb;
  parts jsonb;
  under text;
  beyond text;
  after text[];
  answer jsonb;
  answers jsonb := '[]';
  horizon bigint;
begin
  horizon := mirror.admit(request, exists (
    select from jsonb_array_elements(request -> 'sections') as s
    where jsonb_array_length(s -> 'after') = 0
  ));
  if (request ->> 'fence')::bigint < horizon then
    return jsonb_build_object('horizon', horizon, 'sections', answers);
  end if;

  for section in select value from jsonb_array_elements(request -> 'sections') loop
    insert into mirror.scopes as s (mapping, reference, value, epoch, fence)
    select distinct section ->> 'mapping', section ->> 'reference', value,
      (request ->> 'epoch')::integer, (request ->> 'fence')::bigint
    from jsonb_array_elements_text(section -> 'values') as value
    where jsonb_array_length(section -> 'after') = 0
    on conflict (mapping, reference, value) do update
    set epoch = excluded.epoch, fence = excluded.fence, read_at = now()
    where (s.epoch, s.fence) < (excluded.epoch, excluded.fence);

    parts := mirror.parts(section ->> 'mapping');
    after := array(select jsonb_array_elements_text(section -> 'after'));
    beyond := case when cardinality(after) > 0
      then format('and (%s) > (%s)', parts ->> 'l_key', parts ->> 'bound') else '' end;
    under := 'true';
    if section ->> 'reference' <> '*' then
      under := mirror.has_reference(parts, section ->> 'reference', '$2');
      if under is null then
        raise exception 'mapping % has no reference %',
          section ->> 'mapping', section ->> 'reference' using errcode = 'MR001';
      end if;
    end if;
    execute mirror.fill(
      'select coalesce(jsonb_agg(jsonb_build_array({f_texts}) order by {f_key}), ''[]'')'
      ' from ('
      ' select {l_key} from {ledger} as l where l.present and {under} {beyond}'
      ' order by {l_key} limit $3'
      ') as f',
      parts || jsonb_build_object('under', under, 'beyond', beyond)
    )
    into answer
    using after, array(select jsonb_array_elements_text(section -> 'values')),
      (request ->> 'limit')::integer;
    answers := answers || jsonb_build_array(answer);
  end loop;
  return jsonb_build_object('horizon', null, 'sections', answers);
end
$$;
