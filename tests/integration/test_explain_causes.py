"""Explain's answer for each of many planted causes, on every model of `mappings`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import uuid4

import pytest

from mappings import campaigns, consultations, grants, rbac, trips
from mirror.diagnostics.explain import Explanation
from mirror.model.registry import Registry
from mirror.testing import Sandboxes
from tests.support.example_model import InstalledModel, model


@dataclass(frozen=True)
class Example:
    """How a model grants something to the user {u}, in the primary."""

    registry: Registry
    noun: str
    resource: str
    grant: str
    mapping: str
    """The mapping of the row that grants it."""
    key: str
    """The key of that row, as an array in SQL."""
    revoke: str
    """Deletes that row in the primary."""
    where: str
    """Finds it in the target."""
    folder: str | None = None


PEOPLE = "insert into users (id, email, {name}) values ({u}, {u}, 'u'), ({x}, {x}, 'x');"
TRIP = (
    PEOPLE.replace("{name}", "username")
    + "insert into trips (id, name, created_by) values ({r}, 'r', {x});"
)
COMPANY = (
    "insert into users (id, email) values ({u}, {u});"
    "insert into companies (id, name) values ({x}, 'x'), ({y}, 'y');"
    "insert into workspaces (id, company_id, name) values ({r}, {x}, 'r'), ({z}, {y}, 'z');"
)
VIEW = COMPANY + "insert into table_views (id, workspace_id, name) values ({v}, {r}, 'v');"
ROLES = (
    "insert into roles (id, name) values ({x}, {x}), ({y}, {y});"
    "insert into permissions (id, name) values ({z}, {r});"
    "insert into users (id, email, name, role_id) values ({u}, {u}, 'u', {x});"
)
CAMPAIGN = (
    "insert into campaigns overriding system value values ({n}, {x}, 'n'), ({m}, {y}, 'm');"
    "insert into characters overriding system value values ({n}, {u}, 'n'), ({m}, {x}, 'm');"
)

EXAMPLES: Mapping[str, Example] = {
    "trips": Example(
        trips.registry,
        noun="trip",
        resource="r",
        grant=TRIP + "insert into trip_memberships values ({r}, {u}, 'OWNER', 'ACTIVE');",
        mapping="trip_memberships",
        key="array[{r}, {u}]",
        revoke="delete from trip_memberships where trip_id = {r}",
        where="trip_id = {r}",
        folder="trip_chat",
    ),
    "consultations": Example(
        consultations.registry,
        noun="consultation",
        resource="r",
        grant='insert into consultations (id, "clientId") values ({r}, {u});',
        mapping="consultations",
        key="array[{r}]",
        revoke="delete from consultations where id = {r}",
        where="id = {r}",
    ),
    "grants": Example(
        grants.registry,
        noun="workspace",
        resource="r",
        grant=COMPANY + "insert into workspace_members values ({r}, {u}, 'editor');",
        mapping="user_permissions",
        key="array[{u}, 'workspace', {r}]",
        revoke="delete from workspace_members where user_id = {u}",
        where="user_id = {u} and resource_id = {r}",
    ),
    "rbac": Example(
        rbac.registry,
        noun="permission",
        resource="r",
        grant=ROLES
        + "insert into role_permissions (id, role_id, permission_id) values ({u}, {x}, {z});",
        mapping="permissions",
        key="array[{z}]",
        revoke="delete from permissions where id = {z}",
        where="id = {z}",
    ),
    "campaigns": Example(
        campaigns.registry,
        noun="campaign",
        resource="n",
        grant=CAMPAIGN + "insert into campaign_members values ({n}, {u}, 'PLAYER', null);",
        mapping="campaign_members",
        key="array[{n}::text, {u}]",
        revoke="delete from campaign_members where campaign_id = {n}",
        where="campaign_id = {n}",
    ),
}


@pytest.fixture(scope="module", params=EXAMPLES)
def pair(request: pytest.FixtureRequest, sandboxes: Sandboxes) -> Iterator[InstalledModel]:
    """The two databases of a model."""
    example = EXAMPLES[request.param]
    with model(sandboxes, example.registry, folder=example.folder) as pair:
        yield pair


NUMBERS = count(1)


@dataclass
class Plant:
    """One user and one resource, and names of others, in the two databases of a model."""

    pair: InstalledModel
    example: Example
    names: dict[str, Any]

    def primary(self, statements: str, *, captured: bool = True) -> None:
        """Run statements on the primary; without `captured`, their events are lost."""
        with self.pair.primary.connect(autocommit=False) as connection:
            connection.execute(self.text(statements).encode())
            if not captured:
                connection.execute("delete from mirror.outbox")

    def target(self, statement: str) -> None:
        """Run a statement on the target."""
        self.pair.target.query(self.text(statement))

    def mirror(self) -> None:
        """Mirror all events."""
        assert self.pair.drain.run().failed == 0

    def text(self, template: str) -> str:
        """Return a template with the names as SQL."""
        sql = {
            name: str(value) if isinstance(value, int) else f"'{value}'"
            for name, value in self.names.items()
        }
        return template.format(**sql)

    def explain(self, noun: str | None = None, resource: str | None = None) -> Explanation:
        """Explain the user's access."""
        self.pair.people["u"] = self.names["u"]
        return self.pair.explain(
            "u", noun or self.example.noun, self.names[resource or self.example.resource]
        )


def fresh_plant(pair: InstalledModel) -> Plant:
    """Return a user and a resource that nothing else names."""
    names: dict[str, Any] = {name: uuid4() for name in "uvrxyz"}
    names |= {name: next(NUMBERS) for name in "nm"}
    return Plant(pair, EXAMPLES[pair.drain.registry.name], names)


@pytest.fixture
def plant(pair: InstalledModel) -> Plant:
    """The same, for one test."""
    return fresh_plant(pair)


def never_captured(plant: Plant) -> None:
    """No event tells of the grant."""
    plant.primary(plant.example.grant, captured=False)


def waiting(plant: Plant) -> None:
    """No worker runs."""
    plant.primary(plant.example.grant)


def buried(plant: Plant) -> None:
    """The event was given up."""
    never_captured(plant)
    plant.primary(
        "insert into mirror.retries (id, lane, recorded_at, mapping, key, attempts, due_at, error,"
        f" buried_at) values ({{n}}, 0, now(), '{plant.example.mapping}', {plant.example.key}, 5,"
        " now(), 'target: refused', now())"
    )


def granted(plant: Plant) -> None:
    """Everything is mirrored."""
    plant.primary(plant.example.grant)
    plant.mirror()


def revoked_uncaptured(plant: Plant) -> None:
    """No event tells of the revocation."""
    granted(plant)
    plant.primary(plant.example.revoke, captured=False)


def deleted_by_hand(plant: Plant) -> None:
    """Somebody deleted the row in the target."""
    granted(plant)
    plant.target(f"delete from {plant.example.mapping} where {plant.example.where}")


def withheld(plant: Plant) -> None:
    """The row's event cannot be mirrored."""
    granted(plant)
    plant.target(
        "insert into mirror.withheld (mapping, key, reason, epoch, fence)"
        f" values ('{plant.example.mapping}', {plant.example.key}, 'Rejected', 0, 0)"
    )


@pytest.mark.parametrize(
    ("cause", "step", "says"),
    [
        (never_captured, "events", "Never captured"),
        (waiting, "events", "The change waits"),
        (buried, "events", "is buried (target: refused)"),
        (revoked_uncaptured, "ledger", "Stale: the ledger has the row."),
        (deleted_by_hand, "target row", "Missing: the mirror wrote the row"),
        (withheld, "ledger", "Withheld (Rejected)"),
        (granted, None, ""),
    ],
)
def test_a_fault_of_the_mirror_is_named_on_each_model(
    plant: Plant, cause: Any, step: str | None, says: str
) -> None:
    """The primary is right, and the target is not; or nothing is wrong."""
    cause(plant)
    page = plant.explain()
    plant.primary("delete from mirror.outbox; delete from mirror.retries")
    assert (page.first and page.first.name) == step, page
    assert says in (page.first.says if page.first else "")
    assert page.exit_code == (0 if step is None else 1)


@dataclass(frozen=True)
class Lack:
    """Rows of the primary that do not grant, and the sentence that says why."""

    rows: str
    says: str
    noun: str | None = None
    resource: str | None = None


def member(status: str = "ACTIVE", deleted: str = "null", of: str = "{u}") -> str:
    """Return the rows of a trip with one member."""
    return (
        f"{TRIP}insert into trip_memberships values ({{r}}, {of}, 'OWNER', '{status}', {deleted});"
    )


def gone(table: str, row: str) -> str:
    """Return the statement that deletes a row softly."""
    return f"update {table} set deleted_at = now() where id = {{{row}}};"


NO_MEMBER = (
    "trip_memberships has no row with trip_memberships.trip_id = '{r}' and"
    " trip_memberships.user_id = '{u}'"
)
CONDITION = "has the row, but it does not satisfy the condition "
NO_CLIENT = (
    "consultations has no row with consultations.id = '{r}' and consultations.\"clientId\" = '{u}'"
)
GUEST_NO = (
    "workspace_members has no row with workspace_members.workspace_id = '{r}' and"
    " workspace_members.user_id = '{u}'"
)
OWNER_NO = "company_members has no row with company_members.user_id = '{u}'"
ELSEWHERE = OWNER_NO + " and workspaces.company_id = company_members.company_id"
NOT_OWNER = "company_members " + CONDITION + "company_members.role = 'owner'"
VIEWER_NO = "table_view_grants has no row with table_view_grants.user_id = '{u}'"
FOR_VIEWS = {"noun": "table_view", "resource": "v"}
NO_DM = "campaigns has no row with campaigns.id = '{n}' and campaigns.dm_id = '{u}'"
LACKS: Mapping[str, list[Lack]] = {
    "trips": [
        Lack("select {r}", NO_MEMBER),
        Lack(TRIP, NO_MEMBER),
        Lack(member(of="{x}"), NO_MEMBER),
        Lack(
            member(deleted="now()"),
            "trip_memberships " + CONDITION + "trip_memberships.deleted_at IS NULL",
        ),
        Lack(
            member(deleted="now()", status="INACTIVE") + gone("users", "u"),
            CONDITION + "trip_memberships.deleted_at IS NULL",
        ),
        Lack(member() + gone("users", "u"), "its parent users {u} does not"),
        Lack(member() + gone("users", "u"), "users " + CONDITION + "users.deleted_at IS NULL"),
        Lack(member() + gone("trips", "r"), "trips " + CONDITION + "trips.deleted_at IS NULL"),
        Lack(member(status="INVITED"), "status is INVITED, and only ACTIVE counts"),
        Lack(member(status="INACTIVE"), "status is INACTIVE, and only ACTIVE counts"),
        Lack(member() + "delete from trip_memberships where trip_id = {r};", NO_MEMBER),
        Lack(member() + "delete from users where id = {u};", NO_MEMBER),
    ],
    "consultations": [
        Lack("select {r}", "consultations has no row with consultations.id = '{r}'"),
        Lack('insert into consultations (id, "clientId") values ({r}, {x});', NO_CLIENT),
        Lack(
            'insert into consultations (id, "clientId") values ({x}, {u});',
            "consultations has no row with consultations.id = '{r}'",
        ),
        Lack(
            'insert into consultations (id, "clientId", "deletedAt") values ({r}, {u}, now());',
            "consultations " + CONDITION + 'consultations."deletedAt" IS NULL',
        ),
        Lack(
            'insert into consultations (id, "clientId", "lawyerId") values ({r}, {x}, {y});',
            "consultations.\"lawyerId\" = '{u}'",
        ),
        Lack(
            'insert into consultations (id, "clientId", "lawyerId", "deletedAt")'
            " values ({r}, {x}, {u}, now());",
            CONDITION + 'consultations."deletedAt" IS NULL',
        ),
    ],
    "grants": [
        Lack("select {r}", GUEST_NO),
        Lack(
            COMPANY
            + "insert into company_members values ({x}, {u}, 'owner');"
            + "delete from workspaces where id = {r};",
            "workspaces has no row with workspaces.id = '{r}'",
        ),
        Lack(COMPANY, GUEST_NO),
        Lack(COMPANY, OWNER_NO),
        Lack(COMPANY + "insert into workspace_members values ({z}, {u}, 'owner');", GUEST_NO),
        Lack(COMPANY + "insert into company_members values ({y}, {u}, 'owner');", ELSEWHERE),
        Lack(COMPANY + "insert into company_members values ({x}, {u}, 'admin');", NOT_OWNER),
        Lack(
            COMPANY + "insert into workspace_members values ({r}, {u}, 'guest');",
            "WHEN 'viewer' THEN 'read' END) IN ('admin', 'read', 'write')",
        ),
        Lack(
            COMPANY,
            "company_members has no row with company_members.company_id = '{x}'",
            noun="company",
            resource="x",
        ),
        Lack(
            COMPANY + "insert into company_members values ({x}, {u}, 'owner');",
            "table_views has no row with table_views.id = '{v}'",
            **FOR_VIEWS,
        ),
        Lack(VIEW, VIEWER_NO, **FOR_VIEWS),
        Lack(
            VIEW + "insert into workspace_members values ({z}, {u}, 'owner');",
            "workspace_members has no row with workspace_members.user_id = '{u}' and"
            " table_views.workspace_id = workspace_members.workspace_id",
            **FOR_VIEWS,
        ),
        Lack(
            VIEW + "insert into company_members values ({y}, {u}, 'owner');",
            ELSEWHERE,
            **FOR_VIEWS,
        ),
        Lack(
            VIEW + "insert into company_members values ({x}, {u}, 'member');",
            NOT_OWNER,
            **FOR_VIEWS,
        ),
        Lack(
            VIEW + "insert into table_view_grants values ({v}, {u}, 'see');",
            "table_view_grants " + CONDITION + "table_view_grants.permission IN",
            **FOR_VIEWS,
        ),
    ],
    "rbac": [
        Lack("select {r}", "permissions has no row with permissions.name = '{r}'"),
        Lack(
            "insert into permissions (id, name) values ({z}, {r});",
            "users has no row with users.id = '{u}'",
        ),
        Lack(
            ROLES,
            "role_permissions has no row with role_permissions.role_id = '{x}' and"
            " role_permissions.permission_id = '{z}'",
        ),
        Lack(
            ROLES
            + "insert into role_permissions (id, role_id, permission_id) values ({u}, {y}, {z});",
            "role_permissions has no row with role_permissions.role_id = '{x}'",
        ),
        Lack(
            ROLES + "update users set role_id = null where id = {u};",
            "a row of role_permissions is found by role_id, permission_id, and one of these values"
            " is NULL",
        ),
        Lack(
            ROLES + "delete from roles where id = {x};",
            "a row of role_permissions is found by",
        ),
    ],
    "campaigns": [
        Lack("select {n}", "campaigns has no row with campaigns.id = '{n}'"),
        Lack(CAMPAIGN, NO_DM),
        Lack(
            CAMPAIGN,
            "campaign_characters has no row with campaign_characters.campaign_id = '{n}'",
        ),
        Lack(
            "select {n}",
            "nor by campaign_characters: The primary yields no such row: characters has no row with"
            " characters.owner_id = '{u}'",
        ),
        Lack(
            CAMPAIGN,
            "campaign_members has no row with campaign_members.campaign_id = '{n}' and"
            " campaign_members.user_id = '{u}'",
        ),
        Lack(
            CAMPAIGN + "insert into campaign_members values ({n}, {u}, 'DM', '2020-01-01');",
            "its expires_at is past",
        ),
        Lack(
            CAMPAIGN + "insert into campaign_characters values ({m}, {n}), ({n}, {m});",
            "characters, campaigns have the rows, but campaign_characters has no row with"
            " campaign_characters.campaign_id = '{n}' and"
            " characters.id = campaign_characters.character_id",
        ),
        Lack(
            CAMPAIGN + "insert into campaign_characters values ({n}, {m});",
            "campaign_characters has no row with campaign_characters.campaign_id = '{n}' and"
            " characters.id = campaign_characters.character_id",
        ),
    ],
}


def test_what_the_primary_lacks_is_named_on_each_model(pair: InstalledModel) -> None:
    """The first row or condition that is missing, from the user and the resource inwards."""
    unnamed = []
    for lack in LACKS[pair.drain.registry.name]:
        plant = fresh_plant(pair)
        plant.primary(lack.rows)
        plant.mirror()
        page = plant.explain(lack.noun, lack.resource)
        assert page.first is not None, lack
        assert (page.first.name, page.allowed, page.exit_code) == ("primary", False, 1), lack
        # The order of the values is that of the declaration.
        parts = re.split(" with | and ", lack.says.format(**plant.names))
        texts = (page.first.says, *page.first.details)
        if not any(all(part in text for part in parts) for text in texts):
            unnamed.append((lack, texts))
    assert unnamed == [], "\n".join(map(str, unnamed))
