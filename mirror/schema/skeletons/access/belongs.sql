-- Whether somebody belongs to a {noun} in any way; for telling what a row that goes means.
create or replace function {belongs}(resource {kind}, person {person}) returns boolean
{definer}
as $$
  select exists (
    {seat_of_person}
  )
$$;
revoke all on function {belongs}({kind}, {person})
from public, anon, authenticated, service_role;
