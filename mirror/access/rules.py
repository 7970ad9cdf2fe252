"""Rules: the permissions that a guard can declare, and their conditions in policies."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from textwrap import indent
from typing import Final

from mirror.access.grants import Grants, GrantsOfKind
from mirror.access.membership import Membership
from mirror.access.permissions import Permissions
from mirror.errors import MappingError
from mirror.model.registry import Registry
from mirror.schema.quoting import identifier

VERBS = {"read": "select", "insert": "insert", "update": "update", "delete": "delete"}
"""The verbs that a guard declares, and the SQL statement of each."""

CALLER: Final = "(select auth.uid())"
"""The signed-in user; a subquery, so that PostgreSQL computes it once per statement."""

_WIDTH = 88


@dataclass(frozen=True)
class PolicyCondition:
    """A condition in SQL, and the operator (`and`, `or`) that joins its parts, if any."""

    text: str
    operator: str | None = None


@dataclass(frozen=True)
class Permission:
    """Admits callers with the permission of this name, by the registry's `Permissions`.

    It applies to all rows.
    """

    name: str


Role = str | Permission
"""Admits callers with at least this role of a membership, or with this permission."""


@dataclass(frozen=True)
class Own:
    """Admits callers to their own rows, if they have at least `role`; None: always."""

    role: Role | None = None


@dataclass(frozen=True)
class Others:
    """Admits callers with at least `role` to the rows that are not their own."""

    role: Role


@dataclass(frozen=True)
class Readers:
    """Admits callers that may read the mirrored row, or with `through` the parent row."""


Rule = Role | Own | Others | Readers
"""One condition on the caller and the row."""


@dataclass(frozen=True, init=False)
class Allow:
    """Allows a verb to callers that one of the rules admits."""

    rules: tuple[Rule, ...]
    columns: tuple[str, ...]
    """The columns that may be read or written; empty: all."""

    def __init__(self, *rules: Rule, columns: Iterable[str] = ()) -> None:
        object.__setattr__(self, "rules", rules)
        object.__setattr__(self, "columns", tuple(columns))


MembershipLike = Membership | GrantsOfKind
"""A declaration of users' roles in resources."""

Verb = Rule | Allow | None
"""The declaration for a verb: one rule, an Allow for several rules or columns; None: forbidden."""


def by_verb(*verbs: Verb) -> dict[str, Allow]:
    """Return an Allow for each verb that is allowed; `verbs` come in the order of VERBS."""
    return {
        name: verb if isinstance(verb, Allow) else Allow(verb)
        for name, verb in zip(VERBS, verbs, strict=True)
        if verb is not None
    }


def membership_for(registry: Registry, via: str, owner: str) -> MembershipLike:
    """Return the membership over a mapping, or over one kind in it (`mapping:kind`).

    Raises:
        MappingError: the registry declares none; the message begins with `owner`.
    """
    name, _, kind = via.partition(":")
    for access in registry.access:
        if isinstance(access, Membership) and access.mapping == via:
            return access
        if isinstance(access, Grants) and access.mapping == name:
            return access.of(kind)
    raise MappingError(
        f"{owner}: registry {registry.name!r} has no Membership of mapping {via!r}, nor Grants; "
        f"add them to the registry's access."
    )


def permission_condition(registry: Registry, permission: Permission, owner: str) -> PolicyCondition:
    """Return the condition that the caller has a permission.

    Raises:
        MappingError: the registry declares no Permissions; the message begins with `owner`.
    """
    for access in registry.access:
        if isinstance(access, Permissions):
            return PolicyCondition(access.has(permission.name))
    raise MappingError(
        f"{owner}: registry {registry.name!r} has no Permissions; add them to the registry's "
        f"access."
    )


def check_roles(
    registry: Registry, membership: MembershipLike | None, verb: Allow, owner: str
) -> None:
    """Refuse an empty Allow and roles that the membership does not declare."""
    for rule in verb.rules:
        if isinstance(rule, Readers):
            continue
        role = rule.role if isinstance(rule, Own | Others) else rule
        if isinstance(role, Permission):
            permission_condition(registry, role, owner)
        elif role is not None and membership is None:
            raise MappingError(
                f"{owner}: {role!r} is a membership's role; say `via` which, and `on` what."
            )
        elif role is not None and membership is not None and role not in membership.levels:
            raise MappingError(
                f"{owner}: {role!r} is not one of the roles of {membership.mapping!r} "
                f"({', '.join(membership.levels)}); check the spelling."
            )
    if not verb.rules:
        raise MappingError(f"{owner}: an Allow without rules; use None to forbid the verb.")


def rules_condition(
    verb: Allow,
    own: PolicyCondition,
    has_role: Callable[[Role], PolicyCondition],
    readable: Callable[[], PolicyCondition],
) -> PolicyCondition:
    """Return the condition that at least one of the rules holds.

    `own` is true of the caller's rows. `has_role` returns the condition that the caller has a role;
    `readable` returns the condition of `Readers`.
    """
    conditions = []
    for rule in verb.rules:
        if isinstance(rule, Readers):
            conditions.append(readable())
        elif isinstance(rule, Role):
            conditions.append(has_role(rule))
        elif isinstance(rule, Others):
            # A row without an owner (NULL) is not the caller's own either.
            not_own = PolicyCondition(f"({own.text}) is not true")
            conditions.append(all_of(not_own, has_role(rule.role)))
        elif rule.role is None:
            conditions.append(own)
        else:
            conditions.append(all_of(own, has_role(rule.role)))
    return any_of(*conditions)


def all_of(*conditions: PolicyCondition) -> PolicyCondition:
    """Return the condition that all of them hold."""
    return _joined("and", list(conditions))


def any_of(*conditions: PolicyCondition) -> PolicyCondition:
    """Return the condition that at least one of them holds."""
    return _joined("or", list(conditions))


def _joined(operator: str, conditions: list[PolicyCondition]) -> PolicyCondition:
    if len(conditions) == 1:
        return conditions[0]
    operands = [
        f"({_on_own_lines(one)})" if one.operator not in {None, operator} else one.text
        for one in conditions
    ]
    line = f" {operator} ".join(operands)
    if "\n" not in line and len(line) <= _WIDTH:
        return PolicyCondition(line, operator)
    return PolicyCondition(f"\n{operator} ".join(operands), operator)


def policy(
    registry: Registry, table: str, verb: str, using: PolicyCondition, check: PolicyCondition
) -> str:
    """Return one policy for authenticated, under the name by which the next migration drops it.

    `using` applies to existing rows, `check` to new ones; an update has both.
    """
    parts = []
    if verb != "insert":
        parts.append(f"using ({_on_own_lines(using)})")
    if verb in {"insert", "update"}:
        parts.append(f"with check ({_on_own_lines(check)})")
    return (
        f"create policy {policy_name(registry, verb)} on {table} for {VERBS[verb]}"
        f" to authenticated\n" + "\n".join(parts) + ";"
    )


def _on_own_lines(condition: PolicyCondition) -> str:
    text = condition.text
    return f"\n{indent(text, '  ')}\n" if "\n" in text else text


def policy_name(registry: Registry, verb: str) -> str:
    """Return the name of a registry's policy for a verb; it is the same on every table."""
    return identifier(f"mirror_{registry.name}_{verb}")
