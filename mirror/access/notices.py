"""Notices: telling a user, on a private channel, that a membership of theirs has changed."""

from mirror.access.membership import Membership
from mirror.access.seats import Always
from mirror.errors import MappingError
from mirror.registry import Registry
from mirror.sql import identifier, literal


def notices(registry: Registry, membership: Membership, prefix: str) -> str:
    """Return the block that makes the mirror's writes to a mapping's table tell its users.

    Statement by statement, and only while Realtime's table takes rows: whatever goes wrong, the
    write itself must not.
    """
    mapping = registry[membership.mapping]
    if membership.also or isinstance(membership.role, Always):
        raise MappingError(
            f"topics: tell names {mapping.name!r}, whose membership is not by one column with the "
            f"user and one with the role; only such a one can say who is to be told of what."
        )
    table = identifier(mapping.schema, mapping.table)
    function = identifier("mirror", f"tell_{mapping.name}")
    key, user, role = map(identifier, (membership.resource, membership.user, membership.role))
    roles = ", ".join(map(literal, membership.levels))
    same = " and ".join(f"o.{identifier(name)} = n.{identifier(name)}" for name in mapping.key)

    def active(row: str, *, expired: bool = False) -> str:
        conditions = [
            f"{row}.{identifier(name)} in ({', '.join(map(literal, sorted(values)))})"
            for name, values in sorted(mapping.active.items())
        ]
        conditions.append(f"{row}.{role} in ({roles})")
        if mapping.expires is not None and not expired:
            moment = f"{row}.{identifier(mapping.expires)}"
            conditions.append(f"({moment} is null or {moment} > now())")
        return " and ".join(conditions)

    def tell(row: str, event: str) -> str:
        # Not `id`: Realtime would take it for the message's own.
        return f"""\
      perform realtime.send(
        jsonb_build_object({literal(membership.noun + "_id")}, {row}.{key}, 'role', {row}.{role}),
        {event}, {literal(prefix + ":")} || {row}.{user}, true
      )"""

    changed = """\
case
          when not was.active then 'membership_granted'
          when not remains.active then 'membership_revoked'
          else 'membership_changed'
        end"""
    triggers = "\n\n".join(
        f"create trigger {identifier(f'mirror_{registry.name}_told_{verb}')}\n"
        f"after {verb} on {table} referencing {rows}\n"
        f"for each statement execute function {function}();"
        for verb, rows in {
            "insert": "new table as new_rows",
            "update": "old table as old_rows new table as new_rows",
            "delete": "old table as old_rows",
        }.items()
    )
    return f"""\
-- Tells each user of what changed for them. Where Realtime's table is missing, or somebody holds
-- it, nobody is told: the write goes on, and waits for nothing.
create or replace function {function}() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  begin
    if to_regclass('realtime.messages') is null then
      return null;
    end if;
    lock table realtime.messages in row exclusive mode nowait;
    if tg_op = 'INSERT' then
{tell("n", "'membership_granted'")}
      from new_rows as n
      where {active("n")};
    elsif tg_op = 'DELETE' then
{tell("o", "'membership_revoked'")}
      from old_rows as o
      where {active("o", expired=True)};
    else
{tell("n", changed)}
      from new_rows as n
      join old_rows as o on {same}
      cross join lateral (
        select coalesce({active("o")}, false)
      ) as was (active)
      cross join lateral (
        select coalesce({active("n")}, false)
      ) as remains (active)
      where was.active or remains.active;
    end if;
  exception when others then
    raise warning 'nobody was told of changes in {mapping.name}: % (%)', sqlerrm, sqlstate;
  end;
  return null;
end
$$;
revoke all on function {function}() from public, anon, authenticated, service_role;

{triggers}"""
