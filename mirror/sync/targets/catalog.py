"""Catalog: a target's description of itself and of the tables, policies and functions around it.

The typed dictionaries have the shape of the answer of `mirror.examine()`. Names of tables and
functions include their schema and are quoted where SQL needs it; names of columns, roles and
policies are bare.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NotRequired, Self, TypedDict, cast

WITHDRAWING: Final = "withdrawing"
"""The reason of keys whose children are being removed page by page. It is no fault."""


@dataclass(frozen=True)
class WithheldKeys:
    """Keys of one mapping that are withheld for the same reason."""

    mapping: str
    reason: str
    """The class of the error, or `withdrawing`: their children are being removed page by page."""
    keys: int
    """How many."""
    seconds: float
    """Since when the oldest is withheld."""


@dataclass(frozen=True)
class Description:
    """A target's state and declarations."""

    identity: str | None
    """The primary that it mirrors; None before the first write."""
    epoch: int
    horizon: int
    """The target refuses lower fences."""
    digests: Mapping[str, str]
    """By mapping: the digest of the declaration that the target was migrated to."""
    migrations: Mapping[str, str]
    """By name: the checksums of the migrations that ran."""
    withheld: tuple[WithheldKeys, ...] = ()
    """Keys that grant nothing although their rows may be there."""
    step: int | None = None
    """The number of the last step that it took together with its primary; None: none yet."""
    token: str | None = None
    """The token of that step."""
    step_fence: int = 0
    """The fence of the primary at that step; 0: that step was in an earlier epoch."""
    clock: str | None = None
    """The server's clock; None: the target's engine is older."""
    fresh: Mapping[str, str] = field(default_factory=dict)
    """By mapping: the moment of that clock before which every recorded revocation is in force."""
    stale_seconds: Mapping[str, float] = field(default_factory=dict)
    """By mapping: how long ago that was."""
    failed_over: str | None = None
    """When a worker noticed that one of the servers had failed over, and no reconcile has ended in
    line since; None: none has."""
    verified: str | None = None
    """The start of the last reconcile that ended with both sides in line; None: never."""

    @classmethod
    def from_json(cls, answer: dict[str, Any]) -> Self:
        """Return a description from the answer of `mirror_describe`."""
        return cls(
            identity=answer["identity"],
            epoch=answer["epoch"],
            horizon=answer["horizon"],
            digests=answer["mappings"],
            migrations=answer["migrations"],
            withheld=tuple(WithheldKeys(**group) for group in answer.get("withheld", ())),
            step=answer.get("step"),
            token=answer.get("token"),
            step_fence=answer.get("step_fence", 0),
            clock=answer.get("clock"),
            fresh=answer.get("fresh", {}),
            stale_seconds=answer.get("stale_seconds", {}),
            failed_over=answer.get("failed_over"),
            verified=answer.get("verified"),
        )


class Field(TypedDict):
    """A column."""

    type: str
    """The server's name of the type, without a length."""
    enum: bool
    required: bool
    """NOT NULL."""
    filled: bool
    """It has a default or is generated."""
    generated: NotRequired[bool]
    """The server computes its values and accepts no others; absent: the target's engine is older.
    """


class ForeignKey(TypedDict):
    """A foreign key, seen from one of its two tables."""

    name: str
    table: str
    """The other table."""
    columns: list[str]
    """The columns of the table that has the foreign key."""
    on_delete: str
    """As in pg_constraint: `a` nothing, `r` restrict, `c` cascade, `n` set null, `d` default."""
    indexed: bool
    """In the table that has the foreign key, an index begins with one of its columns."""


class Obstacle(TypedDict):
    """An object of the user's on a table that can change or refuse what the mirror writes."""

    kind: str
    """`before trigger` (for each row), `trigger` (any other), `rule`, `unique index`, or a
    `check constraint`, `unique constraint` or `exclusion constraint`."""
    name: str
    """Quoted as in SQL; that of an index includes its schema."""


class Inheritance(TypedDict):
    """One table inherits from another, or is a partition of it."""

    parent: str
    child: str


class Table(TypedDict):
    """A requested table."""

    name: str
    rls: bool
    """Row-level security is enabled."""
    filtered: NotRequired[bool]
    """Row-level security applies to the role as which the mirror writes; absent as in Field."""
    published: bool
    """Its changes go into the publication `supabase_realtime`."""
    columns: dict[str, Field]
    grants: dict[str, dict[str, list[str]]]
    """By role (`anon`, `authenticated`) and privilege: the columns; `*` for a privilege on the
    whole table."""
    indexes: list[str]
    """The first columns of valid indexes that are not partial."""
    triggers: list[str]
    """The enabled triggers."""
    obstacles: NotRequired[list[Obstacle]]
    """Absent as in Field."""
    open_parts: NotRequired[list[str]]
    """Partitions and children, in all generations, that `anon` or `authenticated` may use and that
    have no row-level security or a permissive policy of their own; absent as in Field."""
    inheritance: NotRequired[list[Inheritance]]
    """The table's parents and children; absent as in Field."""
    references: list[ForeignKey]
    referenced_by: list[ForeignKey]


class Call(TypedDict):
    """A function that a policy calls and that is not the mirror's."""

    name: str
    words: list[str]
    """The names of requested tables and of their columns in the function's text, in lower case."""


class Policy(TypedDict):
    """A policy on any table."""

    name: str
    table: str
    rls: bool
    """Row-level security is enabled on its table."""
    permissive: bool
    command: str
    """As in pg_policy: `r` select, `a` insert, `w` update, `d` delete, `*` all."""
    clients: bool
    """It applies to `anon`, `authenticated` or PUBLIC."""
    conditions: list[str | None]
    """USING and WITH CHECK, as PostgreSQL prints them."""
    subqueries: bool
    reads: list[str]
    """The tables in its subqueries."""
    columns: list[list[str]]
    """[table, column] of each column that it reads, those of its own table included."""
    calls: list[Call]


class Catalog(TypedDict):
    """The answer of `mirror.examine()`."""

    version: int
    """The server's version number, such as 180004."""
    now: float
    """The server's clock, in seconds since 1970."""
    types: dict[str, str | None]
    """By requested name: the server's name of the type; None: the type does not exist."""
    mirrored: list[str | None]
    """The tables that any model writes in this database; None: a table that no longer exists."""
    tables: dict[str, Table | None]
    """By requested name; None: the table does not exist."""
    policies: list[Policy]
    functions: dict[str, list[str]]
    """The mirror's functions that `anon` or `authenticated` may execute, with the roles."""
    views: NotRequired[list[str]]
    """Views of requested tables that run with their owners' rights and that `anon` or
    `authenticated` may use; absent as in Field."""
    shared: NotRequired[list[str]]
    """The helper functions that several registries declare; absent as in Field."""
    public_buckets: NotRequired[list[str] | None]
    """The ids of Storage's public buckets; None: they cannot be read; absent as in Field."""
    leftovers: NotRequired[dict[str, list[list[str]]]]
    """By registry: what an earlier version of it declared and this one does not, each as
    [kind, name, column], as `mirror.list_leftovers` returns it; absent as in Field."""


def read_catalog(answer: Any) -> Catalog:
    """Return the answer of `mirror_examine`.

    Raises:
        TypeError: the answer has another form.
    """
    if not (isinstance(answer, dict) and answer.keys() >= Catalog.__required_keys__):
        raise TypeError
    return cast("Catalog", answer)
