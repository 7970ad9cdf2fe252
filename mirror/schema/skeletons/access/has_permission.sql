-- Whether the caller has this {noun}. For policies, in a `(select …)`: once per statement.
-- By number: a column that is called like a parameter would win over it.
create or replace function {has_permission}(name text) returns boolean
{definer}
as $$
#variable_conflict use_column
begin
  return exists (
    select {rows}
      and {name} = $1
  );
end
$$;
