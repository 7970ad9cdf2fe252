create or replace function {withdraw}(
  p_epoch integer, p_fence bigint{key_parameters}
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  retained jsonb := '{}';
  {declarations}
begin
  {steps}
  return retained;
end
$$;
