"""Declared rules: what the rules of a guard allow a user who holds some levels on the resource."""

from collections.abc import Collection, Iterable

from mirror.access import Guard, Own
from mirror.access.rules import Others, Rule


def rules_allow(rules: Iterable[Rule], levels: Collection[str], *, own: bool) -> bool | None:
    """Return whether one of the rules allows a row of the resource.

    `own`: the row belongs to the user. None: no level decides it; a permission may, or another row.
    """
    found = {_rule_allows(rule, levels, own=own) for rule in rules}
    return True if True in found else None if None in found else False


def guard_allows(guard: Guard, verb: str, levels: Collection[str], *, own: bool) -> bool | None:
    """Return the same for a declared verb of a guard without `through`.

    To update or delete a row, a user must also be allowed to read it.
    """
    verbs = {verb, "read"} if verb in {"update", "delete"} else {verb}
    found = {
        rules_allow(guard.verbs[one].rules, levels, own=own) if one in guard.verbs else False
        for one in verbs
    }
    return False if False in found else None if None in found else True


def has_owners(guard: Guard) -> bool:
    """Return whether a guard's rules depend on the owner of a row."""
    return guard.deleted is not None or any(
        isinstance(rule, Own | Others) for allow in guard.verbs.values() for rule in allow.rules
    )


def _rule_allows(rule: Rule, levels: Collection[str], *, own: bool) -> bool | None:
    if isinstance(rule, str):
        return rule in levels
    if isinstance(rule, Own):
        return own and (True if rule.role is None else _rule_allows(rule.role, levels, own=own))
    if isinstance(rule, Others):
        return not own and _rule_allows(rule.role, levels, own=own)
    return None
