create or replace function {is_member}(resource {kind}) returns boolean
{definer}
as $$
begin
  return {has_role}($1, {weakest_role});
end
$$;
