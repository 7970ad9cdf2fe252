-- By number: a column of the table that is called like a parameter would win over it.
create or replace function {check}(kind text, resource {type}, min_level text) returns boolean
{definer}
as $$
#variable_conflict use_column
begin
  return exists (
    select from {table} as g
    where {user} = {caller}
      and {kind} = $1
      and {resource} = $2
      {and_active}
      and {level} = any((select {levels}($3))::text[])
  );
end
$$;
