"""Guards as declarations: those that cannot work are refused by name, before any database."""

from dataclasses import replace
from typing import Any

import pytest

from mappings import trips
from mirror.access import Allow, Folders, Guard, Own, Topic, Topics
from mirror.ddl import guards_sql
from mirror.errors import MappingError
from mirror.registry import Registry
from tests.consultations import attachments, files, membership, messages, participants
from tests.consultations import registry as consultations

pytestmark = pytest.mark.fast

FOLDER = files.folders[0]
TOPIC = Topic(prefix="room", via="participants", receive="MEMBER")


def printed(*guards: Any) -> str:
    """Return what guards of the consultations model print."""
    return guards_sql(Registry("m", [participants], access=[membership], guards=guards))


@pytest.mark.parametrize(
    ("guards", "told"),
    [
        ([replace(messages, read="BOSS")], "public.Messages: 'BOSS' is none of the roles of"),
        ([replace(messages, delete=Own("BOSS"))], "'BOSS' is none of the roles"),
        ([replace(messages, via="users")], "has no Membership of mapping 'users'"),
        ([replace(messages, through="x")], "say either `via` or `through`"),
        ([replace(messages, via=None)], "say either `via` or `through`"),
        ([replace(messages, read=Allow())], "an Allow without rules"),
        ([messages, messages], "registry 'm' has another one of this table"),
        ([replace(messages, table="Participants")], "nobody but the mirror writes that table"),
        ([attachments], "no guard of 'Messages' is declared before it"),
        ([attachments, messages], "no guard of 'Messages' is declared before it"),
        ([replace(messages, read=None), attachments], "of which nobody may read 'id'"),
        (
            [replace(messages, read=Allow("MEMBER", columns=("id",))), attachments],
            "of which nobody may read 'id' and 'consultationId'",
        ),
        ([replace(messages, table="m" * 64)], "longer than the 63 bytes"),
        ([Topics(topics=(replace(TOPIC, prefix=""),))], "topic '': give each a prefix"),
        ([Topics(topics=(replace(TOPIC, prefix="a:b"),))], "topic 'a:b': give each a prefix"),
        ([Topics(topics=(TOPIC, TOPIC))], "topic 'room': give each a prefix of its own"),
        ([Topics(topics=(TOPIC,), personal="room")], "topic 'room': give each a prefix"),
        ([Topics(topics=(replace(TOPIC, send="BOSS"),))], "topic 'room': 'BOSS' is none of"),
        ([Topics(topics=(replace(TOPIC, via="users"),))], "no Membership of mapping 'users'"),
        ([Topics(tell=("participants",))], "`tell` needs `personal`"),
        ([Topics(personal="user", tell=("users",))], "no Membership of mapping 'users'"),
        ([Folders(folders=(replace(FOLDER, read="BOSS"),))], "'BOSS' is none of the roles"),
        ([Folders(folders=(replace(FOLDER, path="shared"),))], "one {id}, and {user} at most"),
        ([Folders(folders=(replace(FOLDER, path="{a}/{b}/{user}"),))], "one {id}, and {user}"),
        ([Folders(folders=(replace(FOLDER, path="a//{id}/{user}"),))], "one {id}, and {user}"),
        ([Folders(folders=(replace(FOLDER, path="a-{id}/{user}/{id}"),))], "one {id}, and"),
        ([Folders(folders=(replace(FOLDER, path="a/{id}"),))], "add /{user} to the path"),
        (
            [Folders(folders=(replace(FOLDER, read=Allow("MEMBER", columns=("name",))),))],
            "files have no columns",
        ),
    ],
)
def test_a_guard_that_could_not_work_is_refused_with_the_remedy(
    guards: list[Any], told: str
) -> None:
    """When it is printed."""
    with pytest.raises(MappingError) as refused:
        printed(*guards)
    assert told in str(refused.value)


def test_what_nobody_may_has_neither_policy_nor_grant() -> None:
    """A guard without rules closes its table."""
    closed = printed(Guard(table="secrets", via="participants", on="consultationId"))
    assert "create policy" not in closed
    assert "grant" not in closed
    assert "revoke all on public.secrets from public, anon, authenticated" in closed
    assert "enable row level security" in closed


def test_rules_that_are_alternatives_stand_in_brackets_beside_a_condition() -> None:
    """`a or b and c` would let in whom a alone admits, expired or not."""
    sql = printed(replace(messages, read=Allow("OWNER", Own("MEMBER"))))
    using = sql.split("_read on", 1)[1].split(";")[0]
    assert " ".join(using.split()).endswith(
        "using ( ( \"consultationId\" = any((select mirror.my_consultations('OWNER'))::uuid[])"
        ' or ( "senderId" = (select auth.uid())'
        " and \"consultationId\" = any((select mirror.my_consultations('MEMBER'))::uuid[]) ) )"
        ' and ("expiresAt" is null or "expiresAt" > now()) )'
    )


def test_each_policy_is_for_authenticated_and_an_update_is_checked_twice() -> None:
    """By the words of what is printed for both models."""
    for one in (trips.registry, consultations):
        policies = [part.split(";")[0] for part in guards_sql(one).split("create policy ")[1:]]
        assert len(policies) > 5
        for text in policies:
            assert " to authenticated\n" in text
            verb = text.split(" for ")[1].split()[0]
            assert ("using (" in text) is (verb != "insert"), text
            assert ("with check (" in text) is (verb in {"insert", "update"}), text


def test_text_from_a_declaration_is_quoted() -> None:
    """A quote ends no literal, a bracket no condition."""
    odd = printed(
        Topics(topics=(replace(TOPIC, prefix="it's"),)),
        Folders(folders=(replace(FOLDER, bucket="b'", path="o'x/{id}/{user}"),)),
        replace(messages, table='a"b', owner="or ("),
    )
    for quoted in ("'it''s:'", "'b'''", "'o''x'", '"a""b"', '"or (" = (select auth.uid())'):
        assert quoted in odd
