"""Trips: users, trips and memberships, which decide the access to a trip's chat.

The primary soft-deletes: rows with a `deleted_at` count as absent. Statuses and roles may be text
or an enum in the primary; only status ACTIVE grants access, and OWNER > ADMIN > MEMBER.
"""

from sqlalchemy import DateTime, Text, Uuid, column, select, table

from mirror.access import Allow, Guard, Membership, Own, Topic, Topics
from mirror.model.mapping import Column, Mapping, Parent, Readable
from mirror.model.registry import Registry

_users = table(
    "users",
    column("id", Uuid),
    column("email", Text),
    column("username", Text),
    column("deleted_at", DateTime),
)
_trips = table(
    "trips",
    column("id", Uuid),
    column("name", Text),
    column("created_by", Uuid),
    column("deleted_at", DateTime),
)
_memberships = table(
    "trip_memberships",
    column("trip_id", Uuid),
    column("user_id", Uuid),
    column("role", Text),
    column("status", Text),
    column("deleted_at", DateTime),
)

users = Mapping(
    name="users",
    table="users",
    key=("id",),
    columns=(
        Column("id", "uuid"),
        Column("email", "text", descriptive=True),
        Column("username", "text", descriptive=True),
    ),
    query=select(_users.c.id, _users.c.email, _users.c.username).where(
        _users.c.deleted_at.is_(None)
    ),
    # Members see each other's names; no user may read e-mail addresses.
    readable=Readable(("id", "username"), "id = any((select mirror.my_trip_companions())::uuid[])"),
)

trips = Mapping(
    name="trips",
    table="trips",
    key=("id",),
    columns=(
        Column("id", "uuid"),
        Column("name", "text", descriptive=True),
        Column("created_by", "uuid"),
    ),
    # created_by is no parent and grants nothing: when the creator is deleted, the trip and the
    # access of its members must stay.
    query=select(_trips.c.id, _trips.c.name, _trips.c.created_by).where(
        _trips.c.deleted_at.is_(None)
    ),
    readable=Readable(
        ("id", "name", "created_by"), "id = any((select mirror.my_trips('MEMBER'))::uuid[])"
    ),
)

trip_memberships = Mapping(
    name="trip_memberships",
    table="trip_memberships",
    key=("trip_id", "user_id"),
    columns=(
        Column("trip_id", "uuid"),
        Column("user_id", "uuid"),
        Column("role", "text"),
        Column("status", "text"),
    ),
    query=select(
        _memberships.c.trip_id,
        _memberships.c.user_id,
        _memberships.c.role,
        _memberships.c.status,
    ).where(_memberships.c.deleted_at.is_(None)),
    parents=(Parent("trips", "trip_id"), Parent("users", "user_id")),
    active={"status": frozenset({"ACTIVE"})},
    readable=Readable(
        ("trip_id", "user_id", "role", "status"),
        "trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])",
    ),
)

# The chat feature's own tables, as in examples/trip_chat/supabase.sql.
chat_messages = Guard(
    table="chat_messages",
    via="trip_memberships",
    on="trip_id",
    owner="sender_id",
    read="MEMBER",
    insert=Allow(Own("MEMBER"), columns=("id", "trip_id", "content")),
    update=Allow(Own("MEMBER"), columns=("content",)),
    # Members may delete their own messages; those with role ADMIN may delete all.
    delete=Allow(Own("MEMBER"), "ADMIN"),
)
chat_reactions = Guard(
    table="chat_reactions",
    through="chat_messages",
    on="message_id",
    read="MEMBER",
    insert=Allow(Own("MEMBER"), columns=("message_id", "emoji")),
    delete=Own("MEMBER"),
)
chat_read_receipts = Guard(
    table="chat_read_receipts",
    through="chat_messages",
    on="message_id",
    read="MEMBER",
    insert=Allow(Own("MEMBER"), columns=("message_id",)),
)
user_presence = Guard(
    table="user_presence",
    via="trip_memberships",
    on="trip_id",
    read="MEMBER",
    insert=Allow(Own("MEMBER"), columns=("trip_id", "status")),
    update=Allow(Own("MEMBER"), columns=("status", "seen_at")),
    delete=Own("MEMBER"),
)
# `trip:<id>` is for the trip's members; `user:<id>` tells the user of joining and leaving.
channels = Topics(
    topics=(
        Topic(
            prefix="trip",
            via="trip_memberships",
            receive="MEMBER",
            send="MEMBER",
            watch="MEMBER",
            appear="MEMBER",
        ),
    ),
    personal="user",
    tell=("trip_memberships",),
)

registry = Registry(
    "trips",
    [users, trips, trip_memberships],
    access=[
        Membership(
            mapping="trip_memberships",
            resource="trip_id",
            user="user_id",
            role="role",
            levels=("MEMBER", "ADMIN", "OWNER"),
            noun="trip",
        )
    ],
    guards=[chat_messages, chat_reactions, chat_read_receipts, user_presence, channels],
)
