"""Freshness: the part of a policy's SQL that refuses users while the target is too old.

`Registry(max_staleness=…)` declares the bound. The mappings that a policy reads are found in its
SQL, so a new kind of access or guard needs no change here.
"""

import re
from collections.abc import Iterable

from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.model.staleness import Stale
from mirror.schema.quoting import identifier, literal

_FUNCTION = re.compile(r"create or replace function (\S+?)\(")
_NAME = r'(?:"(?:[^"]|"")+"|[\w$])+'
_POLICY = re.compile(rf"create policy ({_NAME}) on ({_NAME}(?:\.{_NAME})?) ")
_CHECK = re.compile(r"mirror\.is_fresh\(array\[(.*?)\], (interval '.*?')\)")


def mappings_read(registry: Registry, condition: str) -> set[str]:
    """Return the names of the mappings whose rows a policy's condition reads, without parents.

    It reads them through the helpers that it calls, or by itself; then row-level security of the
    mirrored table reads, too. Functions that are not the registry's are not looked into.
    """
    conditions = [condition]
    for text in conditions:
        conditions += [
            mapping.readable.using
            for mapping in registry
            if mapping.readable is not None
            and _reads_table(text, mapping)
            and mapping.readable.using not in conditions
        ]
    texts = list(conditions)
    for access in registry.access:
        functions = "\n".join(access.ddl(registry))
        called = (f"{name}(" for name in _FUNCTION.findall(functions))
        if any(call in text for call in called for text in conditions):
            texts.append(functions)
    return {mapping.name for mapping in registry if any(_reads_table(t, mapping) for t in texts)}


def _reads_table(text: str, mapping: Mapping) -> bool:
    """Return whether a FROM or JOIN in the text names the mirrored table."""
    schema, table = (re.escape(identifier(name)) for name in (mapping.schema, mapping.table))
    name = rf'(?:\b(?:from|join)|,)\s+(?:only\s+)?(?:{schema}\.)?{table}(?![\w"])'
    return re.search(name, text, re.IGNORECASE) is not None


def readable_must_be_fresh(registry: Registry, mapping: Mapping) -> tuple[str, ...]:
    """Return the mappings that must be fresh for reading a mirrored table; see `must_be_fresh`."""
    if mapping.readable is None:
        return ()
    names = {mapping.name} | mappings_read(registry, mapping.readable.using)
    return must_be_fresh(registry, mapping.readable.stale, names)


def must_be_fresh(registry: Registry, stale: Stale | None, names: Iterable[str]) -> tuple[str, ...]:
    """Return which mappings must be fresh for a policy that reads the rows of the named ones.

    They are these and all their ancestors: a row is gone with its parent. The result is empty if
    the registry has no bound or the policy ignores it.
    """
    if registry.max_staleness is None or stale == "ignore":
        return ()
    found = list(names)
    for name in found:
        found += [p.mapping for p in registry[name].parents if p.mapping not in found]
    return tuple(mapping.name for mapping in registry if mapping.name in found)


def is_fresh(registry: Registry, names: Iterable[str]) -> str:
    """Return the SQL expression that the mappings are no older than the registry's bound.

    It is a subquery, so that PostgreSQL evaluates it once per statement.
    """
    mappings = ", ".join(map(literal, names))
    seconds = f"{registry.max_staleness:.3f}".rstrip("0").rstrip(".")
    return f"(select mirror.is_fresh(array[{mappings}], interval '{seconds} seconds'))"


def freshness_checks(blocks: Iterable[str]) -> list[str]:
    """Return the block that checks, before the policies in `blocks` are replaced, what they need.

    It stops a migration that would lock out every user. The list is empty if no policy has a bound.
    """
    policies: dict[tuple[str, str, str], list[str]] = {}
    for text in re.split(r"(?=create policy )", "\n".join(blocks)):
        policy, checks = _POLICY.match(text), _CHECK.findall(text)
        if policy is None or not checks:
            continue
        mappings = dict.fromkeys(name for names, _ in checks for name in names.split(", "))
        needs = (policy[2], ", ".join(mappings), checks[0][1])
        policies.setdefault(needs, []).append(policy[1].strip('"').replace('""', '"'))
    if not policies:
        return []
    statements = (
        f"select mirror.check_fresh({literal(table)}, array[{', '.join(map(literal, names))}],\n"
        f"  array[{mappings}], {bound}\n);"
        for (table, mappings, bound), names in policies.items()
    )
    return ["\n".join(["-- Whether workers report what these policies ask for.", *statements])]
