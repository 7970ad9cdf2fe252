"""The commands and the worker without the target's database URL; and the view of a client."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from examples.trip_chat import services
from mirror import hooks
from mirror.devstack import RedisServer, SupabaseLite
from mirror.devstack.node import find_program
from mirror.sync.drain import Drain
from tests.acceptance.conftest import Command, StartWorker
from tests.support.blocks import blocks
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory
from tests.support.forking import HOME
from tests.support.rest import PACKAGE, SignUp, both_transports
from tests.support.waiting import until


@pytest.fixture
def rest_only(api: SupabaseLite) -> dict[str, Any]:
    """The environment variables of a user who has no SUPABASE_DB_URL, for `mirror`."""
    return {
        "SUPABASE_DB_URL": None,
        "SUPABASE_URL": api.url,
        "SUPABASE_SECRET_KEY": api.secret_key,
    }


def test_the_variables_of_the_page_on_the_target_are_those_of_the_api(
    rest_only: dict[str, Any],
) -> None:
    """Each with a value that looks like its own; all other tests of this file set the same."""
    page = (HOME / "docs" / "target.md").read_text(encoding="utf-8")
    (block,) = (each for each in blocks(page) if each.language == "sh")
    shown = re.findall(r"^export (\w+)=(\w+)", block.text, re.MULTILINE)
    assert {name for name, _ in shown} == {name for name, value in rest_only.items() if value}
    assert all(rest_only[name].startswith(start[:4]) for name, start in shown)


def test_every_command_on_the_target_works_over_rest(
    mirror: Command, rest_only: dict[str, Any], session: Session, target: TestDatabase
) -> None:
    """This includes the first load; only `migrate` needs the database URL."""
    MembershipFactory.create_batch(5)
    session.commit()
    assert mirror("resync", **rest_only).code == 0
    assert mirror("drain", **rest_only).code == 0
    assert target.value("select count(*) from trip_memberships") == 5
    assert json.loads(mirror("status", "--json", **rest_only).out)["digests"]["trips"] == "current"
    assert mirror("purge", **rest_only).code == 0
    assert mirror("rebase", "--yes", "--force", **rest_only).code == 0
    assert mirror("drain", **rest_only).code == 0
    assert mirror("status", **rest_only).code == 0
    refused = mirror("migrate", "supabase", **rest_only)
    assert refused.code == 2
    assert "SUPABASE_DB_URL is not set" in refused.err


def test_a_wrong_key_is_named_by_every_command(
    mirror: Command, rest_only: dict[str, Any], api: SupabaseLite
) -> None:
    """A key of the wrong kind is a usage error, another project's is not; no output shows it."""
    kinds = {api.publishable_key: 2, "sb_secret_of_another_project": 1}
    for key, code in kinds.items():
        done = mirror("status", **rest_only | {"SUPABASE_SECRET_KEY": key})
        assert done.code == code
        assert "SUPABASE_SECRET_KEY" in done.err
        assert key not in done.text


def test_a_worker_mirrors_over_rest_and_logs_no_key(
    start_worker: StartWorker,
    api: SupabaseLite,
    redis_server: RedisServer,
    session: Session,
    target: TestDatabase,
    worker_log: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has a token of mirror_writer, and the test turns on every log there is."""
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    hooks.default.cache_clear()
    token = api.token(role="mirror_writer")
    worker = start_worker(
        SUPABASE_DB_URL="",
        SUPABASE_URL=api.url,
        SUPABASE_PUBLISHABLE_KEY=api.publishable_key,
        MIRROR_WRITER_TOKEN=token,
        MIRROR_LOG_LEVEL="debug",
    )
    member = MembershipFactory.create()
    session.flush()
    hooks.member_added(session, member.trip_id, member.user_id)
    session.commit()
    until(lambda: target.value("select count(*) from trip_memberships") == 1)
    worker.stop()
    logged = worker_log.read_text()
    assert "drained" in logged
    assert token not in logged
    assert api.publishable_key not in logged


@both_transports
def test_supabase_js_sees_the_rows_that_the_mirror_allows(
    api: SupabaseLite, sign_up: SignUp, session: Session, drain: Drain
) -> None:
    """The real client signs in, reads and writes, before and after the membership."""
    person = sign_up("ada@example.com")
    user = UUID(person.id)
    services.sign_up(session, user, person.email, "ada")
    session.flush()
    trip = services.create_trip(session, user, "Lisbon")
    session.commit()

    def seen() -> Any:
        done = subprocess.run(
            [find_program("node"), str(PACKAGE / "client.mjs")],
            env={
                "APP_URL": api.url,
                "APP_KEY": api.publishable_key,
                "APP_EMAIL": person.email,
                "APP_PASSWORD": person.password,
                "APP_TRIP": str(trip.id),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert seen() == {"rows": 0, "wrote": "42501"}
    drain.run()
    assert seen() == {"rows": 0, "wrote": "yes"}
    assert seen()["rows"] == 1
    services.remove_member(session, trip.id, user)
    session.commit()
    drain.run()
    assert seen() == {"rows": 0, "wrote": "42501"}
