create or replace function {scope}(
  p_reference text, p_values text[], p_after text[], p_limit integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  {branches}
  raise exception 'mapping {mapping} has no reference %', p_reference using errcode = 'MR001';
end
$$;
