"""One model whose users have uuids, or the texts of third-party auth."""

from sqlalchemy import column, select, table

from mirror.access import Folder, Folders, Grants, Guard, Membership, Own, Topic, Topics
from mirror.model.mapping import Column, Mapping, Readable
from mirror.model.registry import Registry

TABLES = """
create table posts (id int primary key, team uuid, author {type}, body text);
create table notes (id int primary key, author {type}, body text);
"""


def model(kind: str) -> Registry:
    """Return the model for users' ids of this type."""
    return Registry(
        "crew",
        [
            _mapping("teams", [("id", "uuid")], "id"),
            _mapping(
                "members",
                [("team", "uuid"), ("person", kind), ("role", "text")],
                "team",
                "person",
                readable=Readable(
                    ("team", "person"),
                    f"person = any((select mirror.my_team_companions())::{kind}[])",
                ),
            ),
            _mapping(
                "grants",
                [
                    ("id", "uuid"),
                    ("person", kind),
                    ("kind", "text"),
                    ("resource", "uuid"),
                    ("level", "text"),
                ],
                "id",
            ),
        ],
        access=[
            Membership(
                mapping="members",
                resource="team",
                user="person",
                role="role",
                levels=("MEMBER", "OWNER"),
                noun="team",
            ),
            Grants(
                mapping="grants",
                user="person",
                kind="kind",
                resource="resource",
                level="level",
                kinds=("board",),
                levels=("view",),
            ),
        ],
        guards=[
            Guard(
                table="posts",
                via="members",
                on="team",
                owner="author",
                read="MEMBER",
                insert=Own("MEMBER"),
            ),
            Guard(table="notes", owner="author", read=Own(), insert=Own()),
            Topics(
                topics=(Topic(prefix="team", via="members", receive="MEMBER"),), personal="person"
            ),
            Folders(
                folders=(
                    Folder(
                        bucket="files",
                        path="teams/{id}/{user}",
                        via="members",
                        read="MEMBER",
                        insert=Own("MEMBER"),
                    ),
                )
            ),
        ],
    )


def _mapping(
    name: str, columns: list[tuple[str, str]], *key: str, readable: Readable | None = None
) -> Mapping:
    source = table(name, *(column(one) for one, _ in columns))
    return Mapping(
        name=name,
        table=name,
        query=select(*source.c),
        key=key,
        columns=tuple(Column(*one) for one in columns),
        readable=readable,
    )
