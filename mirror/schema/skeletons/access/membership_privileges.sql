revoke all on function
  {roles}(text),
  {my_resources}(text),
  {companions}(),
  {has_role}({kind}, text),
  {is_member}({kind})
from public, anon, authenticated, service_role;

grant execute on function
  {my_resources}(text),
  {companions}(),
  {has_role}({kind}, text),
  {is_member}({kind})
to authenticated;
