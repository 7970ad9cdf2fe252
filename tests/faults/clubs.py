"""A permission model whose declarations the tests change, and the two sides on which they do it."""

from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import BigInteger, Text, Uuid, column, select, table

from mirror.access import Guard, Membership
from mirror.errors import WrongMapping
from mirror.model.mapping import Column, Mapping, Parent
from mirror.model.registry import Registry
from mirror.reconcile import Options, Throttle, reconcile
from mirror.schema.migrate import upgrade
from mirror.schema.preview import Preview, preview
from mirror.schema.prune import plan_pruning, run_pruning
from mirror.settings import Settings, load_settings
from mirror.sync import orders
from mirror.sync.structure import find_changed_structures
from mirror.sync.wiring import build_drain, build_source
from tests.support.databases import TestDatabase

PRIMARY = """
create table clubs (id bigint primary key, name text, kind text);
create table members (
  club_id bigint, user_id uuid, role text, status text, note text, primary key (club_id, user_id)
);
insert into clubs values (1, 'chess', '7');
insert into members values
  (1, '00000000-0000-0000-0000-00000000000a', 'MEMBER', 'ACTIVE', 'x'),
  (1, '00000000-0000-0000-0000-00000000000b', 'ADMIN', 'ACTIVE', 'y'),
  (1, '00000000-0000-0000-0000-00000000000c', 'MEMBER', 'INACTIVE', 'z');
"""
TARGET = """
create table notes (id bigint primary key, club_id bigint);
insert into notes values (1, 1);
"""
USERS = {name: f"00000000-0000-0000-0000-00000000000{name[0]}" for name in ("ada", "bob", "cyd")}

_clubs = table("clubs", column("id", BigInteger), column("name", Text), column("kind", Text))
_members = table(
    "members",
    column("club_id", BigInteger),
    column("user_id", Uuid),
    column("role", Text),
    column("status", Text),
    column("note", Text),
)

clubs = Mapping(
    name="clubs",
    table="clubs",
    key=("id",),
    columns=(Column("id", "bigint"), Column("name", "text"), Column("kind", "text")),
    query=select(_clubs),
)
members = Mapping(
    name="members",
    table="members",
    key=("club_id", "user_id"),
    columns=(
        Column("club_id", "bigint"),
        Column("user_id", "uuid"),
        Column("role", "text"),
        Column("status", "text"),
    ),
    query=select(_members),
    parents=(Parent("clubs", "club_id"),),
    active={"status": frozenset({"ACTIVE"})},
)
membership = Membership(
    mapping="members",
    resource="club_id",
    user="user_id",
    role="role",
    levels=("MEMBER", "ADMIN"),
    noun="club",
)
notes = Guard(table="notes", via="members", on="club_id", read="MEMBER")


def model(
    clubs: Mapping | None = clubs,
    members: Mapping | None = members,
    *more: Mapping,
    **changes: Any,
) -> Registry:
    """Return a version of the model; None leaves a mapping out, `changes` are Registry's."""
    mappings = [mapping for mapping in (clubs, members, *more) if mapping is not None]
    declared: dict[str, Any] = {"access": [membership], "guards": [notes]}
    return Registry("clubs", mappings, **{**declared, **changes})


def without(mapping: Mapping, name: str, **changes: Any) -> Mapping:
    """Return a mapping without one of its columns."""
    columns = tuple(one for one in mapping.columns if one.name != name)
    return replace(mapping, columns=columns, **changes)


def retyped(mapping: Mapping, name: str, type_: str) -> Mapping:
    """Return a mapping of which one column has another type."""
    columns = tuple(
        replace(one, type=type_) if one.name == name else one for one in mapping.columns
    )
    return replace(mapping, columns=columns)


OLD = model()


@dataclass
class Pair:
    """A primary and a target, between which the model changes."""

    primary: TestDatabase
    target: TestDatabase

    @property
    def settings(self) -> Settings:
        """Those of a worker."""
        return load_settings(primary_database_url=self.primary.url, supabase_db_url=self.target.url)

    def preview(self, new: Registry) -> Preview:
        """Return what a migration of the target would do."""
        with self.target.migrating() as connection:
            return preview(connection, "supabase", new)

    def migrate(self, new: Registry) -> list[str]:
        """Migrate the target."""
        with self.target.migrating() as connection:
            return upgrade(connection, "supabase", new)

    def prune(self, new: Registry) -> list[str]:
        """Drop what is not declared any more; return the statements."""
        with self.target.migrating() as connection:
            drops, _ = plan_pruning(connection, new)
            run_pruning(connection, drops)
            return drops

    def work(self, registry: Registry) -> None:
        """Let a worker mirror what waits; one that the target refuses for all mappings stops."""
        with (
            closing(build_drain(self.settings, registry)) as drain,
            suppress(WrongMapping),
        ):
            drain.run()

    def resync(self, registry: Registry, *names: str) -> None:
        """Record all rows as changed, and mirror them."""
        with closing(build_drain(self.settings, registry)) as drain:
            orders.resync(drain.queue, registry, list(names))
            assert drain.run().failed == 0

    def reconcile(self, registry: Registry, **options: Any) -> str:
        """Compare both sides and repair; return the outcome. `options` are the run's."""
        with closing(build_drain(self.settings, registry)) as drain:
            throttle = Throttle(drain.queue.beside, backlog=10**9, latency_seconds=60)
            return reconcile(drain, Options(grace_seconds=0.0, **options), throttle).outcome

    def altered(self, registry: Registry) -> dict[str, list[str]]:
        """Return the changes of the primary's structure that the doctor names, by mapping."""
        with closing(build_source(self.settings)) as source:
            return find_changed_structures(source.database, registry)

    def change(self, change: str, mapping: str, *key: object) -> None:
        """Change the primary, and record an event."""
        self.primary.query(change)
        self.primary.query(
            "insert into mirror.outbox (mapping, key) values (%s, %s)", mapping, [*map(str, key)]
        )

    def readers(self) -> set[str]:
        """Return the users who can read the notes of club 1."""
        return {name for name, user in USERS.items() if self._reads(user)}

    def _reads(self, user: str) -> bool:
        with self.target.acting_as(user) as connection:
            return connection.execute("select 1 from notes").fetchall() != []
