"""Rules: the rules that a guard can declare for a verb, and their conditions in policies."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from textwrap import indent

from mirror.access.grants import Grants, GrantsOfKind
from mirror.access.membership import Membership
from mirror.access.permissions import Permissions
from mirror.errors import MappingError
from mirror.model.registry import Registry
from mirror.schema.freshness import is_fresh
from mirror.schema.quoting import identifier

VERBS = {"read": "select", "insert": "insert", "update": "update", "delete": "delete"}
"""The verbs that a guard declares, and the SQL statement of each."""

_WIDTH = 88


@dataclass(frozen=True)
class PolicyCondition:
    """A condition of a policy, in SQL."""

    text: str
    operator: str | None = None
    """`and` or `or`, if the text joins several conditions with it, without parentheses around them;
    None: the text needs no parentheses."""


@dataclass(frozen=True)
class Permission:
    """A rule that allows every row, if the user has the permission of this name.

    The registry's `Permissions` decides which users have it.
    """

    name: str
    """The permission's name, for example `users.update`."""


Role = str | Permission
"""A rule that allows the rows of resources in which the user has at least this role, by the guard's
membership; or a Permission."""


@dataclass(frozen=True)
class Own:
    """A rule that allows rows that the user owns, if the user also has `role`."""

    role: Role | None = None
    """The weakest role that suffices, or a Permission. None: the user needs no role."""


@dataclass(frozen=True)
class Others:
    """A rule that allows rows that the user does not own, if the user has `role`.

    Rows without an owner (NULL) are among them.
    """

    role: Role
    """The weakest role that suffices, or a Permission."""


@dataclass(frozen=True)
class Readers:
    """A rule that allows a row if the user may read the row to which its column `on` points.

    That is the mirrored row of the resource, or with `through` the parent row.
    """


Rule = Role | Own | Others | Readers
"""A rule of a guard: it decides by the signed-in user and the row."""


@dataclass(frozen=True, init=False)
class Allow:
    """Allows a verb on the rows that at least one of the rules allows."""

    rules: tuple[Rule, ...]
    """The rules, of which one is enough; in the call, positional arguments."""
    columns: tuple[str, ...]
    """The columns that the user may read or write; empty: all."""

    def __init__(self, *rules: Rule, columns: Iterable[str] = ()) -> None:
        object.__setattr__(self, "rules", rules)
        object.__setattr__(self, "columns", tuple(columns))


MembershipLike = Membership | GrantsOfKind
"""A declaration of users' roles in resources."""

Verb = Rule | Allow | None
"""The declaration for a verb: one rule, an Allow for several rules or columns; None: forbidden."""


def by_verb(*verbs: Verb) -> dict[str, Allow]:
    """Return an Allow for each verb, by name, without the verbs that are None (forbidden).

    The arguments are in the order of VERBS.
    """
    return {
        name: verb if isinstance(verb, Allow) else Allow(verb)
        for name, verb in zip(VERBS, verbs, strict=True)
        if verb is not None
    }


def membership_for(registry: Registry, via: str, owner: str) -> MembershipLike:
    """Return the Membership of the mapping called `via`; for `mapping:kind`, its Grants of a kind.

    Raises:
        MappingError: the registry declares neither (the message begins with `owner`), or the Grants
            do not have the kind.
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
    """Refuse an Allow without rules, and roles and permissions that are not declared.

    Raises:
        MappingError: the Allow is refused; the message begins with `owner`.
    """
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

    `own` is the condition that the caller owns the row. `has_role(role)` returns the condition that
    the caller has a role, `readable()` the condition of the rule `Readers`.
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
    """Return the condition that all of the given conditions hold."""
    return _joined("and", list(conditions))


def any_of(*conditions: PolicyCondition) -> PolicyCondition:
    """Return the condition that at least one of the given conditions holds."""
    return _joined("or", list(conditions))


def while_fresh(
    registry: Registry, condition: PolicyCondition, mappings: Sequence[str]
) -> PolicyCondition:
    """Return the condition, extended so that it is false while one of the mappings is too old."""
    if not mappings:
        return condition
    return all_of(condition, PolicyCondition(is_fresh(registry, mappings)))


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
    """Return the SQL that creates one policy for the role authenticated.

    `verb` is a key of VERBS. `using` applies to existing rows, `check` to new ones; an update has
    both. The next migration finds the policy by its name and drops it.
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
