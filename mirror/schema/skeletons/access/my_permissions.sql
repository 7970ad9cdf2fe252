-- The names of the caller's {noun}s. For policies on rows that name one, as
-- `name = any((select {my_permissions}())::text[])`: once per statement.
create or replace function {my_permissions}() returns text[]
{definer}
as $$
begin
  return (
    select coalesce(array_agg(distinct {name}), '{}')
    {rows}
  );
end
$$;
