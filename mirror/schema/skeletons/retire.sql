-- What an earlier version of this model declared is mirrored no more, so its rows must not grant
-- for ever. The table and its rows stay, for whoever wants to look; other models are left alone.
do $$
declare
  kept constant jsonb[] := array[
    {tables}
  ]::jsonb[];
  old record;
  child record;
begin
  for old in
    select format('%I.%I', d.schema, d.name) as name, d.name || '_read' as policy
    from mirror.mappings as m
    cross join lateral (
      select m.declaration #>> '{table,0}' as schema, m.declaration #>> '{table,1}' as name
    ) as d
    where m.model = {model_literal}
      and m.declaration -> 'table' <> all (kept)
  loop
    continue when to_regclass(old.name) is null;
    execute format('revoke all on %s from public, anon, authenticated', old.name);
    execute format('drop policy if exists %I on %s', old.policy, old.name);
    -- Its rows come no more; whoever needed them there must not be held back.
    for child in
      select c.conname, c.conrelid::regclass::text as name
      from pg_constraint as c
      join mirror.mappings as m on c.conrelid = to_regclass(
        format('%I.%I', m.declaration #>> '{table,0}', m.declaration #>> '{table,1}')
      )
      where c.confrelid = to_regclass(old.name) and c.contype = 'f'
        and m.declaration -> 'table' = any (kept)
    loop
      execute format('alter table %s drop constraint %I', child.name, child.conname);
    end loop;
    raise notice 'nobody may read % any more: model {model} no longer has it', old.name;
  end loop;
  delete from mirror.mappings
  where model = {model_literal} and name <> all (array[{mappings}]::text[]);
end
$$;
