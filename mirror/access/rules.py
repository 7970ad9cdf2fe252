"""Rules: what a guard lets people do, and what that is as a policy's condition."""

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
"""What a guard declares, and the statement that it is about."""

CALLER: Final = "(select auth.uid())"
"""The signed-in user; in a subquery, it is computed once per statement."""

_WIDTH = 88


@dataclass(frozen=True)
class PolicyCondition:
    """A condition in SQL, and the word that joins its parts, if any."""

    text: str
    word: str | None = None


@dataclass(frozen=True)
class Permission:
    """Whoever has the permission of this name, by the registry's `Permissions`, on any row."""

    name: str


Role = str | Permission
"""A membership's role, whoever has at least that one; or a permission."""


@dataclass(frozen=True)
class Own:
    """The caller's own rows, while the caller has at least `role`; None: in any case."""

    role: Role | None = None


@dataclass(frozen=True)
class Others:
    """The rows that are not the caller's own, while the caller has at least `role`."""

    role: Role


@dataclass(frozen=True)
class Readers:
    """Whoever may read what the row belongs to: the mirrored row, or with `through` the parent."""


Rule = Role | Own | Others | Readers
"""Whoever has a role; one's own rows; everybody else's; or readers."""


@dataclass(frozen=True, init=False)
class Allow:
    """Whoever one of the rules admits may do it."""

    rules: tuple[Rule, ...]
    columns: tuple[str, ...]
    """The columns that may be read or written; none named: all of them."""

    def __init__(self, *rules: Rule, columns: Iterable[str] = ()) -> None:
        object.__setattr__(self, "rules", rules)
        object.__setattr__(self, "columns", tuple(columns))


MembershipLike = Membership | GrantsOfKind
"""What says who has which role where."""

Verb = Rule | Allow | None
"""What a verb takes: one rule, several with or without columns, or None: nobody."""


def by_verb(*verbs: Verb) -> dict[str, Allow]:
    """Return rules in their long form, in the order of VERBS, without those that nobody passes."""
    return {
        name: verb if isinstance(verb, Allow) else Allow(verb)
        for name, verb in zip(VERBS, verbs, strict=True)
        if verb is not None
    }


def membership_over(registry: Registry, via: str, who: str) -> MembershipLike:
    """Return what decides about the resources of a mapping, or of one kind in it (`mapping:kind`).

    Raises:
        MappingError: the registry declares nothing of that name; `who` asked.
    """
    name, _, kind = via.partition(":")
    for access in registry.access:
        if isinstance(access, Membership) and access.mapping == via:
            return access
        if isinstance(access, Grants) and access.mapping == name:
            return access.of(kind)
    raise MappingError(
        f"{who}: registry {registry.name!r} has no Membership of mapping {via!r}, nor Grants; add "
        f"them to the registry's access."
    )


def permitted(registry: Registry, permission: Permission, who: str) -> PolicyCondition:
    """Return the condition that the caller has a permission.

    Raises:
        MappingError: the registry declares no Permissions; `who` asked.
    """
    for access in registry.access:
        if isinstance(access, Permissions):
            return PolicyCondition(access.has(permission.name))
    raise MappingError(
        f"{who}: registry {registry.name!r} has no Permissions; add them to the registry's access."
    )


def check_roles(
    registry: Registry, membership: MembershipLike | None, verb: Allow, who: str
) -> None:
    """Refuse a role that the membership does not know: it would be nobody's, or everybody's."""
    for rule in verb.rules:
        if isinstance(rule, Readers):
            continue
        role = rule.role if isinstance(rule, Own | Others) else rule
        if isinstance(role, Permission):
            permitted(registry, role, who)
        elif role is not None and membership is None:
            raise MappingError(
                f"{who}: {role!r} is a membership's role; say `via` which, and `on` what."
            )
        elif role is not None and membership is not None and role not in membership.levels:
            raise MappingError(
                f"{who}: {role!r} is none of the roles of {membership.mapping!r} "
                f"({', '.join(membership.levels)}); check the spelling."
            )
    if not verb.rules:
        raise MappingError(f"{who}: an Allow without rules; say None where nobody may.")


def either(
    verb: Allow,
    own: PolicyCondition,
    reaches: Callable[[Role], PolicyCondition],
    readable: Callable[[], PolicyCondition],
) -> PolicyCondition:
    """Return the condition that one of the rules holds.

    `own` is true of the caller's rows; `reaches` returns what is true where the caller has a role,
    `readable` what is true where the caller may read what the row belongs to.
    """
    found = []
    for rule in verb.rules:
        if isinstance(rule, Readers):
            found.append(readable())
        elif isinstance(rule, Role):
            found.append(reaches(rule))
        elif isinstance(rule, Others):
            # A row whose owner is NULL is not one's own either.
            found.append(both(PolicyCondition(f"({own.text}) is not true"), reaches(rule.role)))
        elif rule.role is None:
            found.append(own)
        else:
            found.append(both(own, reaches(rule.role)))
    return one_of(*found)


def both(*conditions: PolicyCondition) -> PolicyCondition:
    """Return the condition that each of them holds."""
    return _joined("and", list(conditions))


def one_of(*conditions: PolicyCondition) -> PolicyCondition:
    """Return the condition that one of them holds."""
    return _joined("or", list(conditions))


def _joined(word: str, conditions: list[PolicyCondition]) -> PolicyCondition:
    if len(conditions) == 1:
        return conditions[0]
    safe = [
        f"({_bracketed(one)})" if one.word not in {None, word} else one.text for one in conditions
    ]
    line = f" {word} ".join(safe)
    if "\n" not in line and len(line) <= _WIDTH:
        return PolicyCondition(line, word)
    return PolicyCondition(f"\n{word} ".join(safe), word)


def policy(
    registry: Registry, table: str, verb: str, using: PolicyCondition, check: PolicyCondition
) -> str:
    """Return one policy for authenticated, under the name by which the next print finds it.

    `using` judges the rows that are there, `check` those that come; an update needs both.
    """
    parts = []
    if verb != "insert":
        parts.append(f"using ({_bracketed(using)})")
    if verb in {"insert", "update"}:
        parts.append(f"with check ({_bracketed(check)})")
    return (
        f"create policy {policy_name(registry, verb)} on {table} for {VERBS[verb]}"
        f" to authenticated\n" + "\n".join(parts) + ";"
    )


def _bracketed(condition: PolicyCondition) -> str:
    text = condition.text
    return f"\n{indent(text, '  ')}\n" if "\n" in text else text


def policy_name(registry: Registry, verb: str) -> str:
    """Return what a registry calls its policy for a verb, on whatever table."""
    return identifier(f"mirror_{registry.name}_{verb}")
