-- The {noun}s of a kind that the caller reaches with at least this level. For policies, as
-- `id = any((select {my_resources}({first_kind}, {weakest}))::{type}[])`:
-- once per statement.
create or replace function {my_resources}(kind text, min_level text) returns {type}[]
{definer}
as $$
#variable_conflict use_column
begin
  return (
    select coalesce(array_agg({resource}), '{}')
    from {table} as g
    where {user} = {caller}
      and {kind} = $1
      {and_active}
      and {level} = any((select {levels}($2))::text[])
  );
end
$$;
