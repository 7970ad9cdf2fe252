"""Consultations: a client, a lawyer, what they write to each other, and the files with it.

The primary names columns in mixed case, and so does the target. Who takes part is said by two
columns of the consultation itself; nobody is a member by a row of their own.
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

# No lawyer yet: NULL, which is nobody. A lawyer may whatever a client may.
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
        # What one wrote is one's own to correct and to take back; whether it was read is for
        # the other to say.
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
    # That the message is the sender's own is a foreign key's business.
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
# `consultation:<id>`, where the other side is told of a message that was taken back; `user:<id>`
# tells of a case that one has got, or has no more.
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
