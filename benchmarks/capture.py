"""What capture adds to the transactions of a backend.

Every variant runs in turn in each round, so that what the machine does meanwhile hits all alike.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from uuid import uuid4

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from examples.trip_chat import models, services
from mappings.trips import registry
from mirror.capture import attach
from mirror.ddl import removal_sql, triggers_sql
from mirror.devstack import PostgresCluster
from mirror.doorbell import Doorbell, DoorbellSettings
from mirror.hooks import Hooks
from mirror.migrations import upgrade

ROWS = 100_000

Figures = dict[str, list[float]]
"""By variant: seconds, one figure a round."""


@contextmanager
def primary(rows: int = ROWS) -> Iterator[Engine]:
    """Yield a primary, fsync on, with the example's tables and that many memberships."""
    with (
        tempfile.TemporaryDirectory() as directory,
        PostgresCluster.start(Path(directory) / "data", version=16, durable=True) as cluster,
    ):
        cluster.create_database("bench")
        url = cluster.url("bench").replace("postgresql://", "postgresql+psycopg://", 1)
        engine = create_engine(url)
        with engine.begin() as connection:
            models.Base.metadata.create_all(connection)
            upgrade(connection)
            connection.execute(_POPULATE, {"rows": rows, "trips": max(1, rows // 10)})
        try:
            yield engine
        finally:
            engine.dispose()


_POPULATE = text("""
with creator as (
  insert into users (id, email, username) values (gen_random_uuid(), 'creator', 'creator')
  returning id
), people as (
  insert into users (id, email, username)
  select gen_random_uuid(), 'p' || n, 'p' || n from generate_series(1, 10) as n
  returning id
), journeys as (
  insert into trips (id, name, created_by)
  select gen_random_uuid(), 't' || n, creator.id from generate_series(1, :trips) as n, creator
  returning id
)
insert into trip_memberships (trip_id, user_id, role, status)
select journeys.id, people.id, 'MEMBER', 'ACTIVE' from journeys, people limit :rows
""")


def _run_script(engine: Engine, script: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(script, execution_options={"no_parameters": True})


def bulk_update(engine: Engine, rounds: int) -> Figures:
    """One UPDATE of all memberships: of a mirrored column, and of one that is not."""
    figures: Figures = {}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:

        def run(variant: str, statement: str) -> None:
            connection.execute(text("truncate mirror.outbox"))
            connection.execute(text("vacuum trip_memberships"))
            connection.execute(text("checkpoint"))
            started = time.perf_counter()
            connection.execute(text(statement))
            figures.setdefault(variant, []).append(time.perf_counter() - started)

        mirrored = (
            "update trip_memberships set role ="
            " case role when 'MEMBER' then 'ADMIN'::trip_role else 'MEMBER' end"
        )
        other = "update trip_memberships set role = role"
        for _ in range(rounds):
            _run_script(engine, removal_sql(registry))
            run("update", mirrored)
            run("update, not mirrored", other)
            _run_script(engine, triggers_sql(registry))
            run("update + triggers", mirrored)
            run("update, not mirrored + triggers", other)
    _run_script(engine, removal_sql(registry))
    return figures


def create_trip(engine: Engine, rounds: int, times: int = 200) -> Figures:
    """The example's transaction that creates a trip, as it stands and captured in each way."""
    off = Hooks(registry, Doorbell(DoorbellSettings(mode="off")))
    plain, captured = sessionmaker(engine), sessionmaker(engine)
    attach(captured, hooks=off)
    with plain.begin() as session:
        creator = uuid4()
        session.add(models.User(id=creator, email=str(creator), username="creator"))

    def by_itself(session: Session) -> None:
        trip = models.Trip(name="Rome", created_by=creator)
        session.add(trip)
        session.flush()
        session.add(models.Membership(trip_id=trip.id, user_id=creator, role=models.Role.OWNER))

    def hooked(session: Session) -> None:
        services.create_trip(session, creator, "Rome")

    figures: Figures = {}

    def run(variant: str, make: Callable[[], Session], change: Callable[[Session], None]) -> None:
        for number in range(times + 20):
            started = time.perf_counter()
            with make() as session:
                change(session)
                session.commit()
            if number >= 20:  # noqa: PLR2004 - the first ones open connections, compile, plan
                figures.setdefault(variant, []).append(time.perf_counter() - started)

    for _ in range(rounds):
        _run_script(engine, removal_sql(registry))
        run("create trip", plain, by_itself)
        run("create trip + hooks", plain, hooked)
        run("create trip + ORM capture", captured, by_itself)
        _run_script(engine, triggers_sql(registry))
        run("create trip + triggers", plain, by_itself)
    return figures


def table(figures: Figures) -> str:
    """Return the medians as a table, each beside the variant that its name begins with."""
    lines = []
    for variant, seconds in figures.items():
        base = figures[variant.partition(" +")[0]]
        ratio = median(seconds) / median(base)
        spread = f"{min(seconds) * 1000:.2f} to {max(seconds) * 1000:.2f}"
        lines.append(f"| {variant} | {median(seconds) * 1000:.2f} | {spread} | {ratio:.2f} |")
    return "\n".join(
        ["| what | median ms | from, to | ratio |", "| --- | --- | --- | --- |", *lines]
    )


def main(rounds: int) -> None:
    """Measure and print."""
    with primary() as engine:
        print(table(bulk_update(engine, rounds)))
        print(table(create_trip(engine, rounds)))
