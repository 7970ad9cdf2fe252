"""Asking a target as somebody: what is asked, what is answered, and both as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class AskHelper:
    """Which resources does a policy's helper let through?"""

    kind: ClassVar[str] = "helper"
    name: str
    """A function in the schema `mirror`."""
    arguments: tuple[str, ...]
    each: bool = False
    """It takes a resource first, and returns whether; else it returns an array of them."""


@dataclass(frozen=True)
class AskRows:
    """For which values of a column can a row of a table be seen?"""

    kind: ClassVar[str] = "rows"
    schema: str
    table: str
    column: str


@dataclass(frozen=True)
class AskStatement:
    """Which policies hold for a row, and what becomes of a statement on it?"""

    kind: ClassVar[str] = "statement"
    schema: str
    table: str
    verb: str
    """`select`, `insert`, `update`, `delete`."""
    row: Mapping[str, str]
    """What an insert brings, or values that find the row; as texts, by column."""
    attempt: bool = True
    """Run it. Otherwise the policies are asked about `row` as if it were there."""


Ask = AskHelper | AskRows | AskStatement


@dataclass(frozen=True)
class AppliedPolicy:
    """A policy that applies to a statement, and whether it holds for the row."""

    name: str
    verb: str
    """What it was made for; `all` for any. Changes and deletes ask those for `select`, too."""
    permissive: bool
    holds: bool | None
    """None: it failed."""


@dataclass(frozen=True)
class AskResult:
    """What came of one ask."""

    state: str | None = None
    """The SQLSTATE of what failed."""
    values: frozenset[str] = frozenset()
    """Of a helper, or of rows: those that were let through."""
    there: frozenset[str] = frozenset()
    """Of rows: those that there are, whoever may see them."""
    exists: bool = True
    """Whether the table is there, and has the column."""
    privilege: bool = True
    """Of a statement: it is granted to `authenticated`, for some column at least."""
    active: bool = True
    """Row-level security applies to the user there."""
    policies: tuple[AppliedPolicy, ...] = ()
    found: int | None = None
    """How many rows there are (2: more than one), whoever may see them; None if not attempted."""
    rows: int | None = None
    """How many the user's statement read or wrote; None if it failed or was not attempted."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """Of the row, the columns that policies read."""

    @property
    def accepted(self) -> bool:
        """Whether an attempt got past privileges and policies; constraints come after those."""
        return bool(self.rows) or (self.state or "").startswith("23")

    def passes(self, verb: str) -> bool:
        """Whether row-level security lets the row through, as PostgreSQL combines policies."""
        # Whoever changes or deletes a row has to see it.
        verbs = {verb, "select"} if verb in {"update", "delete"} else {verb}
        return not self.active or all(map(self._passes, verbs))

    def _passes(self, verb: str) -> bool:
        mine = [policy for policy in self.policies if policy.verb in {verb, "all"}]
        return any(policy.holds for policy in mine if policy.permissive) and all(
            policy.holds for policy in mine if not policy.permissive
        )


@dataclass(frozen=True)
class Trace:
    """What a target knows beside rows."""

    identity: str | None
    epoch: int
    horizon: int
    users: bool | None
    """Auth has users; None where that cannot be looked up."""
    known: bool | None
    """Auth has this one; likewise."""
    scopes: tuple[tuple[str, str, str, int, int], ...]
    """Mapping, reference, value, epoch and fence of those that were read as a whole, newest
    first."""


def ask_json(ask: Ask) -> dict[str, Any]:
    """Return one ask as the doors take it."""
    return {"kind": ask.kind, **asdict(ask)}


def trace_request(
    user: str,
    scopes: Sequence[tuple[str, str, str]],
) -> dict[str, Any]:
    """Return the JSON value that `mirror_trace` takes."""
    return {"user": user, "scopes": scopes, "asks": []}


def keys_request(mapping: str, columns: Mapping[str, str] | None, most: int) -> dict[str, Any]:
    """Return the JSON value that asks `mirror_trace` for keys."""
    keys = {"mapping": mapping, "columns": columns, "most": most}
    return {"scopes": [], "asks": [], "keys": keys}


def trace_answer(answer: dict[str, Any]) -> Trace:
    """Return what `mirror_trace` answered."""
    return Trace(
        identity=answer["identity"],
        epoch=answer["epoch"],
        horizon=answer["horizon"],
        users=answer["users"],
        known=answer["known"],
        scopes=tuple(tuple(scope) for scope in answer["scopes"]),
    )


def ask_request(asks: Sequence[Ask], users: Sequence[tuple[str, Sequence[str]]]) -> dict[str, Any]:
    """Return the JSON value that `mirror_ask` takes."""
    return {
        "asks": [ask_json(ask) for ask in asks],
        "users": [{"user": user, "values": values} for user, values in users],
    }


def ask_answer(asks: Sequence[Ask], answer: dict[str, Any]) -> list[list[AskResult]]:
    """Return what `mirror_ask` answered, by user and ask."""
    return [
        [
            _told(ask, fact or {}, told)
            for ask, fact, told in zip(asks, answer["facts"], one, strict=True)
        ]
        for one in answer["answers"]
    ]


def _told(ask: Ask, fact: dict[str, Any], told: dict[str, Any]) -> AskResult:
    attempted = isinstance(ask, AskStatement) and ask.attempt and ask.verb != "insert"
    held = told.get("policies", {})
    return AskResult(
        state=told.get("state"),
        values=frozenset(told.get("values", ())),
        there=frozenset(told.get("there", ())),
        exists=fact.get("there", True),
        privilege=fact.get("privilege", True),
        active=told.get("active", True),
        policies=tuple(
            AppliedPolicy(one["name"], one["verb"], one["permissive"], held.get(one["name"]))
            for one in fact.get("policies", ())
        ),
        found=fact.get("rows") if attempted else None,
        rows=told.get("rows"),
        row=fact.get("row") or {},
    )
