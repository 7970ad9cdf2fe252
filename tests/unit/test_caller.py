"""Users have uuids, or the texts of third-party auth; a registry has one kind."""

import pytest

from mirror.access import Always, Grants, Membership, Seat
from mirror.access.caller import caller
from mirror.errors import MappingError
from mirror.model.registry import Registry
from tests.support.text_ids import model


def test_the_columns_of_users_say_by_what_the_caller_is_known() -> None:
    """A registry without users has uuids, for the owners of guarded rows."""
    assert caller(model("uuid")).id == "(select auth.uid())"
    assert caller(model("text")).id == "(select nullif(auth.jwt() ->> 'sub', ''))"
    assert caller(Registry("m", list(model("text")))).type == "uuid"


def test_two_kinds_of_users_in_one_registry_are_refused() -> None:
    """Two declarations, or two seats of one."""
    mappings = list(model("text"))
    member = Membership(
        mapping="members", resource="team", user="person", role="role", levels=("a",), noun="team"
    )
    mixed = Registry(
        "m",
        mappings,
        access=[
            member,
            Grants(
                mapping="grants",
                user="id",
                kind="kind",
                resource="resource",
                level="level",
                kinds=("board",),
                levels=("a",),
            ),
        ],
    )
    with pytest.raises(MappingError, match="'id' of mapping 'grants' is uuid and 'person'"):
        caller(mixed)
    seat = Seat(mapping="teams", resource="id", user="id", role=Always("a"))
    with pytest.raises(MappingError, match="users have ids of one kind"):
        caller(Registry("m", mappings, access=[Membership(**{**vars(member), "also": (seat,)})]))


def test_users_by_number_are_refused() -> None:
    """No token has such an id."""
    with pytest.raises(MappingError, match="'person' of mapping 'members' is bigint, which no tok"):
        caller(model("bigint"))
