"""The target's policies: whether they are there, whose they are, and what they cost."""

import re
from collections.abc import Iterator
from functools import cached_property

from mirror.diagnostics.doctor.expected import ExpectedTarget
from mirror.diagnostics.doctor.findings import Finding, finding
from mirror.schema.quoting import identifier
from mirror.sync.targets.catalog import Policy

# What asks who the caller is, or what is theirs, with nothing of the row: a helper that is given
# literals alone. It is the same for every row of a statement.
_CALL = re.compile(
    r"(auth\.(?:uid|jwt|role|email)|mirror\.\w+)\((?:'(?:[^']|'')*'(?:::\w+)?(?:, )?)*\)"
)
_DIRECT = re.compile(r"\(\s*SELECT\s+$", re.IGNORECASE)
_SELECT = re.compile(r"\s*SELECT\b", re.IGNORECASE)


class Policies:
    """What a target's policies mean for what is mirrored and guarded."""

    def __init__(self, declared: ExpectedTarget) -> None:
        self.declared = declared

    @cached_property
    def _all(self) -> list[Policy]:
        """Those that are for clients; nobody else's requests are judged by any."""
        return [policy for policy in self.declared.catalog["policies"] if policy["clients"]]

    @cached_property
    def _ours(self) -> list[Policy]:
        """Those on our tables, and those of others that read them or call the helpers."""
        exclusive = {table.name for table in self.declared.tables if table.exclusive}
        mirrored = set(self.declared.catalog["mirrored"])
        return [
            policy
            for policy in self._all
            if policy["table"] in exclusive
            or (policy["table"], policy["name"]) in self._declared
            or mirrored.intersection(policy["reads"])
            or any("mirror." in (condition or "") for condition in policy["conditions"])
        ]

    @cached_property
    def _declared(self) -> set[tuple[str, str]]:
        return {(table.name, name) for table in self.declared.tables for name in table.policies}

    def check(self) -> Iterator[Finding]:
        """Say what is wrong with them."""
        yield from self._check_enabled()
        yield from self._check_names()
        yield from self._check_status()
        for policy in self._ours:
            call = _per_row(policy)
            if call is not None:
                what = f"{_called(policy)} calls {call} for each row"
                yield finding("policy-unwrapped", what, call=call)
        yield from self._check_circles()

    def _check_enabled(self) -> Iterator[Finding]:
        for expected in self.declared.tables:
            if not expected.table["rls"]:
                what = f"{expected.name}: row-level security is off, so no policy counts"
                yield finding("rls-off", what, table=expected.name)

    def _check_names(self) -> Iterator[Finding]:
        for expected in self.declared.tables:
            there = [policy for policy in self._all if policy["table"] == expected.name]
            for name in sorted(expected.policies.difference(p["name"] for p in there)):
                yield finding("policy-missing", f"{expected.name} has no policy {name}")
            for policy in there if expected.exclusive else ():
                if policy["permissive"] and policy["name"] not in expected.policies:
                    what = f"{_called(policy)} is permissive, and not declared"
                    names = {"policy": identifier(policy["name"]), "table": expected.name}
                    yield finding("policy-permissive", what, **names)

    def _check_status(self) -> Iterator[Finding]:
        """Look for policies that read memberships without what says whether they count."""
        for mapping, expected in self.declared.mirrored():
            if expected is None:
                continue
            needed = [*mapping.active, *([mapping.expires] if mapping.expires else [])]
            for policy in self._all:
                if (policy["table"], policy["name"]) in self._declared:
                    continue
                for column in needed:
                    through = _ignoring(policy, expected.name, mapping.table, column)
                    if through is not None:
                        what = f"{_called(policy)} reads {expected.name}{through} without {column}"
                        yield finding("policy-ignores-status", what, column=column)

    def _check_circles(self) -> Iterator[Finding]:
        """Look for what PostgreSQL refuses as infinite recursion.

        It follows the subqueries of policies, as long as those have subqueries of their own, and
        refuses a table that it is already inside of. Subqueries are judged by SELECT's policies.
        """
        ours = {policy["table"] for policy in self._ours}
        told: set[frozenset[str]] = set()
        for policy in self._all:
            circle = self._circle(policy["table"], policy["command"], ())
            if circle and ours.intersection(circle) and frozenset(circle) not in told:
                told.add(frozenset(circle))
                what = f"policies read in a circle: {' → '.join(circle)}"
                yield finding("policy-recursive", what)

    def _circle(self, table: str, command: str, inside: tuple[str, ...]) -> tuple[str, ...]:
        """Return the tables of a circle that reading `table` inside others runs into, if any."""
        policies = [
            policy
            for policy in self._all
            if policy["table"] == table
            and policy["rls"]
            and (command == "*" or policy["command"] in {command, "*"})
        ]
        if not any(policy["subqueries"] for policy in policies):
            return ()
        if table in inside:
            return (*inside[inside.index(table) :], table)
        for policy in policies:
            for read in policy["reads"]:
                circle = self._circle(read, "r", (*inside, table))
                if circle:
                    return circle
        return ()


def check_grants(declared: ExpectedTarget) -> Iterator[Finding]:
    """Say who may do more, or less, than is declared."""
    for expected in declared.tables:
        if not expected.exclusive:
            continue
        every = list(expected.table["columns"])
        wanted = {
            privilege: set(columns or every) for privilege, columns in expected.grants.items()
        }
        if "delete" in wanted:
            wanted["delete"] = {"*"}
        for role, granted in expected.table["grants"].items():
            allowed = wanted if role == "authenticated" else {}
            for privilege, columns in granted.items():
                excess = [c for c in columns if c not in allowed.get(privilege, set())]
                if excess:
                    what = f"{role} may {_right(privilege, excess, every)} {expected.name}"
                    names = {"role": role, "privilege": privilege, "table": expected.name}
                    yield finding("grant-excess", what, **names)
        have = expected.table["grants"].get("authenticated", {})
        for privilege, needed in wanted.items():
            lacking = [c for c in (*every, "*") if c in needed.difference(have.get(privilege, ()))]
            if lacking:
                right = _right(privilege, lacking, every)
                what = f"authenticated may not {right} {expected.name}"
                yield finding("grant-missing", what, privilege=right, table=expected.name)


def check_functions(declared: ExpectedTarget) -> Iterator[Finding]:
    """Say which of our functions somebody may execute who should not."""
    for function, roles in declared.catalog["functions"].items():
        name = function.partition("(")[0]
        if name.startswith("mirror_"):
            name = f"public.{name}"
        if name not in declared.functions:
            continue  # Another model's: it knows who may.
        for role in roles:
            if role != "authenticated" or not declared.functions[name]:
                what = f"{role} may execute {function}"
                yield finding("function-executable", what, function=function, role=role)


def _right(privilege: str, columns: list[str], every: list[str]) -> str:
    """Return a privilege as GRANT has it, with its columns where those are not all."""
    if columns in (["*"], every):
        return privilege
    return f"{privilege} ({', '.join(map(identifier, columns))})"


def _called(policy: Policy) -> str:
    return f"policy {identifier(policy['name'])} on {policy['table']}"


def _ignoring(policy: Policy, table: str, bare: str, column: str) -> str | None:
    """Return by what way a policy reads a table without a column; None: it does not."""
    if table in policy["reads"] and [table, column] not in policy["columns"]:
        return ""
    for call in policy["calls"]:
        if bare.lower() in call["words"] and column.lower() not in call["words"]:
            return f", through {call['name']},"
    return None


def _per_row(policy: Policy) -> str | None:
    """Return a call of a policy that is computed for each row, if there is one."""
    for condition in policy["conditions"]:
        for call in _CALL.finditer(condition or ""):
            before = (condition or "")[: call.start()]
            # What says who the caller is has to stand alone in its subquery; a set of what is
            # theirs may be taken apart there.
            alone = _DIRECT.search(before) is not None
            if not alone and (call[1].startswith("auth.") or not _in_subquery(before)):
                return f"{call[1]}()"
    return None


def _in_subquery(before: str) -> bool:
    """Return whether a subquery is open where this text ends."""
    opened: list[bool] = []
    for position, letter in enumerate(before):
        if letter == "(":
            opened.append(_SELECT.match(before, position + 1) is not None)
        elif letter == ")" and opened:
            opened.pop()
    return any(opened)
