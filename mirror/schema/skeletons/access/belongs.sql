-- Whether somebody belongs to a {noun} in any way; for telling what a row that goes means.
create or replace function {belongs}(resource {kind}, person {person}) returns boolean
{definer}
as $$
#variable_conflict use_column
begin
  return exists (
    {seat_of_person}
  );
end
$$;
revoke all on function {belongs}({kind}, {person})
from public, anon, authenticated, service_role;
