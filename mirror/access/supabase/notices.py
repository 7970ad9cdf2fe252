"""Notices: the SQL of triggers that notify users on private channels of changed memberships."""

from textwrap import indent

from mirror.access.conditions import row_conditions
from mirror.access.membership import Membership
from mirror.access.seats import Always, Seat
from mirror.errors import MappingError
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.schema.quoting import identifier, literal


def seats_of(registry: Registry, mapping: str, owner: str) -> list[tuple[Membership, Seat]]:
    """Return each Seat whose rows are those of a mapping, with the Membership that declares it.

    Raises:
        MappingError: no Membership has a seat on the mapping; the message begins with `owner`.
    """
    found = [
        (access, seat)
        for access in registry.access
        if isinstance(access, Membership)
        for seat in access.seats
        if seat.mapping == mapping
    ]
    if not found:
        raise MappingError(
            f"{owner}: registry {registry.name!r} has no Membership of mapping {mapping!r}; add it "
            f"to the registry's access."
        )
    return found


def notices(registry: Registry, mapping: Mapping, prefix: str) -> str:
    """Return the SQL of the triggers that notify users when their rows of a mapping are written.

    `prefix` is that of the users' own topics. The triggers run once per statement. If Realtime's
    table is missing or locked, or an error occurs, they send nothing and the write goes on.
    """
    table = identifier(mapping.schema, mapping.table)
    function = identifier("mirror", f"tell_{mapping.name}")
    seats = [
        _NoticeStatements(registry, mapping, membership, seat, prefix)
        for membership, seat in seats_of(registry, mapping.name, "topics: tell")
    ]
    inserted, deleted, updated = (
        indent("\n".join(getattr(seat, verb)() for seat in seats), "      ")
        for verb in ("inserted", "deleted", "updated")
    )
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
{inserted}
    elsif tg_op = 'DELETE' then
{deleted}
    else
{updated}
    end if;
  exception when others then
    raise warning 'nobody was told of changes in {mapping.name}: % (%)', sqlerrm, sqlstate;
  end;
  return null;
end
$$;
revoke all on function {function}() from public, anon, authenticated, service_role;

{triggers}"""


class _NoticeStatements:
    """The SQL statements that send notices for the rows of one Seat of a Membership."""

    def __init__(
        self,
        registry: Registry,
        mapping: Mapping,
        membership: Membership,
        seat: Seat,
        prefix: str,
    ) -> None:
        self.registry = registry
        self.mapping = mapping
        self.membership = membership
        self.seat = seat
        self.prefix = prefix
        self.key, self.user = identifier(seat.resource), identifier(seat.user)
        # The columns of user and resource that may change without a change of the row's key.
        self.changeable = [
            identifier(name) for name in (seat.user, seat.resource) if name not in mapping.key
        ]

    def inserted(self) -> str:
        """Return the statement that notifies the users of inserted rows of new access."""
        return (
            f"{self._tell('n', literal('membership_granted'))}\n"
            f"from new_rows as n\n"
            f"where {self._active('n')};"
        )

    def deleted(self) -> str:
        """Return the statement that notifies the users of deleted rows, expired ones included."""
        return (
            f"{self._tell('o', self._revoked('o'))}\n"
            f"from old_rows as o\n"
            f"where {self._active('o', expired=True)};"
        )

    def updated(self) -> str:
        """Return the statements that notify the users of updated rows.

        If a row's user or resource changes, the old pair loses a membership and the new one gains
        it.
        """
        same = " and ".join(
            f"o.{identifier(name)} = n.{identifier(name)}" for name in self.mapping.key
        )
        was, remains = self._active("o"), self._active("n")
        moved = " or ".join(f"o.{name} is distinct from n.{name}" for name in self.changeable)
        left = ""
        if moved:
            was = f"{was} and not ({moved})"
            left = (
                f"{self._tell('o', self._revoked('o'))}\n"
                f"from old_rows as o\n"
                f"join new_rows as n on {same}\n"
                f"where ({moved}) and {self._active('o', expired=True)};\n"
            )
        # If the role never changes, a row that stays active is no news.
        operator = "<>" if isinstance(self.seat.role, Always) else "or"
        event = (
            f"case\n"
            f"    when not was.active then 'membership_granted'\n"
            f"    when not remains.active then {self._revoked('n')}\n"
            f"    else 'membership_changed'\n"
            f"  end"
        )
        return f"""\
{left}{self._tell("n", event)}
from new_rows as n
join old_rows as o on {same}
cross join lateral (
  select coalesce({was}, false)
) as was (active)
cross join lateral (
  select coalesce({remains}, false)
) as remains (active)
where was.active {operator} remains.active;"""

    def _active(self, row: str, *, expired: bool = False) -> str:
        """Return the condition that a row gives a role; `expired`: expired rows count, too."""
        conditions = row_conditions(self.mapping, row, expired=expired)
        if not isinstance(self.seat.role, Always):
            roles = ", ".join(map(literal, self.membership.levels))
            conditions.append(f"{row}.{identifier(self.seat.role)} in ({roles})")
        conditions += [f"{row}.{name} is not null" for name in self.changeable]
        return " and ".join(conditions) or "true"

    def _revoked(self, row: str) -> str:
        """Return the SQL for the event of a user who lost the membership that `row` gave.

        It is `membership_revoked`, or `membership_changed` if another row of the same Membership
        still gives the user a role in the resource.
        """
        if not self.membership.also:
            return literal("membership_revoked")
        belongs = f"{self.membership.belongs}({row}.{self.key}, {row}.{self.user})"
        return f"case when {belongs}\n    then 'membership_changed' else 'membership_revoked' end"

    def _tell(self, row: str, event: str) -> str:
        """Return the statement's start, up to FROM, that sends `event` to the user of each row."""
        role = self.seat.role
        role_sql = literal(role.role) if isinstance(role, Always) else f"{row}.{identifier(role)}"
        # Not `id`: Realtime would take it for the id of the message.
        return f"""\
perform realtime.send(
  jsonb_build_object({literal(self.membership.noun + "_id")}, {row}.{self.key}, 'role', {role_sql}),
  {event}, {literal(self.prefix + ":")} || {row}.{self.user}, true
)"""
