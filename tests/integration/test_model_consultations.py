"""Consultations from the primary to the chat: every person, every table, every statement."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest

from examples.consultations.story import story
from mappings.consultations import registry
from mirror.diagnostics.explain import Explanation, explain_channel, explain_file
from mirror.testing import DENIED, Result, Sandboxes
from tests.support.example_model import InstalledModel, model
from tests.support.policy_matrix import Matrix, check_that_it_is_whole, joins
from tests.support.rest import ServeApi, run_snippet
from tests.support.reviewed import Reviewed

# The first lawyer's case went to `lawyer`; the closed case has no lawyer, as it was deleted.
PARTIES = ("client", "lawyer")
PEOPLE = (*PARTIES, "first_lawyer", "other_client", "closed_client", "stranger")
EVERYBODY = ("anon", "unsigned", *PEOPLE)


@pytest.fixture(scope="module")
def world(sandboxes: Sandboxes) -> Iterator[InstalledModel]:
    """A case that changed hands, another case, and a deleted one, all mirrored from the primary."""
    with model(sandboxes, registry) as world:
        world.people.update({person: uuid4() for person in PEOPLE})
        people = world.people
        for case, client, lawyer in (
            ("here", "client", "first_lawyer"),
            ("elsewhere", "other_client", "first_lawyer"),
            ("closed", "closed_client", "lawyer"),
        ):
            world.values[case] = world.stage.backend(
                'insert into consultations ("clientId", "lawyerId") values (%s, %s) returning id',
                people[client],
                people[lawyer],
            )
        world.stage.backend(
            'update consultations set "lawyerId" = %s where id <> %s',
            people["lawyer"],
            world.values["closed"],
        )
        world.stage.backend(
            'update consultations set "deletedAt" = now() where id = %s', world.values["closed"]
        )
        world.stage.backend(
            'update consultations set "lawyerId" = null where id = %s', world.values["elsewhere"]
        )
        fill(world)
        yield world


def fill(world: InstalledModel) -> None:
    """Write messages with files, one withdrawn message, and one of the system."""
    with world.target.connect() as connection:
        for name, sender, case in (
            ("clients", "client", "here"),
            ("lawyers", "lawyer", "here"),
            ("taken_back", "client", "here"),
            ("elsewheres", "other_client", "elsewhere"),
            ("closeds", "closed_client", "closed"),
        ):
            message = world.values[name] = uuid4()
            user, where = world.people[sender], world.values[case]
            path = f"consultations/{where}/{user}/{name}.pdf"
            connection.execute(
                'insert into messages (id, "consultationId", "senderId", content)'
                " values (%s, %s, %s, 'hello')",
                [message, where, user],
            )
            connection.execute(
                'insert into message_attachments (id, "messageId", "consultationId", "senderId",'
                ' "fileName", "fileUrl", "fileSize", "mimeType")'
                " values (%s, %s, %s, %s, 'a.pdf', %s, 1, 'application/pdf')",
                [message, message, where, user, path],
            )
            connection.execute(
                "insert into storage.objects (bucket_id, name, created_at)"
                " values ('message-attachments', %s, now() - interval '2 days')",
                [path],
            )
        world.values["systems"] = uuid4()
        connection.execute(
            'insert into messages (id, "consultationId", "senderId", content, type)'
            " values (%s, %s, null, 'The lawyer has changed.', 'system')",
            [world.values["systems"], world.values["here"]],
        )
        connection.execute(
            'update messages set "deletedAt" = now() where id = %s', [world.values["taken_back"]]
        )


def everybody(
    outcome: Result = 0, *, parties: Result | None = None, **others: Result
) -> dict[str, Result]:
    """Return each person's expected result: `outcome`, DENIED for anon, or that of `others`."""
    expected = dict.fromkeys(EVERYBODY, outcome) | {"anon": DENIED}
    if parties is not None:
        expected |= dict.fromkeys(PARTIES, parties)
    return expected | others


NOBODY = everybody(DENIED)
FILES = "insert into storage.objects (bucket_id, name) values ('message-attachments', {})"
ATTACH = (
    'insert into message_attachments ("messageId", "consultationId", "fileName", "fileUrl",'
    ' "fileSize", "mimeType") values ({message}, %(here)s, $$x$$, {path}, 1, $$text/plain$$)'
)
MINE = "format('consultations/%%s/%%s/new.pdf', %(here)s::uuid, {})"

MATRIX: Matrix = {
    "consultations": {
        "select": (
            'select id, "clientId", "lawyerId" from consultations',
            everybody(parties=1, other_client=1) | {"service_role": 2},
        ),
        "insert": (
            "insert into consultations values (gen_random_uuid(), %(me)s, %(me)s)",
            NOBODY | {"service_role": DENIED},
        ),
        "take a case": (
            'update consultations set "lawyerId" = %(me)s',
            NOBODY | {"service_role": DENIED},
        ),
        "delete": ("delete from consultations", NOBODY | {"service_role": DENIED}),
    },
    "messages": {
        # Only its sender sees a withdrawn message.
        "select": (
            "select * from messages",
            everybody(client=4, lawyer=3, other_client=1),
        ),
        "select one that was taken back": (
            "select * from messages where id = %(taken_back)s",
            everybody(client=1),
        ),
        "send": (
            """insert into messages ("consultationId", content) values (%(here)s, $$x$$)""",
            everybody(DENIED, parties=1),
        ),
        "send elsewhere": (
            """insert into messages ("consultationId", content) values (%(elsewhere)s, $$x$$)""",
            everybody(DENIED, other_client=1),
        ),
        "send as somebody else": (
            (
                'insert into messages ("consultationId", "senderId", content)'
                " values (%(here)s, gen_random_uuid(), $$x$$)"
            ),
            NOBODY,
        ),
        "send as the system": (
            (
                'insert into messages ("consultationId", content, type)'
                " values (%(here)s, $$x$$, 'system')"
            ),
            NOBODY,
        ),
        "send what was read long ago": (
            (
                'insert into messages ("consultationId", content, "readAt")'
                " values (%(here)s, $$x$$, now())"
            ),
            NOBODY,
        ),
        "edit": (
            "update messages set content = $$x$$ where id = %(clients)s",
            everybody(client=1, lawyer=DENIED),
        ),
        "edit the other way round": (
            "update messages set content = $$x$$ where id = %(lawyers)s",
            everybody(client=DENIED, lawyer=1),
        ),
        "edit the system's": (
            "update messages set content = $$x$$ where id = %(systems)s",
            everybody(parties=DENIED),
        ),
        "edit under cover of marking as read": (
            """update messages set "readAt" = now(), content = $$x$$ where id = %(clients)s""",
            everybody(parties=DENIED),
        ),
        "mark as read": (
            'update messages set "readAt" = now() where id = %(clients)s',
            everybody(client=DENIED, lawyer=1),
        ),
        "mark as delivered": (
            'update messages set "deliveredAt" = now() where id = %(lawyers)s',
            everybody(client=1, lawyer=DENIED),
        ),
        "mark the system's as read": (
            'update messages set "readAt" = now() where id = %(systems)s',
            everybody(parties=1),
        ),
        "take back": (
            'update messages set "deletedAt" = now() where id = %(clients)s',
            everybody(client=1, lawyer=DENIED),
        ),
        "put back": (
            'update messages set "deletedAt" = null where id = %(taken_back)s',
            everybody(),
        ),
        "edit one that was taken back": (
            "update messages set content = $$x$$ where id = %(taken_back)s",
            everybody(),
        ),
        "change who said it": (
            'update messages set "senderId" = %(me)s where id = %(clients)s',
            NOBODY,
        ),
        "move to another case": (
            'update messages set "consultationId" = %(elsewhere)s where id = %(clients)s',
            NOBODY,
        ),
        # No user can delete a message for good, so no other user gets news of a DELETE.
        "delete": ("delete from messages where id = %(clients)s", NOBODY),
    },
    "message_attachments": {
        "select": (
            "select * from message_attachments",
            everybody(client=3, lawyer=2, other_client=1),
        ),
        "attach to a client's message": (
            ATTACH.format(message="%(clients)s", path=MINE.format("%(me)s::uuid")),
            everybody(DENIED, client=1, lawyer="ForeignKeyViolation"),
        ),
        "attach somebody else's file": (
            ATTACH.format(message="%(clients)s", path=MINE.format("%(lawyer)s::uuid")),
            everybody(DENIED, client="CheckViolation", lawyer="ForeignKeyViolation"),
        ),
        "attach to one that was taken back": (
            ATTACH.format(message="%(taken_back)s", path=MINE.format("%(me)s::uuid")),
            everybody(DENIED, client=1),
        ),
        "update": (
            """update message_attachments set "fileUrl" = $$x$$""",
            NOBODY,
        ),
        "delete": (
            "delete from message_attachments where id = %(clients)s",
            everybody(client=1),
        ),
    },
    "storage.objects": {
        "select": (
            "select * from storage.objects",
            everybody(anon=0, parties=3, other_client=1),
        ),
        "upload": (FILES.format(MINE.format("%(me)s::uuid")), everybody(DENIED, parties=1)),
        "upload as somebody else": (
            FILES.format(MINE.format("%(lawyer)s::uuid")),
            NOBODY | {"lawyer": 1},
        ),
        "replace": (
            "update storage.objects set metadata = '{}'",
            everybody(anon=0),
        ),
        "remove": (
            "delete from storage.objects where name like '%%/clients.pdf'",
            everybody(anon=0, client=1),
        ),
    },
    "realtime.messages": {
        "select": (
            "select * from realtime.messages where topic = 'consultation:' || %(here)s::uuid",
            everybody(anon=0, parties=1),
        ),
        "insert": (
            (
                "insert into realtime.messages (topic, extension)"
                " values ('consultation:' || %(here)s::uuid, 'broadcast')"
            ),
            everybody(DENIED, parties=1),
        ),
        "update": ("update realtime.messages set event = 'x'", everybody(anon=0)),
        "delete": ("delete from realtime.messages", NOBODY),
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


def test_the_server_sets_times_and_a_read_message_stays_read(world: InstalledModel) -> None:
    """A client only marks a message as read; the server sets the time, and `status` follows."""
    lawyer = world.people["lawyer"]
    with world.target.acting_as(lawyer) as connection:
        row = connection.execute(
            """update messages set "readAt" = '2001-01-01' where id = %s
            returning "readAt" = now(), "deliveredAt" = now(), status""",
            [world.values["clients"]],
        ).fetchone()
        assert row == (True, True, "read")
        row = connection.execute(
            'update messages set "readAt" = null, "deliveredAt" = null where id = %s'
            ' returning "readAt" = now(), "deliveredAt" = now()',
            [world.values["clients"]],
        ).fetchone()
        assert row == (True, True)


def test_the_backend_is_not_bound_by_the_rules_for_columns(world: InstalledModel) -> None:
    """Column rules and policies do not bind the backend's role."""
    update = """update messages set content = 'x', "readAt" = now()"""
    assert world.outcome("service_role", update) == 6


def test_the_other_side_hears_that_a_message_was_taken_back(world: InstalledModel) -> None:
    """The consultation's private channel sends only the id: the row itself is not readable."""
    sent = world.target.query(
        "select payload - 'id' from realtime.messages where topic = %s and private",
        f"consultation:{world.values['here']}",
    )
    assert sent == [({"message_id": str(world.values["taken_back"])},)]


def test_both_lawyers_get_news_of_a_case_that_changes_hands(world: InstalledModel) -> None:
    """The old lawyer and the new one get news; the client gets none."""
    channel_news = (
        "with gone as (delete from realtime.messages where topic like 'user:%' returning *)"
        " select topic, event, payload ->> 'consultation_id' from gone order by event"
    )
    case, first, second = world.values["here"], world.people["lawyer"], uuid4()
    world.target.query(channel_news)
    hand_over = 'update consultations set "lawyerId" = %s where id = %s'
    world.stage.backend(hand_over, second, case)
    assert world.target.query(channel_news) == [
        (f"user:{second}", "membership_granted", str(case)),
        (f"user:{first}", "membership_revoked", str(case)),
    ]
    world.stage.backend(hand_over, first, case)


def test_files_without_a_message_are_listed_for_the_storage_api(world: InstalledModel) -> None:
    """They are listed once they are a day old, also for messages withdrawn at least a day ago."""
    listed = "select * from orphaned_files()"
    stray = f"consultations/{world.values['here']}/{world.people['client']}/stray.pdf"
    taken_back = stray.replace("stray", "taken_back")
    with world.target.connect(autocommit=False) as connection:
        connection.execute(
            "insert into storage.objects (bucket_id, name, created_at) values"
            " ('message-attachments', %(stray)s, now() - interval '25 hours'),"
            " ('message-attachments', %(stray)s || '.new', now())",
            {"stray": stray},
        )
        connection.execute("set local role service_role")
        assert connection.execute(listed).fetchall() == [(stray,)]
        connection.execute("reset role")
        connection.execute("alter table messages disable trigger message_times")
        connection.execute(
            """update messages set "deletedAt" = now() - interval '2 days' where id = %s""",
            [world.values["taken_back"]],
        )
        assert connection.execute(listed).fetchall() == [(taken_back,), (stray,)]
        connection.rollback()
    assert world.outcome("client", listed) == DENIED


def test_the_clean_up_of_the_page_removes_the_listed_files(
    sandboxes: Sandboxes, serve_api: ServeApi
) -> None:
    """docs/models/consultations.md: it passes the paths on to Storage as the API returns them.

    The API brings tables of its own to a target that it serves, so this one is no other test's.
    """
    stray = f"consultations/{uuid4()}/{uuid4()}/stray.pdf"
    with model(sandboxes, registry) as installed:
        installed.target.query(
            "insert into storage.objects (bucket_id, name, created_at)"
            " values ('message-attachments', %s, now() - interval '25 hours')",
            stray,
        )
        api = serve_api(installed.target)
        sent = run_snippet("models/consultations.md", api.url, api.secret_key)["storage"]
        path = "/storage/v1/object/message-attachments"
        assert sent == [{"method": "DELETE", "path": path, "body": {"prefixes": [stray]}}]
        installed.target.query("delete from storage.objects where name = %s", stray)
        assert run_snippet("models/consultations.md", api.url, api.secret_key)["storage"] == []
        api.serve(None)


def test_the_bucket_is_private_and_enforces_its_limits(world: InstalledModel) -> None:
    """50 MB at most, and only types that a browser does not execute."""
    [(public, limit, types)] = world.target.query(
        "select public, file_size_limit, allowed_mime_types from storage.buckets"
    )
    assert (public, limit) == (False, 50 * 1024 * 1024)
    assert "application/pdf" in types
    assert not {"text/html", "image/svg+xml", "application/javascript"} & set(types)


def test_messages_are_published_and_mirrored_tables_are_not(world: InstalledModel) -> None:
    """Publishing a mirrored table would send each DELETE to every listener."""
    published = world.target.query(
        "select tablename from pg_publication_tables where pubname = 'supabase_realtime'"
    )
    assert published == [("messages",)]


def test_explain_follows_each_column_that_gives_access(world: InstalledModel) -> None:
    """It names the row if a user was planted in one of the columns."""
    here = world.values["here"]
    world.target.query(
        "insert into auth.users (id) select unnest(%s) on conflict do nothing",
        list(world.people.values()),
    )
    for person in PARTIES:
        page = world.explain(person, "consultation", here)
        assert (page.primary_grants, page.allowed, page.first) == (True, True, None)
    page = world.explain("first_lawyer", "consultation", here)
    assert (page.primary_grants, page.allowed) == (False, False)
    assert page.first is not None
    assert page.first.name == "primary"
    plant = 'update consultations set "lawyerId" = %s where id = %s'
    world.target.query(plant, world.people["stranger"], here)
    page = world.explain("stranger", "consultation", here)
    assert (page.primary_grants, page.allowed) == (False, True)
    world.target.query(plant, world.people["lawyer"], here)


def channel(world: InstalledModel, person: str, topic: str) -> Explanation:
    """Return the explanation of a channel."""
    return explain_channel(world.drain, topic, str(world.people[person]))


def test_explain_asks_a_channel_as_realtime_does(world: InstalledModel) -> None:
    """Every person, and both the channel of the case and their own."""
    topic = f"consultation:{world.values['here']}"
    for person in PEOPLE:
        page = channel(world, person, topic)
        assert page.allowed is (person in PARTIES), page
        assert page.allowed is bool(joins(world.target, world.people[person], topic))
        assert page.exit_code == (0 if page.allowed else 1)
        assert page.first is None or page.first.name == "primary"
        own = channel(world, person, f"user:{world.people[person]}")
        assert (own.allowed, own.exit_code) == (True, 0), own
    page = channel(world, "client", topic)
    assert [line.split(",")[0] for line in page.steps[-1].details] == [
        "receive: allowed",
        "watch: allowed",
        "send: allowed",
        "appear: allowed",
    ]


@pytest.mark.parametrize(
    ("topic", "says"),
    [
        ("consultation:x", "'x' is no id of a consultation"),
        ("consultation:", "'' is no id of a consultation"),
        ("consultation:{HERE}", "the database spells this id {here}"),
        ("case:{here}", "the declared channels are consultation:<id>, user:<the user's own id>"),
        ("user:{stranger}", "the declared channels are consultation:<id>"),
        ("", "the declared channels are"),
    ],
)
def test_a_topic_that_belongs_to_nobody_is_explained(
    world: InstalledModel, topic: str, says: str
) -> None:
    """Policies compare texts, so another spelling is another channel."""
    here = str(world.values["here"])
    names = {"here": here, "HERE": here.upper(), "stranger": str(world.people["stranger"])}
    page = channel(world, "client", topic.format(**names))
    assert (page.allowed, page.exit_code) == (False, 1)
    assert page.first is not None
    assert says.format(**names) in page.first.says


def test_a_policy_on_channels_that_was_changed_is_named(world: InstalledModel) -> None:
    """It admits a stranger, or nobody."""
    topic = f"consultation:{world.values['here']}"
    with broken_policy(world, "realtime.messages", "mirror_consultations_read", "true"):
        page = channel(world, "stranger", topic)
        assert (page.allowed, page.primary_grants) == (True, False)
        assert page.first is not None
        assert "the policies allow receive, the declarations refuse it" in page.first.says
    with broken_policy(world, "realtime.messages", "mirror_consultations_read", "false"):
        page = channel(world, "client", topic)
        assert page.first is not None
        assert "the policies refuse receive, the declarations allow it" in page.first.says


def test_explain_asks_for_a_file_by_its_path(world: InstalledModel) -> None:
    """Its owner may delete it, the other side may read it, and a stranger neither."""
    owner = world.people["client"]
    path = f"consultations/{world.values['here']}/{owner}/clients.pdf"

    def allowed(person: str, verb: str, file: str = path) -> Explanation:
        bucket, user = "message-attachments", str(world.people[person])
        return explain_file(world.drain, bucket, file, verb, user)

    assert allowed("client", "select").exit_code == 0
    assert allowed("client", "delete").exit_code == 0
    assert allowed("client", "insert", path.replace("clients", "new")).exit_code == 0
    assert allowed("lawyer", "select").exit_code == 0
    for person, verb in (("lawyer", "delete"), ("client", "update"), ("stranger", "select")):
        page = allowed(person, verb)
        assert (page.allowed, page.exit_code) == (False, 1), (person, verb)
        assert page.first is not None
        assert page.first.name == ("primary" if person == "stranger" else "decision")
    page = allowed("client", "select", "invoices/1.pdf")
    assert page.first is not None
    assert "the declared folders are message-attachments/consultations/" in page.first.says
    # The folder itself is no file of it.
    assert not allowed("client", "select", path.rpartition("/")[0] + "/").allowed
    with broken_policy(world, "storage.objects", "mirror_consultations_delete", "true"):
        page = allowed("lawyer", "delete")
        assert page.first is not None
        assert "the policies allow delete, the declarations refuse it" in page.first.says


@contextmanager
def broken_policy(world: InstalledModel, table: str, policy: str, condition: str) -> Iterator[None]:
    """Give a policy another USING until the end of the block."""
    statement = f"alter policy {policy} on {table} using ({{}})"
    (using,) = world.target.query(
        "select pg_get_expr(polqual, polrelid) from pg_policy"
        " where polname = %s and polrelid = %s::regclass",
        policy,
        table,
    )[0]
    with world.target.connect() as connection:
        connection.execute(statement.format(condition).encode())
        try:
            yield
        finally:
            connection.execute(statement.format(using).encode())


def test_a_lawyer_planted_by_hand_is_found_and_removed(world: InstalledModel) -> None:
    """`mirror reconcile` knows from the declaration which columns give access."""
    assert world.reconcile().exit_code == 0
    world.target.query(
        'update consultations set "lawyerId" = %s where id = %s',
        world.people["stranger"],
        world.values["here"],
    )
    assert world.outcome("stranger", "select * from messages") == 3
    report = world.reconcile()
    assert [part.changed_over for part in report.mappings] == [1]
    assert world.outcome("stranger", "select * from messages") == 0
    assert world.outcome("lawyer", "select * from messages") == 3


def test_the_story_of_the_example_runs(world: InstalledModel) -> None:
    """The example's story runs on the same databases."""
    story(world.stage)
    assert len(world.stage.log) > 5
