"""Asking: the values of questions that a target answers as a signed-in user, and of the answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

from mirror.model.keys import Key


@dataclass(frozen=True)
class AskHelper:
    """Which resources does a policy's helper function accept?"""

    kind: ClassVar[str] = "helper"
    name: str
    """A function in the schema `mirror`."""
    arguments: tuple[str, ...]
    each: bool = False
    """The function takes a resource as its first argument and returns a boolean. Otherwise it
    returns an array of resources."""


@dataclass(frozen=True)
class AskRows:
    """For which values of a column is a row of the table visible?

    With `through`, of the parent's column.
    """

    kind: ClassVar[str] = "rows"
    schema: str
    table: str
    column: str
    expires: str | None = None
    """A column with the time from which a row does not count as existing."""
    deleted: str | None = None
    """A column that is NULL in rows that count as existing."""
    through: "AskRows | None" = None
    """The parent table, to whose column `key` the column refers."""
    key: str = "id"


@dataclass(frozen=True)
class AskStatement:
    """Which policies hold for a row, and what does a statement on it do?"""

    kind: ClassVar[str] = "statement"
    schema: str
    table: str
    verb: str
    """`select`, `insert`, `update` or `delete`."""
    row: Mapping[str, str]
    """Texts by column: the row to insert, or values that identify an existing row."""
    attempt: bool = True
    """Run the statement. Otherwise the policies are only evaluated, as if `row` existed."""


Ask = AskHelper | AskRows | AskStatement


@dataclass(frozen=True)
class AppliedPolicy:
    """A policy that applies to a statement, and whether it holds for the row."""

    name: str
    verb: str
    """The policy's command; `all` for every command. Updates and deletes also need the policies for
    `select`."""
    permissive: bool
    holds: bool | None
    """None: its evaluation failed."""


@dataclass(frozen=True)
class AskResult:
    """The result of one ask."""

    state: str | None = None
    """The SQLSTATE of the failure; None if nothing failed."""
    values: frozenset[str] = frozenset()
    """Of a helper or of rows: the accepted or visible values."""
    existing: frozenset[str] = frozenset()
    """Of rows: the values of which a row exists, visible or not."""
    exists: bool = True
    """The table exists, with that column."""
    privilege: bool = True
    """Of a statement: it is granted to `authenticated`, for at least one column."""
    active: bool = True
    """Row-level security applies to the user on this table."""
    policies: tuple[AppliedPolicy, ...] = ()
    found: int | None = None
    """The number of rows that exist, visible or not (2: more than one); None if not attempted."""
    rows: int | None = None
    """The number of rows that the user's statement read or wrote; None if it failed or was not
    attempted."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """The columns of the row that policies read."""

    @classmethod
    def from_json(cls, ask: Ask, facts: dict[str, Any], answer: dict[str, Any]) -> Self:
        """Return a result from its parts of the answer of `mirror_ask`.

        `facts` hold for every user, `answer` for one.
        """
        attempted = isinstance(ask, AskStatement) and ask.attempt and ask.verb != "insert"
        holds = answer.get("policies", {})
        return cls(
            state=answer.get("state"),
            values=frozenset(answer.get("values", ())),
            existing=frozenset(answer.get("there", ())),
            exists=facts.get("there", True),
            privilege=facts.get("privilege", True),
            active=answer.get("active", True),
            policies=tuple(
                AppliedPolicy(
                    policy["name"], policy["verb"], policy["permissive"], holds.get(policy["name"])
                )
                for policy in facts.get("policies", ())
            ),
            found=facts.get("rows") if attempted else None,
            rows=answer.get("rows"),
            row=facts.get("row") or {},
        )

    @property
    def accepted(self) -> bool:
        """Whether an attempt passed privileges and policies; constraints are checked after them."""
        return bool(self.rows) or (self.state or "").startswith("23")

    def passes(self, verb: str) -> bool:
        """Whether row-level security accepts the row, as PostgreSQL combines policies."""
        # An update or delete also has to see the row.
        verbs = {verb, "select"} if verb in {"update", "delete"} else {verb}
        return not self.active or all(map(self._passes, verbs))

    def _passes(self, verb: str) -> bool:
        applied = [policy for policy in self.policies if policy.verb in {verb, "all"}]
        return any(policy.holds for policy in applied if policy.permissive) and all(
            policy.holds for policy in applied if not policy.permissive
        )


@dataclass(frozen=True)
class Trace:
    """Facts that a target has beside rows."""

    identity: str | None
    """The primary that the target mirrors; None before the first write."""
    epoch: int
    horizon: int
    users: bool | None
    """Supabase Auth has users; None where that cannot be read."""
    known: bool | None
    """Supabase Auth has this user; None likewise."""
    scopes: tuple[tuple[str, str, str, int, int], ...]
    """Scopes that were read as a whole, newest first: mapping, reference, value, epoch, fence."""
    withheld: Mapping[tuple[str, Key], str]
    """By mapping and key: why the key grants nothing, whatever its row."""
    clock: datetime
    """The time of the target's clock at which these facts were read."""
    freshness: Mapping[str, datetime]
    """By mapping, a time of the target's clock: every revocation recorded before it is in force."""

    @classmethod
    def from_json(cls, answer: dict[str, Any]) -> Self:
        """Return the facts from the answer of `mirror_trace`."""
        return cls(
            identity=answer["identity"],
            epoch=answer["epoch"],
            horizon=answer["horizon"],
            users=answer["users"],
            known=answer["known"],
            scopes=tuple(tuple(scope) for scope in answer["scopes"]),
            withheld={
                (name, tuple(key)): reason for name, key, reason in answer.get("withheld", ())
            },
            # A target of an older version reports none of the two.
            clock=_utc(answer["clock"]) if "clock" in answer else datetime.now(UTC),
            freshness={name: _utc(as_of) for name, as_of in answer.get("freshness", {}).items()},
        )


def _utc(moment: str) -> datetime:
    """Return a timestamptz, as PostgreSQL prints it in JSON."""
    return datetime.fromisoformat(moment).astimezone(UTC)
