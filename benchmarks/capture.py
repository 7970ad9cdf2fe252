"""Capture: measures the time that capture adds to the transactions of a backend.

Each round runs all variants in turn, so that a change of the machine's speed affects all alike.
"""

import os
import time
from collections.abc import Callable
from uuid import uuid4

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.measuring import Report
from benchmarks.servers import start_servers
from examples.trip_chat import models, services
from mappings.trips import registry
from mirror.capture import attach
from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.hooks import Hooks
from mirror.schema import removal_sql, triggers_sql


def _run_script(engine: Engine, script: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(script, execution_options={"no_parameters": True})


def bulk_update(report: Report, engine: Engine, rounds: int) -> None:
    """Measure an UPDATE of all memberships, of a mirrored column and of another one."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:

        def run(variant: str, statement: str) -> None:
            connection.execute(text("truncate mirror.outbox"))
            connection.execute(text("vacuum trip_memberships"))
            connection.execute(text("checkpoint"))
            started = time.perf_counter()
            connection.execute(text(statement))
            report.add(variant, "ms", (time.perf_counter() - started) * 1000)

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


def create_trip(report: Report, engine: Engine, rounds: int, times: int = 200) -> None:
    """Measure the example's transaction that creates a trip, without and with each way of capture.

    Hooks ring the doorbell from their thread; no worker runs.
    """
    off = Hooks(registry, Doorbell(DoorbellSettings(mode="off")))
    plain, captured = sessionmaker(engine), sessionmaker(engine)
    attach(captured, hooks=off)
    with plain.begin() as session:
        creator = uuid4()
        session.add(models.User(id=creator, email=str(creator), username="creator"))

    def without_capture(session: Session) -> None:
        trip = models.Trip(name="Rome", created_by=creator)
        session.add(trip)
        session.flush()
        session.add(models.Membership(trip_id=trip.id, user_id=creator, role=models.Role.OWNER))

    def with_select(session: Session) -> None:
        # The time that any further statement adds.
        without_capture(session)
        session.flush()
        session.execute(text("select 1"))

    def with_hooks(session: Session) -> None:
        services.create_trip(session, creator, "Rome")

    def run(variant: str, make: Callable[[], Session], change: Callable[[Session], None]) -> None:
        taken = []
        for _ in range(times + 20):
            started = time.perf_counter()
            with make() as session:
                change(session)
                session.commit()
            taken.append((time.perf_counter() - started) * 1000)
        # The first ones open connections, compile statements and plan them.
        report.add(variant, "ms", *taken[20:])

    for _ in range(rounds):
        _run_script(engine, removal_sql(registry))
        run("create trip", plain, without_capture)
        run("create trip + select 1", plain, with_select)
        run("create trip + hooks", plain, with_hooks)
        run("create trip + ORM capture", captured, without_capture)
        _run_script(engine, triggers_sql(registry))
        run("create trip + triggers", plain, without_capture)


def main(report: Report, *, quick: bool) -> None:
    """Measure all ways of capture."""
    rounds = 2 if quick else 7
    with start_servers() as servers:
        servers.fill(10_000 if quick else 100_000)
        engine = servers.engine()
        bulk_update(report, engine, rounds)
        os.environ["REDIS_URL"] = servers.stack.redis_url
        create_trip(report, engine, rounds)
        engine.dispose()
    for way, goal in (("hooks", 1.3), ("ORM capture", 1.3), ("triggers", 1.3)):
        name = f"create trip + {way}"
        report.ratio(f"{name}, to without", name, "create trip", at_most=goal)
    report.ratio("update + triggers, to without", "update + triggers", "update", at_most=1.7)
    report.ratio(
        "update of a column that is not mirrored + triggers, to without",
        "update, not mirrored + triggers",
        "update, not mirrored",
        at_most=1.7,
    )
