-- By number: a column of the table that is called like a parameter would win over it.
create or replace function {has_role}(resource {kind}, min_role text) returns boolean
{definer}
as $$
#variable_conflict use_column
begin
  return exists (
    {seat_with_role}
  );
end
$$;
