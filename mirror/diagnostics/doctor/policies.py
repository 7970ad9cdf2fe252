"""Policies: checks the policies, privileges and functions of the target."""

import re
from collections.abc import Iterator
from functools import cached_property

from mirror.diagnostics.doctor.expected import ExpectedTarget
from mirror.diagnostics.doctor.findings import Finding, finding
from mirror.schema.quoting import identifier, literal
from mirror.sync.targets.catalog import Policy

# A call that depends on the caller and not on the row: its arguments are literals; the first may be
# an array of them. It has the same result for every row of a statement.
_LITERALS = r"(?:'(?:[^']|'')*'(?:::\w+)?(?:, )?)*"
_CALL = re.compile(
    r"(auth\.(?:uid|jwt|role|email)|mirror\.\w+)"
    rf"\((?:ARRAY\[{_LITERALS}\](?:, )?)?{_LITERALS}\)"
)
_DIRECT = re.compile(r"\(\s*SELECT\s+$", re.IGNORECASE)
_SELECT = re.compile(r"\s*SELECT\b", re.IGNORECASE)

# In tables that Supabase shares among all uses: the columns by which a policy is about some rows.
_TELLS_APART = {
    "realtime.messages": {"topic"},
    "storage.objects": {"bucket_id", "name", "path_tokens", "owner", "owner_id"},
}


class PolicyChecks:
    """Checks a target's policies as far as they concern mirrored and guarded tables."""

    def __init__(self, target: ExpectedTarget) -> None:
        self.target = target

    @cached_property
    def _client_policies(self) -> list[Policy]:
        """The policies for anon, authenticated or PUBLIC; no others apply to clients' requests."""
        return [policy for policy in self.target.catalog["policies"] if policy["clients"]]

    @cached_property
    def _relevant_policies(self) -> list[Policy]:
        """Policies on the declared tables, and others that read those or call the helpers."""
        exclusive = {table.name for table in self.target.tables if table.exclusive}
        mirrored = set(self.target.catalog["mirrored"])
        return [
            policy
            for policy in self._client_policies
            if policy["table"] in exclusive
            or (policy["table"], policy["name"]) in self._declared
            or mirrored.intersection(policy["reads"])
            or any("mirror." in (condition or "") for condition in policy["conditions"])
        ]

    @cached_property
    def _declared(self) -> set[tuple[str, str]]:
        """(table, policy) of each declared policy."""
        return {(table.name, name) for table in self.target.tables for name in table.policies}

    def check(self) -> Iterator[Finding]:
        """Yield the findings of all checks of policies."""
        yield from self._check_enabled()
        yield from self._check_names()
        yield from self._check_status()
        for policy in self._relevant_policies:
            call = _call_per_row(policy)
            if call is not None:
                message = f"{_description(policy)} calls {call} for each row"
                yield finding("policy-unwrapped", message, call=call)
        yield from self._check_circles()

    def _check_enabled(self) -> Iterator[Finding]:
        for table in self.target.tables:
            if not table.actual["rls"]:
                message = f"{table.name}: row-level security is off, so its policies have no effect"
                yield finding("rls-off", message, table=table.name)

    def _check_names(self) -> Iterator[Finding]:
        """Yield a finding for each declared policy that is missing.

        Also one for each permissive policy of a mirrored or guarded table that is not declared.
        """
        for table in self.target.tables:
            actual = [policy for policy in self._client_policies if policy["table"] == table.name]
            for name in sorted(table.policies.difference(policy["name"] for policy in actual)):
                yield finding("policy-missing", f"{table.name} has no policy {name}")
            for policy in actual:
                if not policy["permissive"] or policy["name"] in table.policies:
                    continue
                if table.exclusive or _covers_every_row(policy):
                    message = f"{_description(policy)} is permissive, and not declared"
                    names = {"policy": identifier(policy["name"]), "table": table.name}
                    yield finding("policy-permissive", message, **names)

    def _check_status(self) -> Iterator[Finding]:
        """Yield a finding for each policy that reads a mirrored table without its status.

        The status are the columns in the mapping's `active` and `expires`: they say whether a row
        counts. Declared policies are not checked.
        """
        for mapping, table in self.target.mirrored():
            if table is None:
                continue
            needed = [*mapping.active, *([mapping.expires] if mapping.expires else [])]
            for policy in self._client_policies:
                if (policy["table"], policy["name"]) in self._declared:
                    continue
                for column in needed:
                    through = _reads_without(policy, table.name, mapping.table, column)
                    if through is not None:
                        message = (
                            f"{_description(policy)} reads {table.name}{through} without {column}"
                        )
                        yield finding("policy-ignores-status", message, column=column)

    def _check_circles(self) -> Iterator[Finding]:
        """Yield a finding for each circle of tables that PostgreSQL refuses as infinite recursion.

        PostgreSQL expands the subqueries of a table's policies, applies the SELECT policies of the
        tables in them, and so on. It refuses a table that it is already expanding.
        """
        relevant = {policy["table"] for policy in self._relevant_policies}
        reported: set[frozenset[str]] = set()
        for policy in self._client_policies:
            circle = self._circle(policy["table"], policy["command"], ())
            if circle and relevant.intersection(circle) and frozenset(circle) not in reported:
                reported.add(frozenset(circle))
                message = f"policies read tables in a circle: {' → '.join(circle)}"
                yield finding("policy-recursive", message)

    def _circle(self, table: str, command: str, outer: tuple[str, ...]) -> tuple[str, ...]:
        """Return the tables of a circle, the first one also at the end; empty: there is none.

        `outer` are the tables that PostgreSQL is expanding already when it meets `table`.
        """
        policies = [
            policy
            for policy in self._client_policies
            if policy["table"] == table
            and policy["rls"]
            and (command == "*" or policy["command"] in {command, "*"})
        ]
        if not any(policy["subqueries"] for policy in policies):
            return ()
        if table in outer:
            return (*outer[outer.index(table) :], table)
        for policy in policies:
            for read in policy["reads"]:
                circle = self._circle(read, "r", (*outer, table))
                if circle:
                    return circle
        return ()


def _covers_every_row(policy: Policy) -> bool:
    """Return whether a policy of Realtime or Storage is about all topics or all files."""
    named = _TELLS_APART.get(policy["table"], set())
    return not (
        any(table == policy["table"] and column in named for table, column in policy["columns"])
        or any("topic()" in (condition or "") for condition in policy["conditions"])
    )


def check_grants(target: ExpectedTarget) -> Iterator[Finding]:
    """Yield a finding for each privilege of anon or authenticated that is not as declared."""
    for table in target.tables:
        if not table.exclusive:
            continue
        every = list(table.actual["columns"])
        declared = {privilege: set(columns or every) for privilege, columns in table.grants.items()}
        if "delete" in declared:
            declared["delete"] = {"*"}
        for role, granted in table.actual["grants"].items():
            allowed = declared if role == "authenticated" else {}
            for privilege, columns in granted.items():
                excess = [c for c in columns if c not in allowed.get(privilege, set())]
                if excess:
                    message = f"{role} may {_grant_text(privilege, excess, every)} {table.name}"
                    names = {"role": role, "privilege": privilege, "table": table.name}
                    yield finding("grant-excess", message, **names)
        granted = table.actual["grants"].get("authenticated", {})
        for privilege, needed in declared.items():
            missing = [
                c for c in (*every, "*") if c in needed.difference(granted.get(privilege, ()))
            ]
            if missing:
                text = _grant_text(privilege, missing, every)
                message = f"authenticated may not {text} {table.name}"
                yield finding("grant-missing", message, privilege=text, table=table.name)


def check_buckets(target: ExpectedTarget) -> Iterator[Finding]:
    """Yield a finding for each guarded bucket that is public."""
    public = target.catalog.get("public_buckets") or []
    for bucket in sorted(target.buckets.intersection(public)):
        names = {"bucket": literal(bucket)}
        yield finding("bucket-public", f"bucket {bucket} of a guarded folder is public", **names)


def check_bypasses(target: ExpectedTarget) -> Iterator[Finding]:
    """Yield a finding for each view, partition or child table that leads past the policies."""
    for table in target.tables:
        if table.name in target.catalog["mirrored"]:
            continue  # It must have no parts at all, and another check says so.
        for part in table.actual.get("open_parts", []):
            message = f"{part}, a part of {table.name}, answers clients by itself"
            yield finding("part-open", message, part=part)
    for view in target.catalog.get("views", []):
        yield finding("view-open", f"view {view} shows mirrored or guarded rows", view=view)


def check_functions(target: ExpectedTarget) -> Iterator[Finding]:
    """Yield a finding for each function of the mirror that a client's role must not execute.

    The roles are anon, and authenticated unless the declarations grant it the function. Yield
    another one for each function that another model declares, too.
    """
    for function, roles in target.catalog["functions"].items():
        name = function.partition("(")[0]
        if name.startswith("mirror_"):
            name = f"public.{name}"
        if name not in target.functions:
            continue  # It belongs to another model in the same target.
        for role in roles:
            if role != "authenticated" or not target.functions[name]:
                message = f"{role} may execute {function}"
                yield finding("function-executable", message, function=function, role=role)
    for function in target.catalog.get("shared", []):
        if function.partition("(")[0] in target.functions:
            yield finding("function-shared", f"another model declares {function}, too")


def _grant_text(privilege: str, columns: list[str], every: list[str]) -> str:
    """Return a privilege as in GRANT, with its columns unless those are all of the table's."""
    if columns in (["*"], every):
        return privilege
    return f"{privilege} ({', '.join(map(identifier, columns))})"


def _description(policy: Policy) -> str:
    return f"policy {identifier(policy['name'])} on {policy['table']}"


def _reads_without(policy: Policy, table: str, bare: str, column: str) -> str | None:
    """Return how a policy reads a table without reading the column; None: it does not do so.

    The empty string means that it reads the table itself. Otherwise the text names the function
    that it calls. `bare` is the table's name without its schema.
    """
    if table in policy["reads"] and [table, column] not in policy["columns"]:
        return ""
    for call in policy["calls"]:
        if bare.lower() in call["words"] and column.lower() not in call["words"]:
            return f", through {call['name']},"
    return None


def _call_per_row(policy: Policy) -> str | None:
    """Return a call in a policy, such as `auth.uid()`, that runs for each row without need.

    One call would do for all rows of a statement. None: the policy has no such call.
    """
    for condition in policy["conditions"]:
        for call in _CALL.finditer(condition or ""):
            before = (condition or "")[: call.start()]
            # auth.uid() and the like are evaluated once only as `(select auth.uid())`; a helper's
            # array may stand deeper in its subquery, where it is unnested.
            direct = _DIRECT.search(before) is not None
            if not direct and (call[1].startswith("auth.") or not _in_subquery(before)):
                return f"{call[1]}()"
    return None


def _in_subquery(before: str) -> bool:
    """Return whether a subquery is still open at the end of this text."""
    is_select: list[bool] = []
    for position, letter in enumerate(before):
        if letter == "(":
            is_select.append(_SELECT.match(before, position + 1) is not None)
        elif letter == ")" and is_select:
            is_select.pop()
    return any(is_select)
