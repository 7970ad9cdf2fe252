"""Run: the pages that can be asked for: a resource, a key, a statement on a table."""

from dataclasses import replace

from mirror.access import Guard
from mirror.drain import Drain
from mirror.errors import UsageError
from mirror.explain.decision import ask_access, broken_step, policy_lines
from mirror.explain.facts import Facts, gather
from mirror.explain.page import Page, Step, Word
from mirror.explain.steps import events_step, ledger_step, primary_step, target_step, user_step
from mirror.grants import Deciding, Grant, Values
from mirror.keys import Key, KeyColumn
from mirror.mapping import Mapping
from mirror.registry import Registry
from mirror.targets.asking import AskStatement, Told


def access_to(registry: Registry, noun: str) -> Deciding:
    """Return the declaration that decides about a resource.

    Raises:
        UsageError: there is none; names those that there are.
    """
    known = {one.noun: one for one in registry.access if isinstance(one, Deciding)}
    if noun not in known:
        raise UsageError(
            f"registry {registry.name!r} decides about no {noun!r}, only about "
            f"{', '.join(sorted(known)) or 'nothing'}."
        )
    return known[noun]


def explain_resource(
    drain: Drain, access: Deciding, user: str, resource: str, *, show_values: bool = False
) -> Page:
    """Follow what a user may do with a resource.

    Raises:
        InvalidKey: the user or the resource is no id of its kind.
        MirrorError: a side does not answer, or what is connected may not act as a user.
    """
    mapping = drain.registry[access.mapping]
    user, resource = _canonical(mapping, access, user, resource)
    key = _key(drain, access, mapping, user, resource)
    facts = gather(drain, mapping, key, user)
    wanted = _grant(access, mapping, facts.wanted)
    held = _grant(access, mapping, facts.held)
    allowed, decided = ask_access(drain.registry, access, drain.target, user, resource, held)
    steps = [
        user_step(facts, access, user, drain.registry, drain.source.database),
        *_chain(drain, facts, wanted, held, show_values=show_values),
        *decided,
    ]
    return Page(
        question=f"May {user} take part in {access.noun} {resource}?",
        wanted=bool(wanted.levels),
        allowed=allowed,
        steps=tuple(steps),
    )


def explain_key(
    drain: Drain, mapping: Mapping, key: Key, user: str, *, show_values: bool = False
) -> Page:
    """Follow one mirrored row, and whether a user may read it.

    Raises:
        InvalidKey: the user is no id of Auth's kind.
        MirrorError: a side does not answer, or what is connected may not act as a user.
    """
    for access in drain.registry.access:
        if isinstance(access, Deciding) and access.mapping == mapping.name:
            named = dict(zip(mapping.key, key, strict=True))
            if set(access.seat) == set(named) and named[access.seat[0]] == user:
                resource = named[access.seat[1]]
                return explain_resource(drain, access, user, resource, show_values=show_values)
    facts = gather(drain, mapping, key, user)
    row = dict(zip(mapping.key, key, strict=True))
    ask = AskStatement(mapping.schema, mapping.table, "select", row)
    told = drain.target.ask([ask], [(user, [])])[0][0]
    step = _statement_step(mapping.table, "select", told)
    return Page(
        question=f"May {user} read {facts.name}?",
        wanted=facts.wanted is not None,
        allowed=bool(told.rows),
        steps=(*_chain(drain, facts, None, None, show_values=show_values), step),
    )


def explain_table(
    drain: Drain,
    table: str,
    verb: str,
    row: dict[str, str],
    user: str,
    *,
    show_values: bool = False,
) -> Page:
    """Follow one statement of a user on a guarded or mirrored table.

    `row` is what an insert brings, or values that find the row.

    Raises:
        UsageError: the registry knows no such table, or the row does not fit it.
        MirrorError: a side does not answer, or what is connected may not act as a user.
    """
    registry = drain.registry
    relation = _relation(registry, table)
    if isinstance(relation, Mapping):
        if verb != "select" or set(row) != set(relation.key):
            raise UsageError(
                f"{table} is mirrored: ask for --verb select, with --row for each of "
                f"{', '.join(relation.key)}."
            )
        key = relation.canonical([row[name] for name in relation.key])
        return explain_key(drain, relation, key, user, show_values=show_values)

    told = drain.target.ask([AskStatement(*relation.relation, verb, row)], [(user, [])])[0][0]
    step = _statement_step(relation.table, verb, told)
    allowed = step.word is Word.YES
    question = f"May {user} {verb} this row of {relation.table}?"
    access, resource = _behind(drain, relation, user, {**told.row, **row})
    if access is None or resource is None:
        return Page(question=question, wanted=None, allowed=allowed, steps=(step,))
    page = explain_resource(drain, access, user, resource, show_values=show_values)
    # Whether the row is the user's own is for the policies alone to say.
    return replace(
        page,
        question=question,
        wanted=page.wanted,
        allowed=allowed,
        steps=(*(one for one in page.steps if one.name != "decision"), step),
    )


def _canonical(mapping: Mapping, access: Deciding, user: str, resource: str) -> tuple[str, str]:
    types = {column.name: column.type for column in mapping.columns}
    first, second = (
        KeyColumn(name, types[name]).canonical(value, owner=mapping.name)
        for name, value in zip(access.seat, (user, resource), strict=True)
    )
    return first, second


def _key(drain: Drain, access: Deciding, mapping: Mapping, user: str, resource: str) -> Key:
    """Return the key of the row that decides."""
    named = dict(zip(access.seat, (user, resource), strict=True))
    if set(mapping.key) == set(named):
        return tuple(named[name] for name in mapping.key)
    names = [column.name for column in mapping.columns]
    for reference in filter(mapping.reference, access.seat):
        with drain.source.snapshot() as snapshot:
            found = snapshot.rows_in_scope(mapping, reference, [named[reference]], limit=100_000)
        for key, row in found.items():
            if all(row[names.index(name)] == value for name, value in named.items()):
                return key
    raise UsageError(
        f"the primary has no row of {mapping.name} for these two, and its key is another; name "
        f"that with --mapping {mapping.name} --key."
    )


def _grant(access: Deciding, mapping: Mapping, row: Values | None) -> Grant:
    return Grant(reason="there is no row") if row is None else access.grant(mapping, row)


def _chain(
    drain: Drain, facts: Facts, wanted: Grant | None, held: Grant | None, *, show_values: bool
) -> list[Step]:
    """Return the steps from the primary's row to the target's."""
    primary = primary_step(facts, wanted, drain.registry, drain.source.database)
    there = target_step(facts, held)
    if show_values:
        primary = replace(primary, values=dict(facts.wanted or {}))
        there = replace(there, values=dict(facts.held or {}))
    return [primary, events_step(facts), ledger_step(facts), there]


def _statement_step(table: str, verb: str, told: Told) -> Step:
    """Say what became of a statement."""
    broken = broken_step(table, verb, told)
    lines = policy_lines(told)
    if broken is not None:
        return broken
    if told.found == 0:
        said = f"{table}: there is no such row."
        return Step("decision", Word.NO, said, "Check the values of --row.", details=lines)
    # Constraints are looked at after policies.
    if told.rows or (told.state or "").startswith("23"):
        also = (
            f" (a constraint refuses the row as it is given [{told.state}])" if told.state else ""
        )
        holding = [policy.name for policy in told.policies if policy.permissive and policy.holds]
        said = f"{table}: {verb} is allowed, by {', '.join(holding)}{also}."
        return Step("decision", Word.YES, said, details=lines)
    if told.passes(verb):
        said = (
            f"{table}: policies let the row through, but {verb} fails [{told.state or 'no row'}]."
        )
        remedy = "Look at the columns that are granted, and at the table's triggers."
        return Step("decision", Word.BROKEN, said, remedy, details=lines)
    failing = [policy.name for policy in told.policies if not policy.holds]
    return Step(
        "decision", Word.NO, f"{table}: {verb} is refused, by {', '.join(failing)}.", details=lines
    )


def _relation(registry: Registry, table: str) -> Guard | Mapping:
    """Return what is declared of a table."""
    declared: list[Guard | Mapping] = [g for g in registry.guards if isinstance(g, Guard)]
    declared += list(registry)
    for one in declared:
        if table in {one.table, f"{one.schema}.{one.table}"}:
            return one
    raise UsageError(
        f"registry {registry.name!r} has neither a mapping nor a guard of table {table!r}; it has "
        f"{', '.join(one.table for one in declared)}."
    )


def _behind(
    drain: Drain, guard: Guard, user: str, row: dict[str, object]
) -> tuple[Deciding | None, str | None]:
    """Return what decides about a row, and about which resource, as far as the row tells."""
    parent = guard.parent(drain.registry)
    value = row.get(guard.on)
    if value is None:
        return None, None
    if parent is not None:
        ask = AskStatement(*parent.relation, "select", {guard.key: str(value)})
        told = drain.target.ask([ask], [(user, [])])[0][0]
        return _behind(drain, parent, user, dict(told.row))
    for access in drain.registry.access:
        if isinstance(access, Deciding) and access.mapping == guard.via:
            return access, str(value)
    return None, None
