"""Guards as declarations: those that cannot work are refused by name, without a database."""

import re
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import DateTime, Select, column

from mappings import trips
from mirror.access import (
    Allow,
    Always,
    Folders,
    Guard,
    Others,
    Own,
    Permission,
    Readers,
    Seat,
    Topic,
    Topics,
)
from mirror.errors import MappingError
from mirror.model.mapping import Column
from mirror.model.registry import Registry
from mirror.schema import guards_sql, model_sql
from tests.support.guarded_model import attachments, files, membership, messages, participants
from tests.support.guarded_model import registry as rooms

FOLDER = files.folders[0]
TOPIC = Topic(prefix="room", via="participants", receive="MEMBER")


def printed(*guards: Any) -> str:
    """Return the SQL of guards in the rooms model."""
    return guards_sql(Registry("m", [participants], access=[membership], guards=guards))


@pytest.mark.parametrize(
    ("guards", "expected"),
    [
        ([replace(messages, read="BOSS")], "public.Messages: 'BOSS' is not one of the roles of"),
        ([replace(messages, delete=Own("BOSS"))], "'BOSS' is not one of the roles"),
        ([replace(messages, read=Others("BOSS"))], "'BOSS' is not one of the roles"),
        (
            [replace(messages, update=(Allow(Own("MEMBER"), columns=("a",)), Allow("OWNER")))],
            "each of several Allow for `update` needs rules and columns",
        ),
        (
            [replace(messages, update=(Allow("OWNER", columns=("a",)), Allow(columns=("b",))))],
            "each of several Allow for `update` needs rules and columns",
        ),
        ([replace(messages, update=())], "an Allow without rules"),
        ([replace(messages, read=Readers())], "`Readers` are those of 'participants'"),
        ([replace(messages, via="users")], "has no Membership of mapping 'users'"),
        ([replace(messages, through="x")], "give either `via` or `through`"),
        ([replace(messages, via=None)], "`on` goes with `via` or `through`"),
        ([replace(messages, on="")], "`on` goes with `via` or `through`"),
        ([Guard(table="t", read="MEMBER")], "'MEMBER' is a membership's role; say `via` which"),
        ([Guard(table="t", read=Permission("x"))], "registry 'm' has no Permissions"),
        ([replace(messages, read=Allow())], "an Allow without rules"),
        ([messages, messages], "registry 'm' has another guard of this table"),
        ([replace(messages, table="Participants")], "only the mirror writes that table"),
        ([attachments], "no guard of 'Messages' is declared before it"),
        ([attachments, messages], "no guard of 'Messages' is declared before it"),
        ([replace(messages, read=None), attachments], "of which no user may read 'id'"),
        (
            [replace(messages, read=Allow("MEMBER", columns=("id",))), attachments],
            "of which no user may read 'id' and 'roomId'",
        ),
        ([replace(messages, table="m" * 64)], "longer than the 63 bytes"),
        ([Topics(topics=(replace(TOPIC, prefix=""),))], "topic '': give each a prefix"),
        ([Topics(topics=(replace(TOPIC, prefix="a:b"),))], "topic 'a:b': give each a prefix"),
        ([Topics(topics=(TOPIC, TOPIC))], "topic 'room': give each a prefix of its own"),
        ([Topics(topics=(TOPIC,), personal="room")], "topic 'room': give each a prefix"),
        ([Topics(topics=(replace(TOPIC, send="BOSS"),))], "topic 'room': 'BOSS' is not one of"),
        ([Topics(topics=(replace(TOPIC, via="users"),))], "no Membership of mapping 'users'"),
        ([Topics(tell=("participants",))], "`tell` needs `personal`"),
        ([Topics(personal="user", tell=("users",))], "no Membership of mapping 'users'"),
        ([Folders(folders=(replace(FOLDER, read="BOSS"),))], "'BOSS' is not one of the roles"),
        ([Folders(folders=(replace(FOLDER, path="shared"),))], "one {id}, and {user} at most"),
        ([Folders(folders=(replace(FOLDER, path="{a}/{b}/{user}"),))], "one {id}, and {user}"),
        ([Folders(folders=(replace(FOLDER, path="a//{id}/{user}"),))], "one {id}, and {user}"),
        ([Folders(folders=(replace(FOLDER, path="a-{id}/{user}/{id}"),))], "one {id}, and"),
        ([Folders(folders=(replace(FOLDER, path="a/{id}"),))], "add /{user} to the path"),
        (
            [Folders(folders=(replace(FOLDER, path="a/{id}", insert=Others("MEMBER")),))],
            "`Own` and `Others` need to know",
        ),
        ([Folders(folders=(replace(FOLDER, read=Readers()),))], "`Readers` is for tables"),
        (
            [Folders(folders=(replace(FOLDER, read=Allow("MEMBER", columns=("name",))),))],
            "files have no columns",
        ),
    ],
)
def test_a_guard_that_could_not_work_is_refused_with_the_remedy(
    guards: list[Any], expected: str
) -> None:
    """At printing."""
    with pytest.raises(MappingError) as refused:
        printed(*guards)
    assert expected in str(refused.value)


def test_an_action_without_a_rule_has_neither_policy_nor_grant() -> None:
    """A guard without rules closes its table."""
    closed = printed(Guard(table="secrets", via="participants", on="roomId"))
    assert "create policy" not in closed
    assert "grant" not in closed
    assert "revoke all on public.secrets from public, anon, authenticated" in closed
    assert "enable row level security" in closed


def test_alternative_rules_stand_in_brackets_beside_a_condition() -> None:
    """`a or b and c` would admit each user who satisfies a, even if the row is expired."""
    sql = printed(replace(messages, read=Allow("OWNER", Own("MEMBER"))))
    using = sql.split("_read on", 1)[1].split(";")[0]
    assert " ".join(using.split()).endswith(
        "using ( ( \"roomId\" = any((select mirror.my_rooms('OWNER'))::uuid[])"
        ' or ( "senderId" = (select auth.uid())'
        " and \"roomId\" = any((select mirror.my_rooms('MEMBER'))::uuid[]) ) )"
        ' and ("expiresAt" is null or "expiresAt" > now()) )'
    )


def test_each_policy_is_for_authenticated_and_an_update_is_checked_twice() -> None:
    """In the printed SQL of both models."""
    for one in (trips.registry, rooms):
        policies = [part.split(";")[0] for part in guards_sql(one).split("create policy ")[1:]]
        assert len(policies) > 5
        for text in policies:
            assert " to authenticated\n" in text
            verb = text.split(" for ")[1].split()[0]
            assert ("using (" in text) is (verb != "insert"), text
            assert ("with check (" in text) is (verb in {"insert", "update"}), text


def test_text_from_a_declaration_is_quoted() -> None:
    """A quote must not end a literal, nor a bracket a condition."""
    odd = printed(
        Topics(topics=(replace(TOPIC, prefix="it's"),)),
        Folders(folders=(replace(FOLDER, bucket="b'", path="o'x/{id}/{user}"),)),
        replace(messages, table='a"b', owner="or ("),
    )
    for quoted in ("'it''s:'", "'b'''", "'o''x'", '"a""b"', '"or (" = (select auth.uid())'):
        assert quoted in odd


OTHER_SEAT = Seat(mapping="participants", resource="roomId", user="userId", role=Always("MEMBER"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"role": Always("BOSS")}, "'BOSS' is not one of its levels (MEMBER, ADMIN, OWNER)"),
        ({"also": (replace(OTHER_SEAT, role=Always("BOSS")),)}, "'BOSS' is not one of its levels"),
        (
            {"also": (replace(OTHER_SEAT, role="Rôle"),)},
            "'Rôle' is not among the mapping's columns",
        ),
        (
            {"also": (replace(OTHER_SEAT, user="Role"),)},
            "mapping 'participants' is text; ",
        ),
        ({"also": (replace(OTHER_SEAT, mapping="guests"),)}, "mapping 'guests' is not declared"),
        (
            {"also": (replace(OTHER_SEAT, resource="Role"),)},
            "'Role' of 'participants' is text, not uuid; it must be the same resource's id",
        ),
        ({"levels": ()}, "it has no levels"),
    ],
)
def test_a_membership_that_could_not_work_is_refused_with_the_remedy(
    change: dict[str, Any], expected: str
) -> None:
    """Each of its columns and mappings is checked."""
    access = [replace(membership, **change)]
    with pytest.raises(MappingError) as refused:
        model_sql(Registry("m", [participants], access=access))
    assert expected in str(refused.value)


def test_two_memberships_of_one_noun_are_refused() -> None:
    """The functions of the second one would take the place of the first one's."""
    other = replace(membership, levels=("BOSS",))
    with pytest.raises(MappingError, match=r"print the function mirror\.\w+_roles\(text\)"):
        model_sql(Registry("m", [participants], access=[membership, other]))


def test_an_expired_seat_grants_nothing_and_its_deletion_sends_a_message() -> None:
    """The sweep that deletes an expired row sends the first message about its end."""
    seats = participants.query
    assert isinstance(seats, Select)
    until = replace(
        participants,
        columns=(*participants.columns, Column("until", "timestamptz")),
        query=seats.add_columns(column("until", DateTime(timezone=True))),
        expires="until",
    )
    topics = Topics(personal="user", tell=("participants",))
    sql = guards_sql(Registry("m", [until], access=[membership], guards=[topics]))
    inserted, rest = sql.split("if tg_op = 'INSERT'")[1].split("elsif tg_op = 'DELETE'")
    deleted, updated = rest.split("    else\n", 1)
    assert "until > now()" in inserted
    assert "until" not in deleted
    assert "o.until > now()" in updated
    assert "n.until > now()" in updated


def test_a_column_may_stand_in_several_rules() -> None:
    """A user whom one of the rules admits may change it."""
    update = (
        Allow(Own("MEMBER"), columns=("content", "pinned")),
        Allow("ADMIN", columns=("pinned",)),
    )
    sql = printed(replace(messages, update=update))
    assert "update (content, pinned)" in sql
    own, either = sql.split("if record_image_ne(")[1:]
    assert own.startswith("row(new.content), row(old.content))")
    assert "'ADMIN'" not in own.split("then")[0]
    assert either.startswith("row(new.pinned), row(old.pinned))")
    assert "'ADMIN'" in either.split("then")[0]
    assert "'MEMBER'" in either.split("then")[0]


def test_tables_of_one_name_in_two_schemas_have_their_own_column_rules() -> None:
    """Otherwise the second one's rules would decide for both."""
    update = (Allow("MEMBER", columns=("content",)), Allow("ADMIN", columns=("pinned",)))
    guard = replace(messages, update=update)
    sql = printed(guard, replace(guard, schema="archive"))
    functions = re.findall(r"create or replace function (\S*columns_\S*)\(\)", sql)
    assert len(set(functions)) == 2
