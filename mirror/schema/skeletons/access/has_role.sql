-- By number: a column of the table that is called like a parameter would win over it.
create or replace function {has_role}(resource {kind}, min_role text) returns boolean
{definer}
as $$
  select exists (
    {seat_with_role}
  )
$$;
