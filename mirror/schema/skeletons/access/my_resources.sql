-- The {noun}s in which the caller is active with at least this role. For policies, as
-- `{resource} = any((select {my_resources}('{weakest}'))::{kind}[])`: once per statement.
create or replace function {my_resources}(min_role text) returns {kind}[]
{definer}
as $$
#variable_conflict use_column
begin
  return (
    {my_resources_query}
  );
end
$$;
