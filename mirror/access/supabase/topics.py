"""Topics: declares, in `Registry(guards=[…])`, policies on Realtime's private channels.

`ddl` returns their SQL, and that of triggers that send notices of changed memberships.
"""

from dataclasses import dataclass
from textwrap import indent

from mirror.access.caller import caller
from mirror.access.rules import (
    Allow,
    MembershipLike,
    PolicyCondition,
    all_of,
    any_of,
    check_roles,
    membership_for,
    policy,
    while_fresh,
)
from mirror.access.supabase.notices import notices, seats_of
from mirror.errors import MappingError
from mirror.model.registry import Registry
from mirror.model.staleness import Stale, check_stale
from mirror.schema.freshness import mappings_read, must_be_fresh
from mirror.schema.quoting import literal


@dataclass(frozen=True, kw_only=True)
class Topic:
    """Channels called `<prefix>:<id>`, one for each resource of a membership.

    Each of `receive`, `send`, `watch` and `appear` is the weakest role that has this permission;
    None: no user has it. Users that may `receive` or `watch` may join a channel.
    """

    prefix: str
    """The first part of the topic: `trip` for `trip:<id>`."""
    via: str
    """Name of the mapping whose Membership decides, or with Grants `mapping:kind`."""
    receive: str | None = None
    """The weakest role that receives broadcasts, including those from the database."""
    send: str | None = None
    """The weakest role that may broadcast."""
    watch: str | None = None
    """The weakest role that sees which users are present."""
    appear: str | None = None
    """The weakest role whose users may announce that they are present."""
    stale: Stale | None = None
    """`ignore`: the policies do not ask how old the mirrored rows are that they read. None: `deny`,
    if the registry has `max_staleness`."""


@dataclass(frozen=True, kw_only=True)
class Topics:
    """Declares, in `Registry(guards=[…])`, policies on Realtime's table `realtime.messages`.

    There is one to receive and one to send.

    A topic that is malformed, or spells an id in another way than the database, grants nothing. If
    Realtime has not created its table yet, the migration creates no policy.
    """

    topics: tuple[Topic, ...] = ()
    """The channels."""
    personal: str | None = None
    """The prefix of each user's own topic, `<personal>:<user's id>`: the user may receive
    broadcasts there, and no client may send. None: no topics of this kind."""
    tell: tuple[str, ...] = ()
    """Names of mappings. When a membership in one of them is granted, changed or revoked, its user
    receives a notice on `personal`."""

    @property
    def relation(self) -> tuple[str, str]:
        """Schema and name of the table that Realtime reads and writes with the user's rights."""
        return "realtime", "messages"

    def prepare(self, registry: Registry) -> list[str]:
        """Check the declarations; return an empty list, because no SQL has to run before `ddl`.

        Raises:
            MappingError: a role or mapping is not declared, or a prefix is empty or not unique.
        """
        prefixes = [topic.prefix for topic in self.topics]
        prefixes += [] if self.personal is None else [self.personal]
        for prefix in prefixes:
            if not prefix or ":" in prefix or prefixes.count(prefix) > 1:
                raise MappingError(
                    f"topic {prefix!r}: give each a prefix of its own, not empty, without a colon."
                )
        if self.tell and self.personal is None:
            raise MappingError("topics: `tell` needs `personal`, the prefix of each user's topic.")
        for topic in self.topics:
            check_stale(topic.stale, registry.max_staleness, f"topic {topic.prefix!r}")
            membership = membership_for(registry, topic.via, f"topic {topic.prefix!r}")
            for role in (topic.receive, topic.send, topic.watch, topic.appear):
                if role is not None:
                    check_roles(registry, membership, Allow(role), f"topic {topic.prefix!r}")
        for mapping in self.tell:
            seats_of(registry, mapping, "topics: tell")
        return []

    def ddl(self, registry: Registry) -> list[str]:
        """Return the blocks that create the policies, and the triggers that send notices."""
        receive, send = [], []
        for topic in self.topics:
            membership = membership_for(registry, topic.via, f"topic {topic.prefix!r}")
            receives = _extensions(membership, topic, topic.receive, topic.watch)
            sends = _extensions(membership, topic, topic.send, topic.appear)
            receive += _while_fresh(registry, topic, receives)
            send += _while_fresh(registry, topic, sends)
        if self.personal is not None:
            own = f"topic = {literal(self.personal + ':')} || {caller(registry).id}"
            receive.append(all_of(PolicyCondition("extension = 'broadcast'"), PolicyCondition(own)))
        policies = [
            policy(registry, "realtime.messages", verb, one, one)
            for verb, found in (("read", receive), ("insert", send))
            if found
            for one in [any_of(*found)]
        ]
        if not policies:
            return []
        body = indent("\n\n".join(policies), "  ")
        blocks = [
            f"""\
-- Private channels. Realtime asks as the caller, with a row of the topic: may it be read, may it be
-- written. The row's own column, and text with text: a topic that is no id casts to nothing.
do $$
begin
  if to_regclass('realtime.messages') is null then
    raise warning 'realtime.messages does not exist, so no channel is guarded; once Realtime has '
      'made it, run `mirror migrate supabase --guards` again';
    return;
  end if;

{body}
end
$$;"""
        ]
        personal = self.personal or ""
        return [*blocks, *(notices(registry, registry[name], personal) for name in self.tell)]


def _while_fresh(
    registry: Registry, topic: Topic, conditions: list[PolicyCondition]
) -> list[PolicyCondition]:
    """Return a topic's alternative conditions; with a bound, as one that is false beyond it.

    Each topic has a bound of its own: it does not close when the mapping of another one is stale.
    """
    names = {name for one in conditions for name in mappings_read(registry, one.text)}
    bound = must_be_fresh(registry, topic.stale, names)
    return [while_fresh(registry, any_of(*conditions), bound)] if bound else conditions


def _extensions(
    membership: MembershipLike, topic: Topic, broadcast: str | None, presence: str | None
) -> list[PolicyCondition]:
    """Return the conditions under which a user may send or receive on a topic's channels.

    `broadcast` and `presence` are the weakest roles for these two extensions of Realtime; None: no
    user. If both have the same role, one condition covers them.
    """
    roles = {"broadcast": broadcast, "presence": presence}
    found = []
    for role in dict.fromkeys(role for role in roles.values() if role is not None):
        names = [f"'{name}'" for name, needed in roles.items() if needed == role]
        mine = membership.my_resources(role)
        found.append(
            all_of(
                PolicyCondition(
                    f"extension = {names[0]}"
                    if len(names) == 1
                    else f"extension in ({', '.join(names)})"
                ),
                PolicyCondition(
                    f"topic = any(array(\n"
                    f"  select {literal(topic.prefix + ':')} || id from unnest({mine}) as id\n"
                    f"))"
                ),
            )
        )
    return found
