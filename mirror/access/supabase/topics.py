"""Topics: who may join and use Realtime's private channels, and who is told of a change."""

from dataclasses import dataclass
from textwrap import indent

from mirror.access.rules import (
    CALLER,
    Allow,
    MembershipLike,
    PolicyCondition,
    both,
    check_roles,
    membership_over,
    one_of,
    policy,
)
from mirror.access.supabase.notices import notices, seats_over
from mirror.errors import MappingError
from mirror.model.registry import Registry
from mirror.schema.quoting import literal


@dataclass(frozen=True, kw_only=True)
class Topic:
    """Channels called `<prefix>:<id>`, one for each resource of a membership.

    Each field is the weakest role that may; None: nobody. A channel can be joined by whoever may
    `receive` or `watch`.
    """

    prefix: str
    """What the topic begins with: `trip` for `trip:<id>`."""
    via: str
    """Name of the mapping whose Membership decides, or with Grants `mapping:kind`."""
    receive: str | None = None
    """Who gets broadcasts, those from the database included."""
    send: str | None = None
    """Who may broadcast."""
    watch: str | None = None
    """Who sees who is present."""
    appear: str | None = None
    """Who may be seen as present."""


@dataclass(frozen=True, kw_only=True)
class Topics:
    """Policies on `realtime.messages`, where that exists; one for receiving, one for sending.

    A topic that is not spelt as the ids are in the database, or not well formed, is nobody's.
    """

    topics: tuple[Topic, ...] = ()
    """The channels."""
    personal: str | None = None
    """Also `<personal>:<user's id>`: that user may receive broadcasts there; clients never send."""
    tell: tuple[str, ...] = ()
    """Names of mappings: users are told on `personal` when a membership there was granted to
    them, changed or revoked."""

    @property
    def relation(self) -> tuple[str, str]:
        """Where Realtime asks."""
        return "realtime", "messages"

    def prepare(self, registry: Registry) -> list[str]:
        """Return nothing; refuse what could not work.

        Raises:
            MappingError: a role or mapping that is not there, or a prefix that tells nothing apart.
        """
        prefixes = [topic.prefix for topic in self.topics]
        prefixes += [] if self.personal is None else [self.personal]
        for prefix in prefixes:
            if not prefix or ":" in prefix or prefixes.count(prefix) > 1:
                raise MappingError(
                    f"topic {prefix!r}: give each a prefix of its own, not empty, without colon."
                )
        if self.tell and self.personal is None:
            raise MappingError("topics: `tell` needs `personal`, the prefix of each user's topic.")
        for topic in self.topics:
            membership = membership_over(registry, topic.via, f"topic {topic.prefix!r}")
            for role in (topic.receive, topic.send, topic.watch, topic.appear):
                if role is not None:
                    check_roles(registry, membership, Allow(role), f"topic {topic.prefix!r}")
        for mapping in self.tell:
            seats_over(registry, mapping, "topics: tell")
        return []

    def ddl(self, registry: Registry) -> list[str]:
        """Return the blocks that create the policies, and the triggers that tell."""
        receive, send = [], []
        for topic in self.topics:
            membership = membership_over(registry, topic.via, f"topic {topic.prefix!r}")
            receive += _extensions(membership, topic, topic.receive, topic.watch)
            send += _extensions(membership, topic, topic.send, topic.appear)
        if self.personal is not None:
            own = f"topic = {literal(self.personal + ':')} || {CALLER}"
            receive.append(both(PolicyCondition("extension = 'broadcast'"), PolicyCondition(own)))
        policies = [
            policy(registry, "realtime.messages", verb, one, one)
            for verb, found in (("read", receive), ("insert", send))
            if found
            for one in [one_of(*found)]
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
    raise notice 'realtime.messages does not exist, so no channel is guarded; once Realtime has '
      'made it, run `mirror migrate supabase --guards` again';
    return;
  end if;

{body}
end
$$;"""
        ]
        personal = self.personal or ""
        return [*blocks, *(notices(registry, registry[name], personal) for name in self.tell)]


def _extensions(
    membership: MembershipLike, topic: Topic, broadcast: str | None, presence: str | None
) -> list[PolicyCondition]:
    """Return the conditions for the two features, as one where the same role has both."""
    asked = {"broadcast": broadcast, "presence": presence}
    found = []
    for role in dict.fromkeys(role for role in asked.values() if role is not None):
        names = [f"'{name}'" for name, needed in asked.items() if needed == role]
        mine = membership.mine(role)
        found.append(
            both(
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
