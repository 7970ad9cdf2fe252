"""A permission model whose rows decide by their keys alone: rooms that end, guests and hosts."""

from sqlalchemy import DateTime, Text, Uuid, column, select, table

from mirror.access import Always, Membership, Seat
from mirror.model.mapping import Column, Mapping, Parent, Readable
from mirror.model.registry import Registry

PRIMARY = """
create table rooms (id uuid primary key, ends_at timestamptz);
create table guests (room_id uuid, user_id uuid, note text, primary key (room_id, user_id));
create table hosts (room_id uuid, user_id uuid, primary key (room_id, user_id));
create table passes (user_id uuid primary key, until timestamptz);
"""

_rooms = table("rooms", column("id", Uuid), column("ends_at", DateTime(timezone=True)))
_guests = table("guests", column("room_id", Uuid), column("user_id", Uuid), column("note", Text))
_hosts = table("hosts", column("room_id", Uuid), column("user_id", Uuid))
_passes = table("passes", column("user_id", Uuid), column("until", DateTime(timezone=True)))

registry = Registry(
    "rooms",
    [
        Mapping(
            name="rooms",
            table="rooms",
            key=("id",),
            columns=(Column("id", "uuid"), Column("ends_at", "timestamptz")),
            query=select(_rooms.c.id, _rooms.c.ends_at),
            expires="ends_at",
        ),
        Mapping(
            name="guests",
            table="guests",
            key=("room_id", "user_id"),
            columns=(
                Column("room_id", "uuid"),
                Column("user_id", "uuid"),
                Column("note", "text"),
            ),
            query=select(_guests.c.room_id, _guests.c.user_id, _guests.c.note),
            parents=(Parent("rooms", "room_id"),),
            readable=Readable(
                columns=("room_id", "user_id"), using="user_id = (select auth.uid())"
            ),
        ),
        Mapping(
            name="hosts",
            table="hosts",
            key=("room_id", "user_id"),
            columns=(Column("room_id", "uuid"), Column("user_id", "uuid")),
            query=select(_hosts.c.room_id, _hosts.c.user_id),
            on_delete="retain",
        ),
        Mapping(
            name="passes",
            table="passes",
            key=("user_id",),
            columns=(Column("user_id", "uuid"), Column("until", "timestamptz")),
            query=select(_passes.c.user_id, _passes.c.until),
            expires="until",
        ),
    ],
    access=[
        Membership(
            mapping="guests",
            resource="room_id",
            user="user_id",
            role=Always("GUEST"),
            levels=("GUEST", "HOST"),
            noun="room",
            also=(Seat(mapping="hosts", resource="room_id", user="user_id", role=Always("HOST")),),
        )
    ],
)
