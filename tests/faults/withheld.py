"""Tools of the tests of withholding: users with access, and faults that refuse a row."""

from mirror.sync.drain import Drain
from tests.faults.tools import record
from tests.support.databases import TestDatabase

Member = tuple[str, str]
"""A trip, or another resource, and a user."""


def has_access(target: TestDatabase, member: Member, noun: str = "trip") -> bool:
    """Return whether the target's helper says that the user is a member."""
    resource, user = member
    with target.acting_as(user) as connection:
        rows = connection.execute(f"select mirror.is_{noun}_member(%s)", [resource]).fetchall()
    answer: bool = rows[0][0]
    return answer


def accesses(target: TestDatabase, members: list[Member]) -> list[bool]:
    """Return for each member whether the user has access."""
    return [has_access(target, member) for member in members]


def retry(primary: TestDatabase, drain: Drain) -> None:
    """Make all events that are set apart due, and drain."""
    primary.query("update mirror.retries set due_at = now() where buried_at is null")
    drain.run()


def withheld(target: TestDatabase) -> list[tuple[str, str]]:
    """Return mapping and reason of each key that is withheld."""
    return target.query("select mapping, reason from mirror.withheld order by since")


def deactivate(primary: TestDatabase, member: Member) -> None:
    """End a membership, and record that."""
    primary.query("update trip_memberships set status = 'INACTIVE' where user_id = %s", member[1])
    record(primary, "trip_memberships", *member)


def refuse_inactive(target: TestDatabase) -> None:
    """Add a CHECK to the target that refuses the status INACTIVE."""
    target.query("alter table trip_memberships add check (status <> 'INACTIVE')")


def give_away(primary: TestDatabase, target: TestDatabase, member: Member) -> None:
    """Change the creator of a member's trip in a way that a CHECK in the target refuses."""
    trip, user = member
    target.query(f"alter table trips add constraint creator check (created_by <> '{user}')")
    primary.query("update trips set created_by = %s where id = %s", user, trip)
    record(primary, "trips", trip)
