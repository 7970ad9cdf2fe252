create or replace function {digest}(
  p_from text[], p_until text[], p_seed bigint, p_md5 boolean, p_limit integer, p_each boolean
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  limit_key text[];
  wanted_until text[] := p_until;
begin
  {limit_by_table}
  {limit_by_ledger}
  if wanted_until is null then
    {open_range}
  else
    {closed_range}
  end if;
  return answer || jsonb_build_object('until', wanted_until);
end
$$;
