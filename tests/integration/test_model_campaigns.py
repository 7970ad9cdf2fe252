"""Campaigns from the primary to the game: every person, every table, every statement."""

from collections.abc import Iterator
from random import Random
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from examples.campaigns.story import story
from mappings.campaigns import registry
from mirror.cli.app import app
from mirror.diagnostics.explain import StepStatus, audit, question_about
from mirror.reconcile import sweep
from mirror.reconcile.drift import Direction
from mirror.settings import load_settings
from mirror.testing import DENIED, Result, Sandboxes
from mirror.worker import Worker
from tests.support.example_model import InstalledModel, model
from tests.support.policy_matrix import Matrix, check_that_it_is_whole
from tests.support.rest import ServeApi
from tests.support.reviewed import Reviewed
from tests.support.waiting import until

# The ways in: running it, a seat with a role, a character, a seat that expires.
DMS = ("dm", "co_dm")
PLAYERS = (*DMS, "player")
INSIDE = (*PLAYERS, "watcher")
ELSEWHERE = ("other_dm", "other_player")
OUTSIDE = ("expired", "former_player", "former_owner", "stranger")
EVERYBODY = ("anon", "unsigned", *INSIDE, *ELSEWHERE, *OUTSIDE)


@pytest.fixture(scope="module")
def world(sandboxes: Sandboxes) -> Iterator[InstalledModel]:
    """Two campaigns, mirrored from the primary, with rows of the application."""
    with model(sandboxes, registry) as world:
        world.people.update({person: uuid4() for person in EVERYBODY[2:]})
        populate(world)
        expire(world, "expired")
        fill(world)
        yield world


def populate(world: InstalledModel) -> None:
    """Insert campaigns, characters, seats and sources as the backend does, then change some."""
    people, values, backend = world.people, world.values, world.stage.backend
    for campaign, dm in (("here", "dm"), ("there", "other_dm")):
        values[campaign] = backend(
            "insert into campaigns (dm_id, name) values (%s, %s) returning id",
            people[dm],
            campaign,
        )
    for character, owner, campaign in (
        ("hero", "player", "here"),
        ("sold", "former_owner", "here"),
        ("removed", "former_player", "here"),
        ("foe", "other_player", "there"),
    ):
        values[character] = backend(
            "insert into characters (owner_id, name) values (%s, %s) returning id",
            people[owner],
            character,
        )
        backend(
            "insert into campaign_characters values (%s, %s)",
            values[campaign],
            values[character],
        )
    for member, role in (("co_dm", "DM"), ("watcher", "SPECTATOR"), ("expired", "DM")):
        backend(
            "insert into campaign_members values (%s, %s, %s, now() + interval '1 hour')",
            values["here"],
            people[member],
            role,
        )
    for source, owner, private, home in (
        ("own", "player", True, None),
        ("public", "other_dm", False, None),
        ("shared", "dm", True, "here"),
    ):
        values[source] = backend(
            "insert into sources (owner_id, is_private, campaign_id, title)"
            " values (%s, %s, %s, %s) returning id",
            people[owner],
            private,
            values.get(home or ""),
            source,
        )
    backend("update characters set owner_id = %s where id = %s", people["player"], values["sold"])
    backend("delete from campaign_characters where character_id = %s", values["removed"])


def expire(world: InstalledModel, person: str, after: str = "0") -> None:
    """Move a seat's end into the past on both sides, without an event, as if time had passed."""
    past = "update campaign_members set expires_at = now() + %s::interval where user_id = %s"
    world.target.query(past, after, world.people[person])
    world.drain.run()
    with world.primary.connect(autocommit=False) as connection:
        connection.execute(past, [after, world.people[person]])
        connection.execute("delete from mirror.outbox")


def fill(world: InstalledModel) -> None:
    """Write sheets, entries, a log with an expired rumour, comments and notes."""
    values, people = world.values, world.people
    with world.target.connect() as connection:
        connection.execute(
            "insert into realtime.messages (topic, extension) values (%s, 'broadcast')",
            [f"campaign:{values['here']}"],
        )
        for character in ("hero", "sold", "removed", "foe"):
            connection.execute("insert into character_sheets values (%s)", [values[character]])
        for source in ("own", "public", "shared"):
            connection.execute(
                "insert into source_entries (source_id, body) values (%s, 'x')", [values[source]]
            )
        for log, campaign, author, age in (
            ("players_log", "here", "player", None),
            ("dms_log", "here", "dm", "1 hour"),
            ("rumour", "here", "player", "-1 second"),
            ("others_log", "there", "other_player", None),
        ):
            values[log] = uuid4()
            connection.execute(
                "insert into campaign_log (id, campaign_id, author_id, body, expires_at)"
                " values (%s, %s, %s, 'x', now() + %s::interval)",
                [values[log], values[campaign], people[author], age],
            )
            # All rows of a chain share one id, so that a known value leads from each to the next.
            connection.execute(
                "insert into log_comments values (%s, %s, %s, 'x')",
                [values[log], values[log], people["watcher"]],
            )
            connection.execute(
                "insert into comment_notes values (%s, %s, 'x')", [values[log], values[log]]
            )


def everybody(
    outcome: Result = 0, *, unsigned: Result | None = None, **others: Result
) -> dict[str, Result]:
    """Return each person's expected result: `outcome`, anon DENIED, `others` by group or name."""
    expected = dict.fromkeys(EVERYBODY, outcome) | {"anon": DENIED}
    if unsigned is not None:
        expected["unsigned"] = unsigned
    groups = {
        "inside": INSIDE,
        "players": PLAYERS,
        "dms": DMS,
        "elsewhere": ELSEWHERE,
    }
    for name, value in others.items():
        expected |= dict.fromkeys(groups.get(name, (name,)), value)
    return expected


NOBODY = everybody(DENIED)


def mirrored(
    select: str, expected: dict[str, Result], grab: str
) -> dict[str, tuple[str, dict[str, Result]]]:
    """Return the rows of the matrix for a table that only the mirror writes."""
    table = select.rsplit(" ", 1)[-1]
    nobody = NOBODY | {"service_role": DENIED}
    return {
        "select": (select, expected),
        "insert": (f"insert into {table} select * from {table}", nobody),
        "grab": (f"update {table} set {grab} = %(me)s", nobody),
        "delete": (f"delete from {table}", nobody),
    }


MATRIX: Matrix = {
    "characters": mirrored(
        "select id, owner_id, name from characters",
        # A user sees their own; a user who runs a campaign also sees those in it.
        everybody(dm=2, player=2, former_player=1, elsewhere=1),
        "owner_id",
    ),
    "campaigns": mirrored(
        "select id, dm_id, name from campaigns", everybody(inside=1, elsewhere=1), "dm_id"
    ),
    "campaign_members": mirrored(
        # Of the three seats, one has expired.
        "select campaign_id, user_id, role, expires_at from campaign_members",
        everybody(inside=2),
        "user_id",
    ),
    "campaign_characters": mirrored(
        "select campaign_id, character_id, owner_id from campaign_characters",
        everybody(inside=2, elsewhere=1),
        "owner_id",
    ),
    "sources": mirrored(
        "select id, owner_id, is_private, campaign_id from sources",
        # Public sources, one's own, and those of one's campaign.
        everybody(1, inside=2, player=3),
        "owner_id",
    ),
    "character_sheets": {
        "select": (
            "select * from character_sheets",
            everybody(dm=2, player=2, former_player=1, elsewhere=1),
        ),
        "insert": (
            "insert into character_sheets values (%(hero)s) on conflict do nothing",
            everybody(DENIED, player=0),
        ),
        "update": (
            "update character_sheets set body = '[]' where character_id = %(hero)s",
            everybody(player=1),
        ),
        "update one that was sold": (
            "update character_sheets set body = '[]' where character_id = %(sold)s",
            everybody(player=1),
        ),
        "move": ("update character_sheets set character_id = 0", NOBODY),
        "delete": (
            "delete from character_sheets where character_id = %(hero)s",
            everybody(player=1),
        ),
    },
    "source_entries": {
        "select": ("select * from source_entries", everybody(1, inside=2, player=3)),
        "insert": (
            "insert into source_entries (source_id, body) values (%(shared)s, 'x')",
            everybody(DENIED, dm=1),
        ),
        "insert into a public one": (
            "insert into source_entries (source_id, body) values (%(public)s, 'x')",
            everybody(DENIED, other_dm=1),
        ),
        "insert into none": (
            "insert into source_entries (source_id, body) values (0, 'x')",
            NOBODY,
        ),
        "update": (
            "update source_entries set body = 'y' where source_id = %(own)s",
            everybody(player=1),
        ),
        "delete": ("delete from source_entries", everybody(dm=1, player=1, other_dm=1)),
    },
    "campaign_log": {
        # The expired rumour is not counted.
        "select": ("select * from campaign_log", everybody(inside=2, elsewhere=1)),
        "insert": (
            "insert into campaign_log (campaign_id, body) values (%(here)s, 'x')",
            everybody(DENIED, players=1),
        ),
        "insert as somebody else": (
            (
                "insert into campaign_log (campaign_id, author_id, body)"
                " values (%(here)s, gen_random_uuid(), 'x')"
            ),
            NOBODY,
        ),
        "update": (
            "update campaign_log set body = 'y' where id = %(players_log)s",
            everybody(player=1),
        ),
        "update what is over": (
            "update campaign_log set body = 'y' where id = %(rumour)s",
            everybody(),
        ),
        "delete": (
            "delete from campaign_log where id = %(players_log)s",
            everybody(dms=1, player=1),
        ),
        "delete what is over": (
            "delete from campaign_log where id = %(rumour)s",
            everybody(),
        ),
    },
    "log_comments": {
        "select": ("select * from log_comments", everybody(inside=2, elsewhere=1)),
        "insert": (
            "insert into log_comments (log_id, body) values (%(players_log)s, 'x')",
            everybody(DENIED, inside=1),
        ),
        "insert under what is over": (
            "insert into log_comments (log_id, body) values (%(rumour)s, 'x')",
            NOBODY,
        ),
        "update": ("update log_comments set body = 'y'", NOBODY),
        "delete": (
            "delete from log_comments where id = %(players_log)s",
            everybody(dms=1, watcher=1),
        ),
        # An author may delete the comments on their log, but finds no row that they may not read.
        "delete under what is over": (
            "delete from log_comments where id = %(rumour)s",
            everybody(),
        ),
    },
    "realtime.messages": {
        "select": (
            "select * from realtime.messages where topic = 'campaign:' || %(here)s",
            everybody(anon=0, inside=1),
        ),
        "select what is somebody's own": (
            "select * from realtime.messages where topic = 'user:' || %(dm)s limit 1",
            everybody(anon=0, dm=1),
        ),
        "insert": (
            (
                "insert into realtime.messages (topic, extension)"
                " values ('campaign:' || %(here)s, 'broadcast')"
            ),
            everybody(DENIED, players=1),
        ),
        "update": ("update realtime.messages set event = 'x'", everybody(anon=0)),
        "delete": ("delete from realtime.messages", NOBODY),
    },
    "comment_notes": {
        "select": ("select * from comment_notes", everybody(players=2, elsewhere=1)),
        "insert": (
            "insert into comment_notes (comment_id, body) values (%(players_log)s, 'x')",
            everybody(DENIED, dms=1),
        ),
        "insert elsewhere": (
            "insert into comment_notes (comment_id, body) values (%(others_log)s, 'x')",
            everybody(DENIED, other_dm=1),
        ),
        "update": (
            "update comment_notes set body = 'y' where id = %(players_log)s",
            everybody(dms=1),
        ),
        "delete": (
            "delete from comment_notes where id = %(players_log)s",
            everybody(dms=1),
        ),
    },
}


@pytest.mark.parametrize(
    ("table", "attempt"), [(table, attempt) for table, rows in MATRIX.items() for attempt in rows]
)
def test_each_person_gets_their_own_rows_and_no_more(
    world: InstalledModel, table: str, attempt: str
) -> None:
    """Every person tries one statement; the result is a number of rows, or refused."""
    statement, expected = MATRIX[table][attempt]
    assert world.outcomes(statement, expected) == expected


def test_the_matrix_covers_every_table_and_every_kind_of_statement() -> None:
    """A mapping or guard that is added to the model must be added here."""
    tables = {".".join(guard.relation) for guard in registry.guards}
    tables |= {f"{mapping.schema}.{mapping.table}" for mapping in registry}
    assert {table.removeprefix("public.") for table in tables} == set(MATRIX)
    check_that_it_is_whole(MATRIX, EVERYBODY)


def test_an_access_review_says_what_row_level_security_answers(world: InstalledModel) -> None:
    """For every person, helper, table and statement, by user and by resource."""
    reviewed = Reviewed(registry, world.drain.target, world.target, world.people)
    assert reviewed.check() > 100


@pytest.mark.parametrize(
    ("helper", "expected"),
    [
        ("mirror.is_campaign_member(%(here)s)", dict.fromkeys(INSIDE, True)),
        ("mirror.has_campaign_role(%(here)s, 'PLAYER')", dict.fromkeys(PLAYERS, True)),
        ("mirror.has_campaign_role(%(here)s, 'DM')", dict.fromkeys(DMS, True)),
        (
            "%(here)s = any(mirror.my_campaigns('SPECTATOR'))",
            dict.fromkeys(INSIDE, True),
        ),
        (
            "%(watcher)s = any(mirror.my_campaign_companions())",
            dict.fromkeys(INSIDE, True),
        ),
        # A user whose seat has expired is no companion of any user, not even of themself.
        (
            "%(expired)s = any(array_remove(mirror.my_campaign_companions(), %(me)s))",
            {},
        ),
    ],
)
def test_helpers_know_no_seat_that_has_expired(
    world: InstalledModel, helper: str, expected: dict[str, bool]
) -> None:
    """Each helper ignores it; for users with another way in, the strongest role counts."""
    statement = f"select where {helper}"
    found = {person for person in EVERYBODY[2:] if world.outcome(person, statement) == 1}
    assert found == set(expected)


def test_an_audit_asks_about_owners_ends_and_tables_that_hang_on_others(
    world: InstalledModel,
) -> None:
    """Nothing differs; then one policy after the other is wrong."""
    question = question_about(registry, "campaign")

    def differing() -> set[tuple[Direction, str]]:
        found = audit(world.drain, question, 60, Random(1)).mismatches
        return {(one.direction, one.by) for one in found}

    assert differing() == set()
    for table, verb, condition, wanted in (
        ("log_comments", "read", "true", (Direction.OVER, "reading log_comments")),
        ("comment_notes", "read", "false", (Direction.UNDER, "reading comment_notes")),
        ("campaign_log", "read", "true", (Direction.OVER, "select in campaign_log, own row")),
        (
            "campaign_log",
            "delete",
            "true",
            (Direction.OVER, "delete in campaign_log, another's row"),
        ),
        (
            "campaign_log",
            "read",
            "campaign_id = any((select mirror.my_campaigns('SPECTATOR'))::bigint[])",
            (Direction.OVER, "select in campaign_log, own row past expires_at"),
        ),
    ):
        name = f"mirror_campaigns_{verb}"
        (using,) = world.target.query(
            "select pg_get_expr(polqual, polrelid) from pg_policy"
            " where polname = %s and polrelid = %s::regclass",
            name,
            table,
        )[0]
        alter = f"alter policy {name} on {table} using ({{}})"
        with world.target.connect() as connection:
            connection.execute(alter.format(condition).encode())
            found = differing()
            connection.execute(alter.format(using).encode())
        assert wanted in found, (table, verb, found)


def test_explain_follows_each_way_into_a_campaign(world: InstalledModel) -> None:
    """The ways are running it, a character, and a seat; the text says that a seat has expired."""
    here = world.values["here"]
    world.target.query(
        "insert into auth.users (id) select unnest(%s) on conflict do nothing",
        list(world.people.values()),
    )
    for person in INSIDE:
        page = world.explain(person, "campaign", here)
        assert (page.primary_grants, page.allowed, page.first) == (True, True, None), person
    for person in OUTSIDE:
        page = world.explain(person, "campaign", here)
        assert (page.primary_grants, page.allowed) == (False, False), person
        assert page.first is not None
        assert page.first.name == "primary"
    # This holds before and after the sweep.
    for _ in range(2):
        page = world.explain("expired", "campaign", here)
        assert page.first is not None
        assert "its expires_at is past" in page.first.says
        assert [step for step in page.steps if step.status is StepStatus.BROKEN] == []
        sweep(world.drain)
    page = world.explain("dm", "character", world.values["hero"])
    assert (page.primary_grants, page.allowed) == (True, True)


@pytest.mark.parametrize("table", ["sources", "campaign_members", "campaign_log"])
def test_all_ways_in_are_asked_once_for_each_statement(world: InstalledModel, table: str) -> None:
    """This holds for any number of rows, and with other conditions in the policy."""
    with world.target.acting_as(world.people["player"]) as connection:
        explain = f"explain (analyze, verbose, costs off) select 1 from {table}"
        plan = [line for (line,) in connection.execute(explain.encode()).fetchall()]
    calls = [number for number, line in enumerate(plan) if "my_campaigns(" in line]
    assert len(calls) == 1
    above = plan[calls[0] - 1]
    assert "Result" in above
    assert "loops=1)" in above
    assert any("InitPlan" in line for line in plan[: calls[0]])


def test_a_seat_is_refused_from_the_instant_that_it_expires(world: InstalledModel) -> None:
    """No drain runs meanwhile; the row exists until the next sweep."""
    guest = world.people["guest"] = uuid4()
    world.stage.backend(
        "insert into campaign_members values (%s, %s, 'DM', now() + interval '1 hour')",
        world.values["here"],
        guest,
    )
    read = "select * from campaign_log"
    seats = "select count(*) from campaign_members where user_id = %s"
    assert world.outcome("guest", read) == 2
    expire(world, "guest", "0.2 seconds")
    until(lambda: world.outcome("guest", read) == 0)
    assert world.target.value(seats, guest) == 1

    # Its end is a little later there.
    over = "select expires_at <= now() from campaign_members where user_id = %s"
    until(lambda: bool(world.primary.value(over, guest)))
    assert sweep(world.drain) >= 1
    assert world.target.value(seats, guest) == 0
    # It is still in the primary, but grants nothing there either.
    assert world.primary.value(seats, guest) == 1
    assert world.reconcile(dry_run=True).exit_code == 0
    del world.people["guest"]


def test_a_seat_that_is_prolonged_is_not_swept(world: InstalledModel) -> None:
    """The sweep asks the primary, so this holds while the event is still on its way."""
    guest = uuid4()
    world.stage.backend(
        "insert into campaign_members values (%s, %s, 'PLAYER', now() + interval '1 hour')",
        world.values["here"],
        guest,
    )
    row = "select expires_at > now() from campaign_members where user_id = %s"
    world.target.query("update campaign_members set expires_at = now() where user_id = %s", guest)
    assert world.target.value(row, guest) is False
    assert sweep(world.drain) >= 1
    assert world.target.value(row, guest) is True
    world.stage.backend("delete from campaign_members where user_id = %s", guest)


News = tuple[str, str, dict[str, object]]


def news_of(world: InstalledModel, *people: str) -> list[News]:
    """Return the news for these people since the last call."""
    news = world.target.query(
        "with gone as (delete from realtime.messages where topic like 'user:%' returning *)"
        " select topic, event, payload - 'id' from gone order by event desc, payload ->> 'role'"
    )
    names = {f"user:{world.people[person]}": person for person in people}
    return [(names[topic], event, payload) for topic, event, payload in news if topic in names]


def test_every_member_gets_news_of_each_way_in_and_out(world: InstalledModel) -> None:
    """A seat, a character, the campaign itself; each news says whether another way in is left."""
    backend, here = world.stage.backend, world.values["here"]
    guest, heir = uuid4(), uuid4()
    world.people.update(guest=guest, heir=heir)
    news_of(world)

    def news(person: str, event: str, role: str) -> News:
        return person, f"membership_{event}", {"campaign_id": here, "role": role}

    backend(
        "insert into campaign_members values (%s, %s, 'SPECTATOR', now() + interval '1 hour')",
        here,
        guest,
    )
    assert news_of(world, "guest") == [news("guest", "granted", "SPECTATOR")]
    backend("update campaign_members set role = 'PLAYER' where user_id = %s", guest)
    assert news_of(world, "guest") == [news("guest", "changed", "PLAYER")]
    elf = backend("insert into characters (owner_id, name) values (%s, 'x') returning id", guest)
    backend("insert into campaign_characters values (%s, %s)", here, elf)
    reader: dict[str, object] = {"character_id": elf, "role": "READER"}
    assert news_of(world, "guest", "dm") == [
        news("guest", "granted", "PLAYER"),
        ("dm", "membership_granted", reader),
    ]
    # The seat has ended, the character is still there.
    expire(world, "guest")
    news_of(world)
    sweep(world.drain)
    assert news_of(world, "guest") == [news("guest", "changed", "PLAYER")]
    backend("update characters set owner_id = %s where id = %s", heir, elf)
    assert news_of(world, "guest", "heir", "dm") == [
        news("guest", "revoked", "PLAYER"),
        news("heir", "granted", "PLAYER"),
    ]
    # No user's access has changed.
    backend("update campaigns set name = name || '!' where id = %s", here)
    backend("update characters set name = 'y' where id = %s", elf)
    assert news_of(world, "dm", "heir") == []
    backend("delete from characters where id = %s", elf)
    assert news_of(world, "dm", "heir") == [
        news("heir", "revoked", "PLAYER"),
        ("dm", "membership_revoked", reader),
    ]
    backend("delete from campaign_members where user_id = %s", guest)
    del world.people["guest"], world.people["heir"]


PLANT = (
    "insert into campaign_members values (%s, gen_random_uuid(), 'DM', now() - interval '1 second')"
)
OVER = "select count(*) from campaign_members where expires_at <= now()"


def test_a_worker_sweeps_when_it_has_drained_and_has_not_lately(world: InstalledModel) -> None:
    """Any ring starts a sweep, also with nothing to drain; Redis need not be up."""
    settings = load_settings(
        primary_database_url=world.primary.url,
        supabase_db_url=world.target.url,
        redis_url="redis://127.0.0.1:1/0",
        mappings="mappings.campaigns",
        sweep_seconds=3600,
    )
    worker = Worker(lambda: settings)
    for left in (0, 1):
        world.target.query(PLANT, world.values["here"])
        worker.run_drain()
        assert world.target.value(OVER) == left
    worker.drain.close()
    assert sweep(world.drain) == 1


def test_mirror_drain_sweeps_over_the_api_too(
    world: InstalledModel, serve_api: ServeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command uses only the secret key."""
    api = serve_api(world.target)
    for name, value in {
        "PRIMARY_DATABASE_URL": world.primary.url,
        "SUPABASE_URL": api.url,
        "SUPABASE_SECRET_KEY": api.secret_key,
        "MIRROR_MAPPINGS": "mappings.campaigns",
    }.items():
        monkeypatch.setenv(name, value)
    world.target.query(PLANT, world.values["here"])
    answer = CliRunner().invoke(app, ["drain"])
    assert "0 event(s) mirrored, 0 set apart, 1 expired row(s) swept" in answer.output
    assert world.target.value(OVER) == 0


def test_more_rows_than_a_page_are_swept(world: InstalledModel) -> None:
    """It sweeps page by page, in the order of the key."""
    for _ in range(2):
        world.target.query(
            "insert into campaign_members select %s, gen_random_uuid(), 'DM', now()"
            " from generate_series(1, 600)",
            world.values["here"],
        )
        assert sweep(world.drain) == 600
        assert world.target.value(OVER) == 0


def test_a_seat_whose_time_is_over_before_it_is_mirrored_never_comes(world: InstalledModel) -> None:
    """The backend may enter it too late, or a drain that was down may read it too late."""
    guest = uuid4()
    world.stage.backend(
        "insert into campaign_members values (%s, %s, 'DM', now() - interval '1 s')",
        world.values["here"],
        guest,
    )
    assert (
        world.target.value("select count(*) from campaign_members where user_id = %s", guest) == 0
    )


def test_a_character_that_is_sold_takes_all_its_seats_along_in_one_event(
    world: InstalledModel,
) -> None:
    """One row changes on the primary and two events are recorded, for any number of campaigns."""
    old, new = world.people["seller"], world.people["buyer"] = uuid4(), uuid4()
    backend = world.stage.backend
    character = backend(
        "insert into characters (owner_id, name) values (%s, 'x') returning id", old
    )
    with world.primary.connect() as connection:
        connection.execute(
            "with made as (insert into campaigns (dm_id, name)"
            " select gen_random_uuid(), 'x' from generate_series(1, 200) returning id)"
            " insert into campaign_characters select id, %s from made",
            [character],
        )
    world.drain.run()
    mine = "select * from campaigns"
    assert (world.outcome("seller", mine), world.outcome("buyer", mine)) == (200, 0)
    with world.primary.connect() as connection:
        connection.execute("update characters set owner_id = %s where id = %s", [new, character])
    assert world.primary.value("select count(*) from mirror.outbox") == 2
    assert world.drain.once().events == 2
    assert (world.outcome("seller", mine), world.outcome("buyer", mine)) == (0, 200)
    backend("delete from campaigns where name = 'x'")
    backend("delete from characters where id = %s", character)
    del world.people["seller"], world.people["buyer"]


def test_rows_planted_by_hand_are_found_and_removed(world: InstalledModel) -> None:
    """`mirror reconcile` finds a planted owner, a seat without end, and a source made public."""
    assert world.reconcile().exit_code == 0
    stranger = world.people["stranger"]
    here, hero, own = (world.values[name] for name in ("here", "hero", "own"))
    world.target.query("update characters set owner_id = %s where id = %s", stranger, hero)
    world.target.query("insert into campaign_members values (%s, %s, 'DM', null)", here, stranger)
    world.target.query("update sources set is_private = false where id = %s", own)
    assert world.outcome("stranger", "select * from campaign_log") == 2
    report = world.reconcile()
    found = {part.mapping: (part.changed_over, part.extra) for part in report.mappings}
    assert {name: counts for name, counts in found.items() if any(counts)} == {
        "characters": (1, 0),
        "campaign_members": (0, 1),
        "sources": (1, 0),
    }
    expected = everybody(1, inside=2, player=3)
    assert world.outcomes("select id from sources", expected) == expected
    assert world.outcome("stranger", "select * from campaign_log") == 0


@pytest.mark.parametrize(
    ("moment", "direction"),
    [
        ("null", "changed_over"),
        ("'infinity'", "changed_over"),
        ("now() + interval '2 hours'", "changed_over"),
        ("now() + interval '1 minute'", "changed_under"),
        ("now()", "changed_under"),
        ("'-infinity'", "changed_under"),
    ],
)
def test_a_seat_that_ends_at_another_time_is_found_with_its_direction(
    world: InstalledModel, moment: str, direction: str
) -> None:
    """A later end allows more than the primary, an earlier one less."""
    watcher = world.people["watcher"]
    world.target.query(
        f"update campaign_members set expires_at = {moment} where user_id = %s", watcher
    )
    report = world.reconcile()
    counts = {part.mapping: getattr(part, direction) for part in report.mappings}
    assert counts == {mapping.name: int(mapping.name == "campaign_members") for mapping in registry}
    assert (report.outcome, world.reconcile().outcome) == ("repaired", "in line")


def test_the_story_of_the_example_runs(world: InstalledModel) -> None:
    """The example's story runs on the same databases."""
    story(world.stage)
    assert len(world.stage.log) > 5
