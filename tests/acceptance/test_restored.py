"""Primary and target know each other: copies and restored databases are named, and nothing is lost.

Real servers and base backups; the commands are those of an operator.
"""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from examples.trip_chat import models
from mappings.trips import registry
from mirror.devstack import PostgresCluster, prepare_cluster, prepare_database, prepare_services
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from mirror.sync.wiring import build_drain
from tests.acceptance.conftest import Command
from tests.support.backups import back_up, restore, running_copy
from tests.support.databases import TestDatabase
from tests.support.forking import Ran

TRIP, ADA, BOB = (UUID(int=number) for number in (1, 2, 3))


@pytest.fixture(scope="module")
def servers(data: Path) -> Iterator[tuple[PostgresCluster, PostgresCluster]]:
    """A server for the primary and one for the target, which tests restore and copy."""
    with (
        PostgresCluster.start(data / "paired_primary", version=16, durable=False) as first,
        PostgresCluster.start(
            data / "paired_target", version=18, superuser="supabase_admin", durable=False
        ) as second,
    ):
        prepare_cluster(second)
        yield first, second


@dataclass
class Sides:
    """A primary with a trip of two members, its target, and an operator's commands."""

    command: Command
    servers: tuple[PostgresCluster, PostgresCluster]
    names: tuple[str, str]

    @property
    def primary(self) -> TestDatabase:
        """The primary."""
        return TestDatabase(self.servers[0].url(self.names[0]))

    @property
    def target(self) -> TestDatabase:
        """The target."""
        return TestDatabase(self.servers[1].url(self.names[1], user="postgres"))

    def __call__(self, *arguments: str, **urls: str | None) -> Ran:
        """Run `mirror` between the two, or between other databases."""
        return self.command(
            *arguments,
            **{
                "PRIMARY_DATABASE_URL": self.primary.url,
                "SUPABASE_DB_URL": self.target.url,
                "MIRROR_RECONCILE_GRACE_SECONDS": "0",
            }
            | urls,
        )

    def change(self, statement: str, *values: object) -> None:
        """Commit a change in the primary, and mirror it together with a step."""
        self.primary.query(statement, *values)
        self.drain()

    def drain(self) -> None:
        """Mirror what waits, and take a step, as a worker of its own."""
        a_second_later(self.primary)
        settings = load_settings(
            primary_database_url=self.primary.url, supabase_db_url=self.target.url
        )
        with closing(build_drain(settings, registry)) as worker:
            assert worker.run().failed == 0

    def revoke(self, user: UUID) -> None:
        """Delete a membership in the primary, and mirror that."""
        self.change("delete from trip_memberships where user_id = %s", user)

    def members(self, target: TestDatabase | None = None) -> set[UUID]:
        """Return the members that row-level security lets read the trip."""
        return {user for user in (ADA, BOB) if can_read(target or self.target, user)}

    def recognised(self, remedy: str, **urls: str) -> None:
        """Assert that every command says that the sides do not belong together."""
        status = self("status", **urls)
        assert status.code == 1
        assert re.search(f"run `mirror ({remedy})`", status.out), status.text
        doctor = self("doctor", "--json", **urls)
        codes = {each["code"] for each in json.loads(doctor.out)["findings"]}
        assert (doctor.code, "not-paired" in codes) == (1, True), doctor.text
        for command in ("drain", "reconcile"):
            done = self(command, **urls)
            assert done.code == 1
            assert re.search(f"run `mirror ({remedy})`", done.err), done.text

    def healed(self) -> None:
        """Assert that the commands find nothing wrong any more."""
        self.drain()
        for command in ("reconcile", "status"):
            done = self(command)
            assert done.code == 0, done.text


def can_read(target: TestDatabase, user: UUID) -> bool:
    """Return whether row-level security shows a user the trip."""
    with target.acting_as(user) as connection:
        return bool(connection.execute("select from trips where id = %s", [TRIP]).fetchall())


def a_second_later(primary: TestDatabase) -> None:
    """Let the primary's last step be old enough for the next one."""
    primary.query("update mirror.pairing set stepped_at = stepped_at - interval '2 seconds'")


@pytest.fixture
def sides(servers: tuple[PostgresCluster, PostgresCluster], mirror: Command) -> Iterator[Sides]:
    """A pair with a trip and two members, which have taken a step together."""
    name = f"pair_{uuid4().hex[:8]}"
    first, second = servers
    first.create_database(name)
    migrate_target(second, name)
    sides = Sides(mirror, servers, (name, name))
    with sides.primary.migrating() as connection:
        models.Base.metadata.create_all(connection)
        upgrade(connection, "primary", registry, triggers=True)
    for user, username in ((ADA, "ada"), (BOB, "bob")):
        sides.primary.query(
            "insert into users (id, username, email) values (%s, %s, %s)", user, username, username
        )
    sides.primary.query("insert into trips (id, name, created_by) values (%s, 'a', %s)", TRIP, ADA)
    for user in (ADA, BOB):
        sides.change(
            "insert into trip_memberships (trip_id, user_id, role, status)"
            " values (%s, %s, 'MEMBER', 'ACTIVE')",
            TRIP,
            user,
        )
    assert sides.members() == {ADA, BOB}
    yield sides
    for server in servers:
        server.drop_database(name)


def migrate_target(cluster: PostgresCluster, name: str) -> None:
    """Create a project with the trips model."""
    cluster.create_database(name, owner="postgres")
    prepare_database(cluster, name)
    prepare_services(cluster, name)
    with TestDatabase(cluster.url(name, user="postgres")).migrating() as connection:
        upgrade(connection, "supabase", registry)


@pytest.fixture
def backup_name() -> str:
    """A name that no other backup has."""
    return f"backup_{uuid4().hex[:8]}"


@pytest.mark.parametrize("later", [0, 2000], ids=["few transactions", "more than were lost"])
def test_a_primary_that_was_restored_is_named_and_taken_over_by_rebase(
    sides: Sides, backup_name: str, later: int
) -> None:
    """Also where the restored primary's transaction ids have overtaken those that were lost."""
    backup = back_up(sides.servers[0], backup_name)
    sides.revoke(BOB)
    restore(sides.servers[0], backup)
    sides.primary.query("create table other (id int)")
    with sides.primary.connect() as connection:
        for number in range(later):
            connection.execute("insert into other values (%s)", [number])

    sides.recognised("rebase")
    assert sides.members() == {ADA}
    assert sides("rebase", "--yes").code == 2, "the last drain may be a worker that is alive"
    assert sides("rebase", "--yes", "--force").code == 0
    sides.healed()
    assert sides.members() == {ADA, BOB}, "the restored primary is the truth"


def test_a_target_that_was_restored_is_named_and_mirrored_again_by_retarget(
    sides: Sides, backup_name: str
) -> None:
    """Until then the removed member is back, and the commands say so."""
    backup = back_up(sides.servers[1], backup_name)
    sides.revoke(BOB)
    assert sides.members() == {ADA}
    restore(sides.servers[1], backup)

    assert sides.members() == {ADA, BOB}
    sides.recognised("retarget")
    assert sides("retarget", "--yes", "--force").code == 0
    sides.healed()
    assert sides.members() == {ADA}


def test_a_target_that_was_emptied_is_named_and_filled_by_retarget(sides: Sides) -> None:
    """As a new project is."""
    sides.servers[1].drop_database(sides.names[1])
    migrate_target(sides.servers[1], sides.names[1])

    sides.recognised("retarget")
    assert sides.members() == set()
    assert sides("retarget", "--yes", "--force").code == 0
    sides.healed()
    assert sides.members() == {ADA, BOB}


def test_a_copy_of_the_primary_does_not_write_into_its_target(
    sides: Sides, backup_name: str
) -> None:
    """A base backup on the same host, with the same names, at another port."""
    backup = back_up(sides.servers[0], backup_name)
    sides.revoke(BOB)
    with running_copy(sides.servers[0], backup) as server:
        copy = TestDatabase(server.url(sides.names[0]))
        copy.query("delete from trip_memberships where user_id = %s", ADA)
        sides.recognised("rebase", PRIMARY_DATABASE_URL=copy.url)
        assert sides.members() == {ADA}
    sides.healed()


def test_a_copy_that_goes_on_before_the_primary_does_is_told_by_the_primary(
    sides: Sides, backup_name: str
) -> None:
    """Nothing tells them apart before; afterwards the primary is refused until somebody decides."""
    backup = back_up(sides.servers[0], backup_name)
    with running_copy(sides.servers[0], backup) as server:
        copy = TestDatabase(server.url(sides.names[0]))
        a_second_later(copy)
        copy.query("delete from trip_memberships where user_id = %s", ADA)
        assert sides("drain", PRIMARY_DATABASE_URL=copy.url).code == 0
    a_second_later(sides.primary)
    sides.primary.query("delete from trip_memberships where user_id = %s", BOB)
    sides.recognised("rebase")
    assert sides("rebase", "--yes", "--force").code == 0
    sides.healed()
    assert sides.members() == {ADA}


def test_copies_of_both_sides_work_with_each_other_and_with_no_other(
    sides: Sides, backup_name: str
) -> None:
    """Staging from production's backups."""
    backups = [back_up(server, backup_name) for server in sides.servers]
    sides.revoke(BOB)
    with (
        running_copy(sides.servers[0], backups[0]) as first,
        running_copy(sides.servers[1], backups[1]) as second,
    ):
        staging = Sides(sides.command, (first, second), sides.names)
        staging.revoke(ADA)
        staging.healed()
        assert staging.members() == {BOB}
        staging.recognised("rebase|retarget", SUPABASE_DB_URL=sides.target.url)
        sides.recognised("rebase|retarget", SUPABASE_DB_URL=staging.target.url)
    sides.healed()
    assert sides.members() == {ADA}


def test_a_second_target_gets_none_of_the_primarys_events(sides: Sides, backup_name: str) -> None:
    """A staging project that has production's primary by mistake."""
    migrate_target(sides.servers[1], backup_name)
    second = TestDatabase(sides.servers[1].url(backup_name, user="postgres"))
    sides.primary.query("delete from trip_memberships where user_id = %s", BOB)
    sides.recognised("retarget", SUPABASE_DB_URL=second.url)
    assert second.value("select count(*) from users") == 0

    sides.healed()
    assert sides.members() == {ADA}


def test_two_spellings_of_an_address_are_one_primary(sides: Sides) -> None:
    """Addresses and names are no identity."""
    other = sides.primary.url.replace("127.0.0.1", "localhost")
    assert other != sides.primary.url
    sides.revoke(BOB)
    a_second_later(sides.primary)
    sides.primary.query("delete from trip_memberships where user_id = %s", ADA)
    assert sides("drain", PRIMARY_DATABASE_URL=other).code == 0
    assert sides("status", PRIMARY_DATABASE_URL=other).code == 0
    sides.healed()


def test_a_worker_that_dies_before_it_notes_a_step_does_no_harm(sides: Sides) -> None:
    """The target has taken the step, and the primary does not know it."""
    sides.primary.query("update mirror.pairing set acked = false")
    assert sides("status").code == 0
    sides.revoke(BOB)
    sides.healed()


@pytest.mark.parametrize("side", [0, 1], ids=["primary", "target"])
def test_a_fail_over_asks_for_a_reconcile(sides: Sides, side: int) -> None:
    """It may have lost what was committed since the last step; nothing stops meanwhile."""
    server = sides.servers[side]
    server.stop()
    (server._data / "standby.signal").touch()
    server.restart()
    assert TestDatabase(server.url()).value("select pg_promote()")
    sides.revoke(BOB)
    assert sides.members() == {ADA}
    status = sides("status")
    assert (status.code, "failed over" in status.out) == (1, True), status.text
    sides.healed()
