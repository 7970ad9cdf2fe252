revoke all on function
  {levels}(text),
  {my_resources}(text, text),
  {check}(text, {type}, text)
from public, anon, authenticated, service_role;

grant execute on function
  {my_resources}(text, text),
  {check}(text, {type}, text)
to authenticated;
