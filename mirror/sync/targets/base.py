"""Target: what a drain needs of the database it writes, whatever the transport.

The rules themselves (fences, scopes, parents, horizon) are SQL functions in the target; an
adapter only carries requests to them.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, field
from typing import Any, Protocol

from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.sync.row_queries import Row
from mirror.sync.snapshot import Stamp
from mirror.sync.targets.asking import Ask, AskResult, Trace
from mirror.sync.targets.catalog import Catalog
from mirror.sync.targets.reading import (
    Buckets,
    Digest,
    Hashing,
    KeyRange,
    KnownRow,
    Listing,
    SurveyRequest,
)


@dataclass
class Section:
    """What one call writes for one mapping."""

    mapping: Mapping
    rows: list[Row] = field(default_factory=list)
    """Rows as they should be."""
    with_children: list[Row] = field(default_factory=list)
    """The same, of parents whose children are in this call too."""
    deleted: list[Key] = field(default_factory=list)
    """Keys that have no row."""


@dataclass
class Answer:
    """What became of one section. Keys in none of its lists of refused ones were written."""

    stale: list[Key] = field(default_factory=list)
    """Refused: something newer than this read is known."""
    newest_fence: int | None = None
    """The newest fence among what made them stale; None where another writer was just faster."""
    orphans: list[Key] = field(default_factory=list)
    """Skipped: a parent's row is missing."""
    new_parents: list[Key] = field(default_factory=list)
    """Skipped: parents that are not there yet, to be sent again along with their children."""
    retained: dict[str, list[Key]] = field(default_factory=dict)
    """By mapping: rows that somebody's foreign key holds back, emptied but for their key."""


Answers = dict[str, Answer]
"""What became of one call, by mapping name."""


@dataclass(frozen=True)
class ScopePage:
    """A request for the keys known under some values of a reference."""

    mapping: Mapping
    reference: str
    values: tuple[str, ...]
    after: Key = ()


@dataclass(frozen=True)
class Description:
    """What a target says of itself."""

    identity: str | None
    """The primary it mirrors; None before the first write."""
    epoch: int
    horizon: int
    """Fences below it are refused."""
    digests: MappingABC[str, str]
    """By mapping: the declaration it was migrated to."""
    migrations: MappingABC[str, str]
    """Checksums of the migrations that ran, by name."""


class TooOld(Exception):
    """Raised when a read is older than the target's horizon; holds that fence."""

    def __init__(self, horizon: int) -> None:
        super().__init__(horizon)
        self.horizon = horizon


class Target(Protocol):
    """A database that authorises."""

    def apply(self, stamp: Stamp, sections: Sequence[Section]) -> Answers:
        """Write all sections or none, in one call.

        Raises:
            TooOld: the stamp is older than the horizon.
        """
        ...

    def open_scopes(
        self, stamp: Stamp, pages: Sequence[ScopePage], *, limit: int
    ) -> list[list[Key]]:
        """Note that these scopes are read at this stamp; return at most `limit` keys for each.

        Raises:
            TooOld: the stamp is older than the horizon.
        """
        ...

    def digest(
        self, mapping: Mapping, hashing: Hashing, ranges: Sequence[KeyRange], *, limit: int
    ) -> list[Digest]:
        """Say what lies in each range, at most `limit` rows of it."""
        ...

    def listing(
        self, mapping: Mapping, hashing: Hashing, ranges: Sequence[KeyRange], *, limit: int
    ) -> list[Listing]:
        """Say it row by row."""
        ...

    def probe(self, mapping: Mapping, hashing: Hashing) -> int:
        """Return the hash of the row that both sides of a comparison know."""
        ...

    def buckets(self, mapping: Mapping, hashing: Hashing, look: SurveyRequest) -> Buckets:
        """Say what lies in each bucket of a part of the rows.

        XORed, the parts' sums are the whole's.
        """
        ...

    def members(self, mapping: Mapping, hashing: Hashing, look: SurveyRequest) -> dict[Key, int]:
        """Say it key by key; a key's visible row and its ledger row may be of two parts."""
        ...

    def rows(self, mapping: Mapping, keys: Sequence[Key]) -> dict[Key, KnownRow]:
        """Say everything that is known of each of these keys."""
        ...

    def trace(self, user: str, scopes: Sequence[tuple[str, str, str]]) -> Trace:
        """Say what is known beside rows: the source, these scopes (mapping, reference, value)."""
        ...

    def keys(
        self, mapping: Mapping, columns: MappingABC[str, str] | None, *, most: int
    ) -> list[Key]:
        """Return the keys of rows with these values; None: those that were deleted last."""
        ...

    def ask(
        self, asks: Sequence[Ask], users: Sequence[tuple[str, Sequence[str]]]
    ) -> list[list[AskResult]]:
        """Ask as each of these users, about their values; what that writes is undone.

        Returns, by user and ask, what came of it.

        Raises:
            WrongKey: whoever is connected may not act as a user.
            UsageError: a row names what its table does not have.
        """
        ...

    def expired(self, mapping: Mapping, *, after: Key, limit: int) -> list[Key]:
        """Return at most `limit` keys of rows that have expired, in order, those after one."""
        ...

    def purge(self, days: int) -> int:
        """Forget tombstones older than that; return how many."""
        ...

    def rebase(self, identity: str, epoch: int) -> None:
        """Take `identity` as the source from now on."""
        ...

    def describe(self) -> Description:
        """Say which source, epoch and declarations this target has."""
        ...

    def examine(self, tables: Iterable[str], types: Iterable[str]) -> Catalog:
        """Say what its catalogs hold: of these tables, and what these types are called there."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


def apply_request(stamp: Stamp, sections: Sequence[Section]) -> dict[str, Any]:
    """Return the JSON value that `mirror_apply` takes."""
    return _request(
        stamp,
        [
            {
                "mapping": section.mapping.name,
                "digest": section.mapping.digest,
                "rows": [*section.rows, *((*row, True) for row in section.with_children)],
                "gone": section.deleted,
            }
            for section in sections
        ],
    )


def apply_answer(answer: dict[str, Any]) -> Answers:
    """Return what `mirror_apply` answered, or raise TooOld."""
    if answer["horizon"] is not None:
        raise TooOld(answer["horizon"])
    return {
        name: Answer(
            stale=_keys(part["stale"]),
            newest_fence=part["ahead"],
            orphans=_keys(part["orphans"]),
            new_parents=_keys(part.get("appearing", [])),
            retained={kind: _keys(keys) for kind, keys in part.get("retained", {}).items()},
        )
        for name, part in answer["mappings"].items()
    }


def scopes_request(stamp: Stamp, pages: Sequence[ScopePage], limit: int) -> dict[str, Any]:
    """Return the JSON value that `mirror_open_scopes` takes."""
    sections = [
        {
            "mapping": page.mapping.name,
            "digest": page.mapping.digest,
            "reference": page.reference,
            "values": page.values,
            "after": page.after,
        }
        for page in pages
    ]
    return _request(stamp, sections) | {"limit": limit}


def scopes_answer(answer: dict[str, Any]) -> list[list[Key]]:
    """Return what `mirror_open_scopes` answered, or raise TooOld."""
    if answer["horizon"] is not None:
        raise TooOld(answer["horizon"])
    return [_keys(keys) for keys in answer["sections"]]


def description(answer: dict[str, Any]) -> Description:
    """Return what `mirror_describe` answered."""
    return Description(
        identity=answer["identity"],
        epoch=answer["epoch"],
        horizon=answer["horizon"],
        digests=answer["mappings"],
        migrations=answer["migrations"],
    )


def _request(stamp: Stamp, sections: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "identity": stamp.identity,
        "epoch": stamp.epoch,
        "fence": stamp.fence,
        "sections": sections,
    }


def _keys(values: list[list[str]]) -> list[Key]:
    return [tuple(value) for value in values]
