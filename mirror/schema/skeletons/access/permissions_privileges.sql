revoke all on function
  {my_permissions}(),
  {has_permission}(text)
from public, anon, authenticated, service_role;

grant execute on function
  {my_permissions}(),
  {has_permission}(text)
to authenticated;
