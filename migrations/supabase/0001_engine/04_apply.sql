-- Write one batch, all of it or nothing, refusing per key what is older than what is known.
--
-- request: {identity, epoch, fence, sections: [{mapping, digest, rows: [[…]], gone: [[…]]}]}.
-- A row lists the mapping's columns, then its references, then, for a parent whose children come
-- along, true; a gone key lists the key columns.
-- Answers {horizon, mappings: {name: {stale, orphans, appearing, retained, ahead}}}, with keys as
-- arrays of text; a horizon that is not null means that the whole batch was older than it.
create or replace function mirror.apply(request jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  section record;
  answer jsonb;
  answers jsonb := '{}';
  fence constant bigint := (request ->> 'fence')::bigint;
  horizon bigint;
begin
  horizon := mirror.admit(request, exists (
    select from jsonb_array_elements(request -> 'sections') as s
    join mirror.mappings as m on m.name = s ->> 'mapping'
    where m.is_parent and jsonb_array_length(s -> 'gone') > 0
  ));
  if fence < horizon then
    return jsonb_build_object('horizon', horizon, 'mappings', answers);
  end if;

  for section in
    select m.name, s -> 'rows' as rows, s -> 'gone' as gone
    from jsonb_array_elements(request -> 'sections') as s
    join mirror.mappings as m on m.name = s ->> 'mapping'
    order by m.position
  loop
    execute format('select mirror.%I($1, $2, $3, $4)', 'apply_' || section.name)
      into answer
      using (request ->> 'epoch')::integer, fence, section.rows, section.gone;
    answers := answers || jsonb_build_object(section.name, answer);
  end loop;
  return jsonb_build_object('horizon', null, 'mappings', answers);
end
$$;
