"""Consultations: a client and a lawyer, their messages to each other, and attached files.

The primary has column names in mixed case, and so does the target. Two columns of the consultation
name its participants; there is no table of memberships.
"""

from sqlalchemy import DateTime, Uuid, column, select, table

from mirror.access import (
    Allow,
    Always,
    Folder,
    Folders,
    Guard,
    Membership,
    Others,
    Own,
    Seat,
    Topic,
    Topics,
)
from mirror.model.mapping import Column, Mapping, Readable
from mirror.model.registry import Registry

_consultations = table(
    "consultations",
    column("id", Uuid),
    column("clientId", Uuid),
    column("lawyerId", Uuid),
    column("deletedAt", DateTime),
)

consultations = Mapping(
    name="consultations",
    table="consultations",
    key=("id",),
    columns=(Column("id", "uuid"), Column("clientId", "uuid"), Column("lawyerId", "uuid")),
    query=select(_consultations.c.id, _consultations.c.clientId, _consultations.c.lawyerId).where(
        _consultations.c.deletedAt.is_(None)
    ),
    readable=Readable(
        ("id", "clientId", "lawyerId"),
        "id = any((select mirror.my_consultations('CLIENT'))::uuid[])",
    ),
)

# A lawyer may do everything that a client may. While `lawyerId` is NULL, there is no lawyer yet.
participants = Membership(
    mapping="consultations",
    resource="id",
    user="clientId",
    role=Always("CLIENT"),
    also=(Seat(mapping="consultations", resource="id", user="lawyerId", role=Always("LAWYER")),),
    levels=("CLIENT", "LAWYER"),
    noun="consultation",
)

# The chat's own tables, as in examples/consultations/supabase.sql.
messages = Guard(
    table="messages",
    via="consultations",
    on="consultationId",
    owner="senderId",
    deleted="deletedAt",
    read="CLIENT",
    insert=Allow(Own("CLIENT"), columns=("id", "consultationId", "content", "type")),
    update=(
        # The sender may correct and withdraw a message; the other side marks it as delivered and
        # read.
        Allow(Own("CLIENT"), columns=("content", "deletedAt")),
        Allow(Others("CLIENT"), columns=("deliveredAt", "readAt")),
    ),
)
attachments = Guard(
    table="message_attachments",
    through="messages",
    on="messageId",
    owner="senderId",
    read="CLIENT",
    # A foreign key of the table ensures that the message is the sender's own.
    insert=Allow(
        Own("CLIENT"),
        columns=(
            "id",
            "messageId",
            "consultationId",
            "fileName",
            "fileUrl",
            "fileSize",
            "mimeType",
        ),
    ),
    delete=Own("CLIENT"),
)
files = Folders(
    folders=(
        Folder(
            bucket="message-attachments",
            path="consultations/{consultation}/{user}",
            via="consultations",
            read="CLIENT",
            insert=Own("CLIENT"),
            delete=Own("CLIENT"),
        ),
    )
)
# `consultation:<id>` announces withdrawn messages to the other side; `user:<id>` notifies the user
# of consultations that were assigned or withdrawn.
channels = Topics(
    topics=(
        Topic(
            prefix="consultation",
            via="consultations",
            receive="CLIENT",
            send="CLIENT",
            watch="CLIENT",
            appear="CLIENT",
        ),
    ),
    personal="user",
    tell=("consultations",),
)

registry = Registry(
    "consultations",
    [consultations],
    access=[participants],
    guards=[messages, attachments, files, channels],
)
