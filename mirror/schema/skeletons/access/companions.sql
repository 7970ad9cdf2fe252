-- Everybody who shares a {noun} with the caller, the caller included.
create or replace function {companions}() returns {person}[]
{definer}
as $$
begin
  return (
    {companions_query}
  );
end
$$;
