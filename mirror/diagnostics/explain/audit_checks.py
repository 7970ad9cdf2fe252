"""Audit checks: what an audit asks the target, and which level of a resource allows it.

Reading is asked about rows that exist. The other statements, and rules that depend on the owner of
a row, are asked about rows that need not exist: the policies are evaluated for a row of a resource
that is the own row of the user, and for one that is not.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from mirror.access import Guard
from mirror.access.questions import AccessQuestion
from mirror.access.rules import VERBS, Readers
from mirror.diagnostics.explain.declared_rules import guard_allows, has_owners
from mirror.model.registry import Registry
from mirror.sync.targets.asking import AskHelper, AskRows, AskStatement

_NOBODY: Final = "00000000-0000-0000-0000-000000000000"
"""The owner of rows that are not the user's."""
_PAST: Final = "2000-01-01 00:00:00+00"


@dataclass(frozen=True)
class Check:
    """A question for the target, the level that a user needs for a yes, and its name in reports."""

    ask: AskHelper | AskRows
    level: str
    by: str


@dataclass(frozen=True)
class StatementCheck:
    """A statement on a row of a guarded table that belongs to a resource."""

    guard: Guard
    verb: str
    """As the guard declares it: `read`, `insert`, …"""
    own: bool
    """The row is the user's own."""
    ended: str | None = None
    """The column that says that the row has expired or was deleted; None: it has not ended."""

    @property
    def by(self) -> str:
        """Its name in reports."""
        whose = "own " if self.own else "another's " if has_owners(self.guard) else ""
        what = "row" if self.ended is None else f"row past {self.ended}"
        return f"{VERBS[self.verb]} in {self.guard.table}, {whose}{what}"

    def ask(self, user: str, resource: str) -> AskStatement:
        """Return the question; the statement is not run."""
        row = {self.guard.on: resource}
        if has_owners(self.guard):
            row[self.guard.owner] = user if self.own else _NOBODY
        if self.ended is not None:
            row[self.ended] = _PAST
        return AskStatement(*self.guard.relation, VERBS[self.verb], row, attempt=False)

    def expected(self, levels: Collection[str]) -> bool | None:
        """Return whether the guard allows it with these levels; None: they do not decide it."""
        if self.ended == self.guard.expires is not None:
            return False
        if self.ended is not None and not (self.own and self.verb == "read"):
            # Only its owner may read a deleted row.
            return False
        return guard_allows(self.guard, self.verb, levels, own=self.own)


def checks(registry: Registry, question: AccessQuestion) -> Iterator[Check]:
    """Yield a check for each helper of the access question.

    Then yield one for each table in which the user's level alone decides which rows the user may
    read.
    """
    for helper in question.helpers:
        ask = AskHelper(helper.function, helper.arguments, helper.each)
        yield Check(ask, helper.level, helper.call("…"))
    for mapping in registry:
        reads = question.reads(mapping)
        if reads is not None:
            rows = AskRows(mapping.schema, mapping.table, reads[0])
            yield Check(rows, reads[1], f"reading {mapping.table}")
    for guard in _guards(registry, question):
        level = _level_to_read(registry, question, guard)
        if level is not None:
            yield Check(_rows(registry, guard), level, f"reading {guard.table}")


def statement_checks(registry: Registry, question: AccessQuestion) -> Iterator[StatementCheck]:
    """Yield the checks of each statement that a guard with `via` declares."""
    for guard in _guards(registry, question):
        if guard.through is not None:
            continue
        for own in (True, False) if has_owners(guard) else (False,):
            for verb in guard.verbs:
                ends = [] if verb == "insert" else [guard.expires, guard.deleted]
                for ended in (None, *filter(None, ends)):
                    yield StatementCheck(guard, verb, own, ended)


def _guards(registry: Registry, question: AccessQuestion) -> Iterator[Guard]:
    """Yield the guards whose rows belong to resources of the question, also through others."""
    for guard in registry.guards:
        if isinstance(guard, Guard):
            root = guard
            while (parent := root.parent(registry)) is not None:
                root = parent
            if root.via == question.via:
                yield guard


def _level_to_read(registry: Registry, question: AccessQuestion, guard: Guard) -> str | None:
    """Return the weakest level that may read the table's rows; None: no level alone decides it."""
    allow, parent = guard.verbs.get("read"), guard.parent(registry)
    if allow is None or (allow.columns and guard.on not in allow.columns):
        return None
    order = question.levels.index
    above = None if parent is None else _level_to_read(registry, question, parent)
    if parent is not None and above is None:
        return None
    found = []
    for rule in allow.rules:
        if isinstance(rule, Readers) and above is not None:
            found.append(above)
        elif isinstance(rule, str):
            found.append(rule if above is None else max(rule, above, key=order))
        else:
            return None
    return min(found, key=order)


def _rows(registry: Registry, guard: Guard) -> AskRows:
    parent = guard.parent(registry)
    return AskRows(
        *guard.relation,
        guard.on,
        expires=guard.expires,
        deleted=guard.deleted,
        through=None if parent is None else _rows(registry, parent),
        key=guard.key,
    )
