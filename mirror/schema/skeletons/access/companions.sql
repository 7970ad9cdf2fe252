-- Everybody who shares a {noun} with the caller, the caller included.
create or replace function {companions}() returns {person}[]
{definer}
as $$
  {companions_query}
$$;
