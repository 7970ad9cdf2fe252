-- Correct the ledgers of parents whose rows somebody deleted by hand, so that the rows of this
-- request wait for them. The worker asks for it after a foreign key has refused the request.
create or replace function mirror.forget_lost_parents(request jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  parent record;
begin
  for parent in
    select s -> 'rows' as rows, c.place - 1 as place, p.name,
      p.declaration #>> '{key,0}' as key, p.declaration #>> '{table,0}' as schema_name,
      p.declaration #>> '{table,1}' as table_name, c.declared ->> 1 as type
    from jsonb_array_elements(request -> 'sections') as s
    join mirror.mappings as m on m.name = s ->> 'mapping'
    cross join jsonb_array_elements(m.declaration -> 'parents') as link
    join mirror.mappings as p on p.name = link ->> 0
    join jsonb_array_elements(m.declaration -> 'columns') with ordinality as c (declared, place)
      on c.declared ->> 0 = link ->> 1
  loop
    execute format(
      'update mirror.%1$I as l set present = false, applied_at = now()'
      ' where l.present and l.%2$I in ('
      ' select (r ->> $2)::%3$s from jsonb_array_elements($1) as r)'
      ' and not exists (select from %4$I.%5$I as t where t.%2$I = l.%2$I)',
      'ledger_' || parent.name, parent.key, parent.type, parent.schema_name, parent.table_name
    ) using parent.rows, parent.place::integer;
  end loop;
end
$$;


-- Write one batch, all of it or nothing, refusing per key what is older than what is known.
-- ARCHITECTURE.md describes the request and the answer.
create or replace function mirror.apply(request jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  section record;
  answer jsonb;
  answers jsonb := '{}';
  fence constant bigint := (request ->> 'fence')::bigint;
  careful constant boolean := coalesce((request ->> 'careful')::boolean, false);
  horizon bigint;
begin
  horizon := mirror.admit(request, careful or exists (
    select from jsonb_array_elements(request -> 'sections') as s
    join mirror.mappings as m on m.name = s ->> 'mapping'
    where m.is_parent and jsonb_array_length(s -> 'gone') > 0
  ));
  if fence < horizon then
    return jsonb_build_object('horizon', horizon, 'mappings', answers);
  end if;

  if careful then
    perform mirror.forget_lost_parents(request);
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
