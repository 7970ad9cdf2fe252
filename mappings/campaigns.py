"""Campaigns: permissions that follow from columns of the resources, without a table of grants.

The owner of a character, the game master of a campaign, and the campaign of a source are columns of
those rows, in the primary and in the target. A user belongs to a campaign as its game master (DM),
by a character in it, or by a membership with its own role, which may expire.
"""

from sqlalchemy import BigInteger, Boolean, DateTime, Text, Uuid, column, select, table

from mirror.access import (
    Allow,
    Always,
    Guard,
    Membership,
    Own,
    Readers,
    Seat,
    Topic,
    Topics,
)
from mirror.model.mapping import Column, Mapping, Parent, Readable, Reference
from mirror.model.registry import Registry

_characters = table(
    "characters", column("id", BigInteger), column("owner_id", Uuid), column("name", Text)
)
_campaigns = table(
    "campaigns", column("id", BigInteger), column("dm_id", Uuid), column("name", Text)
)
_members = table(
    "campaign_members",
    column("campaign_id", BigInteger),
    column("user_id", Uuid),
    column("role", Text),
    column("expires_at", DateTime(timezone=True)),
)
_cast = table(
    "campaign_characters", column("campaign_id", BigInteger), column("character_id", BigInteger)
)
_sources = table(
    "sources",
    column("id", BigInteger),
    column("owner_id", Uuid),
    column("is_private", Boolean),
    column("campaign_id", BigInteger),
)

_MINE = "owner_id = (select auth.uid())"
_MY_CAMPAIGNS = "any((select mirror.my_campaigns('SPECTATOR'))::bigint[])"

characters = Mapping(
    name="characters",
    table="characters",
    key=("id",),
    columns=(
        Column("id", "bigint"),
        Column("owner_id", "uuid"),
        Column("name", "text", descriptive=True),
    ),
    query=select(_characters.c.id, _characters.c.owner_id, _characters.c.name),
    readable=Readable(
        ("id", "owner_id", "name"),
        f"{_MINE} or id = any((select mirror.my_characters('READER'))::bigint[])",
    ),
)

campaigns = Mapping(
    name="campaigns",
    table="campaigns",
    key=("id",),
    columns=(
        Column("id", "bigint"),
        Column("dm_id", "uuid"),
        Column("name", "text", descriptive=True),
    ),
    query=select(_campaigns.c.id, _campaigns.c.dm_id, _campaigns.c.name),
    readable=Readable(("id", "dm_id", "name"), f"id = {_MY_CAMPAIGNS}"),
)

campaign_members = Mapping(
    name="campaign_members",
    table="campaign_members",
    key=("campaign_id", "user_id"),
    columns=(
        Column("campaign_id", "bigint"),
        Column("user_id", "uuid"),
        Column("role", "text"),
        Column("expires_at", "timestamptz"),
    ),
    query=select(
        _members.c.campaign_id, _members.c.user_id, _members.c.role, _members.c.expires_at
    ),
    parents=(Parent("campaigns", "campaign_id"),),
    expires="expires_at",
    readable=Readable(
        ("campaign_id", "user_id", "role", "expires_at"), f"campaign_id = {_MY_CAMPAIGNS}"
    ),
)

# A character in a campaign makes its owner a player, and lets the game master read its sheet. The
# query takes owner and game master from the tables of characters and campaigns. So if one of them
# changes, one row changes there, and its event names one scope here: the character or the campaign.
campaign_characters = Mapping(
    name="campaign_characters",
    table="campaign_characters",
    key=("campaign_id", "character_id"),
    columns=(
        Column("campaign_id", "bigint"),
        Column("character_id", "bigint"),
        Column("owner_id", "uuid"),
        Column("dm_id", "uuid"),
    ),
    query=select(
        _cast.c.campaign_id, _cast.c.character_id, _characters.c.owner_id, _campaigns.c.dm_id
    )
    .join(_characters, _characters.c.id == _cast.c.character_id)
    .join(_campaigns, _campaigns.c.id == _cast.c.campaign_id),
    references=(
        Reference("character_id", "bigint", table="characters"),
        Reference("campaign_id", "bigint", table="campaigns"),
    ),
    parents=(Parent("campaigns", "campaign_id"), Parent("characters", "character_id")),
    readable=Readable(
        ("campaign_id", "character_id", "owner_id"), f"campaign_id = {_MY_CAMPAIGNS}"
    ),
)

# The campaign is not a parent: a source stays when its campaign is deleted.
sources = Mapping(
    name="sources",
    table="sources",
    key=("id",),
    columns=(
        Column("id", "bigint"),
        Column("owner_id", "uuid"),
        Column("is_private", "boolean"),
        Column("campaign_id", "bigint"),
    ),
    query=select(_sources.c.id, _sources.c.owner_id, _sources.c.is_private, _sources.c.campaign_id),
    readable=Readable(
        ("id", "owner_id", "is_private", "campaign_id"),
        f"{_MINE} or not is_private or campaign_id = {_MY_CAMPAIGNS}",
        indexed=("campaign_id",),
    ),
)

in_campaigns = Membership(
    mapping="campaigns",
    resource="id",
    user="dm_id",
    role=Always("DM"),
    also=(
        Seat(
            mapping="campaign_characters",
            resource="campaign_id",
            user="owner_id",
            role=Always("PLAYER"),
        ),
        Seat(mapping="campaign_members", resource="campaign_id", user="user_id", role="role"),
    ),
    levels=("SPECTATOR", "PLAYER", "DM"),
    noun="campaign",
)
of_characters = Membership(
    mapping="characters",
    resource="id",
    user="owner_id",
    role=Always("OWNER"),
    also=(
        Seat(
            mapping="campaign_characters",
            resource="character_id",
            user="dm_id",
            role=Always("READER"),
        ),
    ),
    levels=("READER", "OWNER"),
    noun="character",
)
of_sources = Membership(
    mapping="sources",
    resource="id",
    user="owner_id",
    role=Always("OWNER"),
    levels=("OWNER",),
    noun="source",
)

# The game's own tables, as in examples/campaigns/supabase.sql.
character_sheets = Guard(
    table="character_sheets",
    via="characters",
    on="character_id",
    read="READER",
    insert="OWNER",
    update=Allow("OWNER", columns=("body",)),
    delete="OWNER",
)
source_entries = Guard(
    table="source_entries",
    via="sources",
    on="source_id",
    # Users may read the entries of every source that they may read, public sources included.
    read=Readers(),
    insert="OWNER",
    update=Allow("OWNER", columns=("body",)),
    delete="OWNER",
)
campaign_log = Guard(
    table="campaign_log",
    via="campaigns",
    on="campaign_id",
    owner="author_id",
    expires="expires_at",
    read="SPECTATOR",
    insert=Allow(Own("PLAYER"), columns=("campaign_id", "body", "expires_at")),
    update=Allow(Own("PLAYER"), columns=("body",)),
    delete=Allow(Own("PLAYER"), "DM"),
)
log_comments = Guard(
    table="log_comments",
    through="campaign_log",
    on="log_id",
    owner="author_id",
    read=Readers(),
    insert=Allow(Own("SPECTATOR"), columns=("log_id", "body")),
    delete=Allow(Own(), "DM"),
)
# Notes of the game master on a comment, for players.
comment_notes = Guard(
    table="comment_notes",
    through="log_comments",
    on="comment_id",
    read="PLAYER",
    insert="DM",
    update=Allow("DM", columns=("body",)),
    delete="DM",
)

# `campaign:<id>` is for the campaign's members; `user:<id>` tells the user of joining and leaving.
channels = Topics(
    topics=(
        Topic(
            prefix="campaign",
            via="campaigns",
            receive="SPECTATOR",
            send="PLAYER",
            watch="SPECTATOR",
            appear="PLAYER",
        ),
    ),
    personal="user",
    tell=("campaigns", "campaign_members", "campaign_characters"),
)

registry = Registry(
    "campaigns",
    [characters, campaigns, campaign_members, campaign_characters, sources],
    access=[in_campaigns, of_characters, of_sources],
    guards=[character_sheets, source_entries, campaign_log, log_comments, comment_notes, channels],
)
