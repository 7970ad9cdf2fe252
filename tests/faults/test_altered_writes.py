"""The target looks at what it wrote where a trigger of somebody's may have altered it."""

import pytest

from mirror.sync.drain import Drain
from tests.faults.tools import record
from tests.faults.withheld import (
    Member,
    accesses,
    deactivate,
    retry,
)
from tests.support.databases import TestDatabase
from tests.support.rest import both_transports

pytestmark = both_transports(rest="long")


def install(target: TestDatabase, body: str, table: str = "trip_memberships") -> None:
    """Install a BEFORE trigger with this body on a mirrored table."""
    target.query(
        f"create function meddle() returns trigger language plpgsql as $$ begin {body} end $$;"
        f" create trigger meddle before insert or update or delete on {table}"
        " for each row execute function meddle()"
    )


@pytest.mark.parametrize(
    "body",
    [
        "if tg_op = 'UPDATE' then return null; end if; return new;",
        "if tg_op = 'UPDATE' then new.status = 'ACTIVE'; end if; return new;",
        "if tg_op = 'UPDATE' then return old; end if; return new;",
    ],
)
def test_a_trigger_that_alters_a_revocation_does_not_keep_the_access(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member], body: str
) -> None:
    """The target looks at what it wrote, and withholds the key until the trigger is gone."""
    install(target, body)
    deactivate(primary, members[0])
    drain.run()
    assert accesses(target, members) == [False, True, True]
    assert "trigger or a rule" in primary.value("select error from mirror.retries")
    target.query("drop trigger meddle on trip_memberships")
    retry(primary, drain)
    assert target.value("select count(*) from trip_memberships where status = 'INACTIVE'") == 1


def test_a_trigger_that_keeps_a_deleted_row_does_not_keep_the_access(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """It drops the DELETE without an error."""
    install(target, "if tg_op = 'DELETE' then return null; end if; return new;")
    primary.query("delete from trip_memberships where user_id = %s", members[0][1])
    record(primary, "trip_memberships", *members[0])
    drain.run()
    assert target.value("select count(*) from trip_memberships") == 3
    assert accesses(target, members) == [False, True, True]


def test_a_trigger_that_changes_nothing_is_no_fault(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """Such as one that keeps a history elsewhere."""
    install(target, "if tg_op = 'DELETE' then return old; end if; return new;")
    deactivate(primary, members[0])
    assert drain.run().failed == 0
    primary.query("delete from trip_memberships where user_id = %s", members[1][1])
    record(primary, "trip_memberships", *members[1])
    assert drain.run().failed == 0
    assert accesses(target, members) == [False, False, True]


def test_a_name_that_a_trigger_rewrites_becomes_null(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """Otherwise it would be repaired by every reconcile and never be true."""
    install(target, "new.name = lower(new.name); return new;", "trips")
    primary.query("update trips set name = 'ROME'")
    record(primary, "trips", members[0][0])
    drain.run()
    assert accesses(target, members) == [True, True, True]
    assert target.query("select name from trips") == [(None,)]
