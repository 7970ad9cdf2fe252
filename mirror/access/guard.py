"""Guard: policies, grants and indexes for a table of yours, by who belongs to what."""

import json
from dataclasses import dataclass
from textwrap import indent

from mirror.access.columns import column_rules
from mirror.access.rules import (
    CALLER,
    VERBS,
    Allow,
    MembershipLike,
    Others,
    Own,
    Permission,
    PolicyCondition,
    Role,
    Verb,
    both,
    by_verb,
    check_roles,
    either,
    membership_over,
    one_of,
    permitted,
    policy,
)
from mirror.errors import MappingError
from mirror.model.registry import Registry
from mirror.schema.quoting import comma, identifier, literal


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Who may do what with the rows of a table in the target that is yours.

    The table is neither created nor dropped, and only gains an index where the policies' column
    has none. Whatever is not declared, nobody may; `anon` may nothing.
    """

    table: str
    """The table's name, as in the catalog: `chat_messages`, `Messages`."""
    schema: str = "public"
    """The table's schema."""
    via: str | None = None
    """Name of the mapping whose Membership decides, or with Grants `mapping:kind`; None: that of
    the table in `through`, or none, where all rules are permissions and one's own rows."""
    on: str = ""
    """The column that holds the id of the membership's resource, or the key of the parent; empty
    where there is neither."""
    through: str | None = None
    """A guarded table whose row `on` points at: rows follow their parent, which must be readable
    for the caller, whatever the roles named here."""
    key: str = "id"
    """With `through`: the parent's column that `on` holds; unique there."""
    owner: str = "user_id"
    """The column that holds the id of the user whose row it is; for `Own`."""
    expires: str | None = None
    """The column that holds when a row stops to count; NULL: never."""
    deleted: str | None = None
    """The column that says that a row was deleted, softly: not NULL. From then on its owner may
    read it, nobody else, and nobody may change it."""
    read: Verb = None
    """Who may select."""
    insert: Verb = None
    """Who may insert, and which columns; `Own`: rows in their own name."""
    update: Verb | tuple[Allow, ...] = None
    """Who may update, and which columns. A row must satisfy this before and after. Several: each
    for its columns, which a trigger sees to."""
    delete: Verb = None
    """Who may delete."""

    @property
    def relation(self) -> tuple[str, str]:
        """Schema and name of the table."""
        return self.schema, self.table

    @property
    def verbs(self) -> dict[str, Allow]:
        """The rules by verb, without those that nobody passes."""
        update = self.update
        if isinstance(update, tuple):
            rules = dict.fromkeys(rule for allow in update for rule in allow.rules)
            columns = dict.fromkeys(column for allow in update for column in allow.columns)
            update = Allow(*rules, columns=columns)
        return by_verb(self.read, self.insert, update, self.delete)

    def membership(self, registry: Registry) -> MembershipLike | None:
        """Return the membership that decides about the table's rows, if one does.

        Raises:
            MappingError: the declaration cannot work; names the table and the remedy.
        """
        parent = self.parent(registry)
        if parent is not None:
            return parent.membership(registry)
        return None if self.via is None else membership_over(registry, self.via, self._who)

    def parent(self, registry: Registry) -> "Guard | None":
        """Return the guard of the table that the rows point at, or None.

        Raises:
            MappingError: that table is not guarded, or nobody may read it.
        """
        if self.via is not None and self.through is not None:
            raise MappingError(f"{self._who}: say either `via` or `through`.")
        if (self.via is None and self.through is None) is bool(self.on):
            raise MappingError(f"{self._who}: `on` goes with `via` or `through`; say both.")
        if self.through is None:
            return None
        # Only those declared before: so that no two hang on each other.
        earlier = registry.guards[: registry.guards.index(self)]
        for guard in earlier:
            if isinstance(guard, Guard) and self.through in {guard.table, guard.sql_name}:
                break
        else:
            raise MappingError(
                f"{self._who}: no guard of {self.through!r} is declared before it; add one."
            )
        readable = guard.verbs.get("read")
        needed = {self.key, *([guard.on] if guard.on else [])}
        if readable is None or (readable.columns and not needed <= set(readable.columns)):
            raise MappingError(
                f"{self._who}: its rows follow {self.through!r}, of which nobody may read "
                f"{' and '.join(map(repr, sorted(needed, key=self.key.__ne__)))}; let `read` of "
                f"that guard allow it."
            )
        return guard

    def prepare(self, registry: Registry) -> list[str]:
        """Return the block that looks at the table, and sees to its indexes."""
        membership = self.membership(registry)
        for verb in self.verbs.values():
            check_roles(registry, membership, verb, self._who)
        wanted: dict[str, str | None] = {}
        if self.on:
            wanted[self.on] = self._kind(registry, membership) if self.via and membership else None
        rules = [rule for verb in self.verbs.values() for rule in verb.rules]
        if self.deleted is not None or any(isinstance(rule, Own | Others) for rule in rules):
            wanted[self.owner] = "uuid"
        for one in self.update if isinstance(self.update, tuple) else ():
            if not one.columns or not one.rules:
                raise MappingError(
                    f"{self._who}: of several rules for `update`, each names who and which columns."
                )
        extra = [column for verb in self.verbs.values() for column in verb.columns]
        for column in (*extra, *filter(None, (self.expires, self.deleted))):
            wanted.setdefault(column, None)
        indexed = [(self.sql_name, self.on)] if self.on else []
        if any(isinstance(rule, Own) and not isinstance(rule.role, str) for rule in rules):
            # Not narrowed down by anything else.
            indexed.append((self.sql_name, self.owner))
        parent = self.parent(registry)
        if parent is not None:
            indexed.append((parent.sql_name, self.key))
        lines = [
            f"select mirror.check_guarded({literal(registry.name)}, {literal(self.sql_name)},",
            f"  {literal(json.dumps(wanted))}",
            ");",
            *(f"select mirror.add_index({literal(one)}, {literal(col)});" for one, col in indexed),
        ]
        return ["\n".join(lines)]

    def ddl(self, registry: Registry) -> list[str]:
        """Return the block that opens the table to authenticated as far as declared."""
        name = self.sql_name
        grants = ", ".join(
            VERBS[verb] + (f" ({comma(rules.columns)})" if rules.columns else "")
            for verb, rules in self.verbs.items()
        )
        lines = [
            f"-- {self.table}: {self._whose(registry)}.",
            f"alter table {name} enable row level security;",
            f"revoke all on {name} from public, anon, authenticated;",
        ]
        if grants:
            lines.append(f"grant {grants}\non {name} to authenticated;")
        for verb, rules in self.verbs.items():
            check = using = self._condition(registry, rules)
            if self.expires:
                expires = identifier(self.expires)
                using = both(
                    using, PolicyCondition(f"{expires} is null or {expires} > now()", "or")
                )
            if self.deleted:
                there = PolicyCondition(f"{identifier(self.deleted)} is null")
                using = both(using, one_of(there, self._own) if verb == "read" else there)
            lines += ["", policy(registry, name, verb, using, check)]
        blocks = ["\n".join(lines)]
        if isinstance(self.update, tuple):
            rows = [(one.columns, self._condition(registry, one)) for one in self.update]
            blocks.append(column_rules(registry, self.relation, rows))
        return blocks

    @property
    def _own(self) -> PolicyCondition:
        return PolicyCondition(f"{identifier(self.owner)} = {CALLER}")

    def _condition(self, registry: Registry, rules: Allow) -> PolicyCondition:
        return either(
            rules,
            self._own,
            lambda role: self.reaches(registry, role, "", 1),
            lambda: self._readable(registry),
        )

    def _readable(self, registry: Registry) -> PolicyCondition:
        """Return the condition that the caller may read the row that `on` names."""
        parent = self.parent(registry)
        if parent is not None:
            return self._beneath(parent.sql_name, self.key, "", 1)
        membership = self.membership(registry)
        if membership is None:
            raise MappingError(f"{self._who}: `Readers` of what? Say `via` which, and `on` what.")
        mapping = registry[membership.mapping]
        granted = mapping.readable.columns if mapping.readable else ()
        if mapping.key != (membership.resource,) or membership.resource not in granted:
            raise MappingError(
                f"{self._who}: `Readers` are those of {mapping.name!r}, of which nobody may read "
                f"{membership.resource!r} as its key; let its `readable` allow it."
            )
        table = identifier(mapping.schema, mapping.table)
        return self._beneath(table, membership.resource, "", 1)

    def _beneath(
        self, table: str, key: str, row: str, depth: int, *more: PolicyCondition
    ) -> PolicyCondition:
        """Return the condition that the caller may read the row of `table` that `on` points at."""
        # A name that the rows' table does not have: theirs would be hidden by it.
        inner = self._inner(depth)
        here = row or f"{identifier(self.table)}."
        found = PolicyCondition(f"{inner}.{identifier(key)} = {here}{identifier(self.on)}")
        # OFFSET keeps the planner from collecting all that the caller may read of the parent.
        return PolicyCondition(
            f"exists (\n  select from {table} as {inner}\n"
            f"  where {indent(both(found, *more).text, '    ').lstrip()}\n  offset 0\n)"
        )

    def _inner(self, depth: int) -> str:
        return f"parent{depth}" + "_" * (self.table == f"parent{depth}")

    def reaches(self, registry: Registry, role: Role, row: str, depth: int) -> PolicyCondition:
        """Return the condition that the caller has a role where `row` belongs."""
        parent = self.parent(registry)
        membership = self.membership(registry)
        if isinstance(role, Permission):
            have = permitted(registry, role, self._who)
            if parent is None:
                return have
            return both(have, self._beneath(parent.sql_name, self.key, row, depth))
        if membership is None:
            raise MappingError(f"{self._who}: {role!r} is the role of no membership.")
        if parent is None:
            mine = f"(select {membership.mine(role)})::{self._kind(registry, membership)}[]"
            return PolicyCondition(f"{row}{identifier(self.on)} = any({mine})")
        more = []
        if not parent.implies(role, membership):
            more = [parent.reaches(registry, role, f"{self._inner(depth)}.", depth + 1)]
        return self._beneath(parent.sql_name, self.key, row, depth, *more)

    def implies(self, role: str, membership: MembershipLike) -> bool:
        """Return whether nobody without the role may read, as the table's own policies see to."""
        return all(
            isinstance(rule, str) and membership.reaches(rule, role)
            for rule in self.verbs["read"].rules
        )

    def _kind(self, registry: Registry, membership: MembershipLike) -> str:
        columns = registry[membership.mapping].columns
        return next(column.type for column in columns if column.name == membership.resource)

    def _whose(self, registry: Registry) -> str:
        membership = self.membership(registry)
        whose = self.through or (membership and membership.noun)
        if whose is None:
            return "rows count for whoever has the permission"
        return f"rows count for whoever belongs to their {whose}"

    @property
    def sql_name(self) -> str:
        """The table's name, quoted where it must be."""
        return identifier(self.schema, self.table)

    @property
    def _who(self) -> str:
        return f"guard of {self.schema}.{self.table}"
