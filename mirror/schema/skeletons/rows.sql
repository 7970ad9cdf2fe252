create or replace function {rows}(p_keys jsonb)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'key', jsonb_build_array({key_texts}),
    'row', case when t.{first_key} is not null and not ({bare}) then
      jsonb_build_array({value_texts})
    end,
    'present', l.present,
    'epoch', l.epoch,
    'fence', l.fence,
    -- A row that was written after its ledger's was written by somebody else.
    'edited', coalesce(age(t.xmin) < age(l.xmin), false),
    'expired', coalesce({expired}, false),
    'outdated', coalesce(l.applied_at < (
      select g.applied_at from mirror.migrations as g where g.name = {migration}
    ), false)
  )), '[]')
  from (select {asked} from jsonb_array_elements(p_keys) as k) as a
  left join {table} as t on {t_is_asked}
  left join {ledger} as l on {l_is_asked}
$$;
