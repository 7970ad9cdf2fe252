create or replace function {expired}(p_after text[], p_limit integer) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_array({key_texts})), '[]')
  from (
    select {t_key} from {table} as t
    where t.{expires} <= now()
      and (p_after = '{}' or ({t_key}) > ({after}))
    order by {t_key}
    limit p_limit
  ) as s
$$;
revoke all on function {expired}(text[], integer) from public, anon, authenticated, service_role;
