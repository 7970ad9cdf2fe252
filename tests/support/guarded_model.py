"""A second model for guards: mixed-case names, rows that expire, chains of parents, files."""

from sqlalchemy import Text, Uuid, column, select, table

from mirror.access import Allow, Folder, Folders, Guard, Membership, Own
from mirror.model.mapping import Column, Mapping
from mirror.model.registry import Registry

SCHEMA = """
create table "Messages" (
  id uuid primary key default gen_random_uuid(),
  "roomId" uuid not null,
  "senderId" uuid not null default auth.uid(),
  "content" text not null,
  "expiresAt" timestamptz
);
create table "Attachments" (
  id uuid primary key default gen_random_uuid(),
  "messageId" uuid not null,
  "userId" uuid not null default auth.uid(),
  "order" int not null default 0
);
create table "parent1" (
  "attachmentId" uuid not null,
  id uuid primary key default gen_random_uuid(),
  note text not null default ''
);
"""

_seats = table(
    "seats",
    column("room_id", Uuid),
    column("user_id", Uuid),
    column("role", Text),
    column("status", Text),
)
participants = Mapping(
    name="participants",
    table="Participants",
    key=("roomId", "userId"),
    columns=(
        Column("roomId", "uuid"),
        Column("userId", "uuid"),
        Column("Role", "text"),
        Column("status", "text"),
    ),
    query=select(
        _seats.c.room_id.label("roomId"),
        _seats.c.user_id.label("userId"),
        _seats.c.role.label("Role"),
        _seats.c.status,
    ),
    active={"status": frozenset({"ACTIVE"})},
)
membership = Membership(
    mapping="participants",
    resource="roomId",
    user="userId",
    role="Role",
    levels=("MEMBER", "ADMIN", "OWNER"),
    noun="room",
)
messages = Guard(
    table="Messages",
    via="participants",
    on="roomId",
    owner="senderId",
    expires="expiresAt",
    read="MEMBER",
    insert=Allow(Own("MEMBER"), columns=("roomId", "content")),
    update=Allow(Own("MEMBER"), columns=("content", "roomId")),
    delete=Allow(Own("MEMBER"), "OWNER"),
)
attachments = Guard(
    table="Attachments",
    through="Messages",
    on="messageId",
    owner="userId",
    read=Allow("MEMBER", Own()),
    insert=Own("MEMBER"),
    update=Allow("ADMIN", columns=("order",)),
    delete=Own(),
)
# Two steps from Messages. Its name is also the alias of a parent in a policy.
notes = Guard(
    table="parent1",
    through="Attachments",
    on="attachmentId",
    read="ADMIN",
    insert="OWNER",
    update="OWNER",
    delete="OWNER",
)
files = Folders(
    folders=(
        Folder(
            bucket="attachments",
            path="rooms/{id}/{user}",
            via="participants",
            read="MEMBER",
            insert=Own("MEMBER"),
            update=Own("MEMBER"),
            delete=Allow(Own("MEMBER"), "ADMIN"),
        ),
        Folder(
            bucket="plans",
            path="shared/{room_id}",
            via="participants",
            read="MEMBER",
            insert="ADMIN",
        ),
    )
)


def model(*guards: Guard | Folders) -> Registry:
    """Return the model with some of its guards."""
    return Registry("rooms", [participants], access=[membership], guards=guards)


registry = model(messages, attachments, notes, files)
