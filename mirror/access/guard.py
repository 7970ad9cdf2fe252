"""Guard: declares, in `Registry(guards=[…])`, what users may do with a table of yours.

`prepare` and `ddl` return the SQL of its indexes, grants and policies.
"""

import json
from dataclasses import dataclass
from textwrap import indent

from mirror.access.caller import caller
from mirror.access.columns import column_rules
from mirror.access.rules import (
    VERBS,
    Allow,
    MembershipLike,
    Others,
    Own,
    Permission,
    PolicyCondition,
    Readers,
    Role,
    Verb,
    all_of,
    any_of,
    by_verb,
    check_roles,
    membership_for,
    permission_condition,
    policy,
    rules_condition,
    while_fresh,
)
from mirror.errors import MappingError
from mirror.model.registry import Registry
from mirror.model.staleness import Stale, check_stale
from mirror.schema.freshness import mappings_read, must_be_fresh, readable_must_be_fresh
from mirror.schema.quoting import comma, identifier, literal


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Declares, in `Registry(guards=[…])`, the access of users to one of your tables in the target.

    Its SQL enables row-level security, grants the role authenticated the declared rights, and
    creates one policy for each declared verb, and the indexes that the policies need. It neither
    creates nor drops the table. A verb that is not declared is forbidden; `anon` may do nothing.
    """

    table: str
    """The table's name, as in the catalog: `chat_messages`, `Messages`."""
    schema: str = "public"
    """The table's schema."""
    via: str | None = None
    """Name of the mapping whose Membership decides; with Grants, followed by `:` and the kind.
    None means the parent's with `through`, and else that rules name only permissions and owners.
    """
    on: str = ""
    """With `via`, the column with the resource's id; with `through`, the column with the parent
    row's key. Empty without both."""
    through: str | None = None
    """The parent: another table, guarded by an earlier Guard. `on` points to its rows. Every rule
    here except `Own()` also requires that the caller may read the parent row."""
    key: str = "id"
    """With `through`: the unique column of the parent whose value the column `on` holds."""
    owner: str = "user_id"
    """The column with the id of the user that owns the row; for `Own`."""
    expires: str | None = None
    """The column with the time from which a row counts as absent, a timestamptz; NULL never
    expires."""
    deleted: str | None = None
    """The column that is NULL as long as a row is not deleted. Only the owner may read a deleted
    row, and no user may change it."""
    read: Verb = None
    """The rules for SELECT."""
    insert: Verb = None
    """The rules for INSERT, and the columns that a caller may give. `Own` means here: the new row
    has the caller as its owner."""
    update: Verb | tuple[Allow, ...] = None
    """The rules for UPDATE, and the columns that a caller may change. They must hold for the row
    before and after. Several Allow: each applies to its own columns only; a trigger enforces
    that."""
    delete: Verb = None
    """The rules for DELETE."""
    stale: Stale | None = None
    """`ignore`: the policies do not ask how old the mirrored rows are that they read. None: `deny`,
    if the registry has `max_staleness`."""

    @property
    def relation(self) -> tuple[str, str]:
        """Schema and name of the table."""
        return self.schema, self.table

    @property
    def verbs(self) -> dict[str, Allow]:
        """The rules by verb (`read`, `insert`, …), without the verbs that are forbidden.

        Several Allow for `update` are merged into one.
        """
        update = self.update
        if isinstance(update, tuple):
            rules = dict.fromkeys(rule for allow in update for rule in allow.rules)
            columns = dict.fromkeys(column for allow in update for column in allow.columns)
            update = Allow(*rules, columns=columns)
        return by_verb(self.read, self.insert, update, self.delete)

    def membership(self, registry: Registry) -> MembershipLike | None:
        """Return the membership that decides about the table's rows; with `through`, the parent's.

        None if neither `via` nor `through` is given.

        Raises:
            MappingError: the declaration cannot work; names the table and the remedy.
        """
        parent = self.parent(registry)
        if parent is not None:
            return parent.membership(registry)
        return None if self.via is None else membership_for(registry, self.via, self._label)

    def parent(self, registry: Registry) -> "Guard | None":
        """Return the guard of the table in `through`; None without `through`.

        Raises:
            MappingError: no earlier guard is of that table, or it lets no user read the columns
                that the policies need; or `via`, `through` and `on` do not fit together.
        """
        if self.via is not None and self.through is not None:
            raise MappingError(f"{self._label}: give either `via` or `through`, not both.")
        if (self.via is None and self.through is None) is bool(self.on):
            raise MappingError(f"{self._label}: `on` goes with `via` or `through`; give both.")
        if self.through is None:
            return None
        # Only guards declared before this one, so that there are no cycles.
        earlier = registry.guards[: registry.guards.index(self)]
        for guard in earlier:
            if isinstance(guard, Guard) and self.through in {guard.table, guard.sql_name}:
                break
        else:
            raise MappingError(
                f"{self._label}: no guard of {self.through!r} is declared before it; add one."
            )
        readable = guard.verbs.get("read")
        needed = {self.key, *([guard.on] if guard.on else [])}
        if readable is None or (readable.columns and not needed <= set(readable.columns)):
            raise MappingError(
                f"{self._label}: its rows need their parent in {self.through!r}, of which no user "
                f"may read {' and '.join(map(repr, sorted(needed, key=self.key.__ne__)))}; let "
                f"`read` of that guard allow it."
            )
        return guard

    def prepare(self, registry: Registry) -> list[str]:
        """Return a list with one SQL block.

        In the target it checks the table and its columns, and adds the indexes that the policies
        need and that are missing; with `through`, also one on the parent's table.

        Raises:
            MappingError: the declaration cannot work; names the table and the remedy.
        """
        membership = self.membership(registry)
        self._check_stale(registry)
        for verb in self.verbs.values():
            check_roles(registry, membership, verb, self._label)
        rules = [rule for verb in self.verbs.values() for rule in verb.rules]
        types = self._column_types(registry, membership)
        indexed = [(self.sql_name, self.on)] if self.on else []
        if any(isinstance(rule, Own) and not isinstance(rule.role, str) for rule in rules):
            # Without a role, only the owner's column narrows down the rows, so it needs an index.
            indexed.append((self.sql_name, self.owner))
        parent = self.parent(registry)
        if parent is not None:
            indexed.append((parent.sql_name, self.key))
        checks = []
        if isinstance(self.update, tuple):
            checks.append(f"select mirror.check_undivided({literal(self.sql_name)});")
        if parent is not None:
            arguments = f"{literal(parent.sql_name)}, {literal(self.key)}"
            checks.append(f"select mirror.check_unique({arguments});")
        lines = [
            f"select mirror.check_guarded({literal(registry.name)}, {literal(self.sql_name)},",
            f"  {literal(json.dumps(types))}",
            ");",
            *checks,
            *(
                f"select mirror.add_index({literal(table)}, {literal(col)});"
                for table, col in indexed
            ),
        ]
        return ["\n".join(lines)]

    def _column_types(
        self, registry: Registry, membership: MembershipLike | None
    ) -> dict[str, str | None]:
        """Return the columns that the table must have, with their types; None: any type.

        Raises:
            MappingError: one of several Allow for `update` has no rules or no columns.
        """
        types: dict[str, str | None] = {}
        if self.on:
            types[self.on] = self._kind(registry, membership) if self.via and membership else None
        rules = [rule for verb in self.verbs.values() for rule in verb.rules]
        if self.deleted is not None or any(isinstance(rule, Own | Others) for rule in rules):
            types[self.owner] = caller(registry).type
        for allow in self.update if isinstance(self.update, tuple) else ():
            if not allow.columns or not allow.rules:
                raise MappingError(
                    f"{self._label}: each of several Allow for `update` needs rules and columns."
                )
        extra = [column for verb in self.verbs.values() for column in verb.columns]
        for column in (*extra, *filter(None, [self.deleted])):
            types.setdefault(column, None)
        if self.expires is not None:
            # Without a time zone, the client's session would choose one.
            types[self.expires] = "timestamptz"
        return types

    def ddl(self, registry: Registry) -> list[str]:
        """Return the SQL blocks that give the role authenticated the declared access, and no other.

        The first one has grants and policies. A second one has the trigger of several Allow.

        Raises:
            MappingError: a rule's role, permission or row to read is not declared.
        """
        name = self.sql_name
        grants = ", ".join(
            VERBS[verb] + (f" ({comma(rules.columns)})" if rules.columns else "")
            for verb, rules in self.verbs.items()
        )
        lines = [
            f"-- {self.table}: {self._header(registry)}.",
            f"alter table {name} enable row level security;",
            f"revoke all on {name} from public, anon, authenticated;",
        ]
        if grants:
            lines.append(f"grant {grants}\non {name} to authenticated;")
        for verb, rules in self.verbs.items():
            condition = self._condition(registry, rules)
            check = using = while_fresh(registry, condition, self.must_be_fresh(registry, verb))
            if self.expires:
                expires = identifier(self.expires)
                using = all_of(
                    using, PolicyCondition(f"{expires} is null or {expires} > now()", "or")
                )
            if self.deleted:
                exists = PolicyCondition(f"{identifier(self.deleted)} is null")
                using = all_of(
                    using, any_of(exists, self._own(registry)) if verb == "read" else exists
                )
            lines += ["", policy(registry, name, verb, using, check)]
        blocks = ["\n".join(lines)]
        if isinstance(self.update, tuple):
            rows = [(allow.columns, self._condition(registry, allow)) for allow in self.update]
            blocks.append(column_rules(registry, self.relation, rows))
        return blocks

    def must_be_fresh(self, registry: Registry, verb: str) -> tuple[str, ...]:
        """Return the mappings that must be fresh for a verb; see `mirror.schema.freshness`."""
        return must_be_fresh(registry, self.stale, self.mappings_read_by(registry, verb))

    def mappings_read_by(self, registry: Registry, verb: str) -> set[str]:
        """Return the names of the mappings by whose rows the policy for a verb decides."""
        condition = self._condition(registry, self.verbs[verb]).text
        found = mappings_read(registry, condition)
        parent = self.parent(registry)
        if parent is not None and f"from {parent.sql_name} " in condition:
            found |= parent.mappings_read_by(registry, "read")
        return found

    def _check_stale(self, registry: Registry) -> None:
        """Refuse a `stale` that has no effect.

        Raises:
            MappingError: names the table and the remedy.
        """
        check_stale(self.stale, registry.max_staleness, self._label)
        if self.stale != "ignore":
            return
        parent, membership = self.parent(registry), self.membership(registry)
        denies = None
        if parent is not None and parent.must_be_fresh(registry, "read"):
            denies = f"the guard of {parent.table!r}"
        elif parent is None and membership is not None and self._has_readers:
            mapping = registry[membership.mapping]
            if readable_must_be_fresh(registry, mapping):
                denies = f"`readable` of mapping {mapping.name!r}"
        if denies is not None:
            raise MappingError(
                f"{self._label}: stale='ignore' has no effect, because users must be able to read "
                f"a row that {denies} denies when it is stale; let that ignore it, too."
            )

    @property
    def _has_readers(self) -> bool:
        return any(isinstance(rule, Readers) for verb in self.verbs.values() for rule in verb.rules)

    def _own(self, registry: Registry) -> PolicyCondition:
        return PolicyCondition(f"{identifier(self.owner)} = {caller(registry).id}")

    def _condition(self, registry: Registry, rules: Allow) -> PolicyCondition:
        return rules_condition(
            rules,
            self._own(registry),
            lambda role: self.role_condition(registry, role, "", 1),
            lambda: self._readable(registry),
        )

    def _readable(self, registry: Registry) -> PolicyCondition:
        """Return the condition that the caller may read the row to which `on` points.

        It is the parent row, or without `through` the mirrored row of the resource.

        Raises:
            MappingError: the guard declares no such row, or its table lets no user read the key.
        """
        parent = self.parent(registry)
        if parent is not None:
            return self._parent_row_exists(parent.sql_name, self.key, "", 1)
        membership = self.membership(registry)
        if membership is None:
            raise MappingError(
                f"{self._label}: `Readers` need a row to read; give `via` and `on`, or `through`."
            )
        mapping = registry[membership.mapping]
        granted = mapping.readable.columns if mapping.readable else ()
        if mapping.key != (membership.resource,) or membership.resource not in granted:
            raise MappingError(
                f"{self._label}: `Readers` are those of {mapping.name!r}, of which no user may "
                f"read {membership.resource!r} as its key; let its `readable` allow it."
            )
        table = identifier(mapping.schema, mapping.table)
        return self._parent_row_exists(table, membership.resource, "", 1)

    def _parent_row_exists(
        self, table: str, key: str, row: str, depth: int, *more: PolicyCondition
    ) -> PolicyCondition:
        """Return the condition that `table` has a row whose `key` equals this row's column `on`.

        Row-level security of `table` hides rows that the caller may not read; these do not count.
        `row` is the SQL prefix of this row's columns; empty for the guarded table itself. `depth`
        makes the alias unique. `more` are further conditions on the found row.
        """
        alias = self._alias(depth)
        prefix = row or f"{identifier(self.table)}."
        same_key = PolicyCondition(f"{alias}.{identifier(key)} = {prefix}{identifier(self.on)}")
        # OFFSET prevents a plan that first collects all parent rows that the caller may read.
        return PolicyCondition(
            f"exists (\n  select from {table} as {alias}\n"
            f"  where {indent(all_of(same_key, *more).text, '    ').lstrip()}\n  offset 0\n)"
        )

    def _alias(self, depth: int) -> str:
        # It must differ from the name of the guarded table, which it would hide.
        return f"parent{depth}" + "_" * (self.table == f"parent{depth}")

    def role_condition(
        self, registry: Registry, role: Role, row: str, depth: int
    ) -> PolicyCondition:
        """Return the condition that the caller has a role in the resource to which a row belongs.

        With `through`, the row belongs to its parent's resource, and the caller must also be able
        to read the parent. A Permission does not depend on a resource. `row` is the SQL prefix of
        the row's columns, empty for the guarded table; `depth` is 1 there, and one more for each
        parent.

        Raises:
            MappingError: the registry declares no Permissions, or the guard no membership.
        """
        parent = self.parent(registry)
        membership = self.membership(registry)
        if isinstance(role, Permission):
            permitted = permission_condition(registry, role, self._label)
            if parent is None:
                return permitted
            readable = self._parent_row_exists(parent.sql_name, self.key, row, depth)
            return all_of(permitted, readable)
        if membership is None:
            raise MappingError(f"{self._label}: {role!r} is the role of no membership.")
        if parent is None:
            mine = f"(select {membership.my_resources(role)})::{self._kind(registry, membership)}[]"
            return PolicyCondition(f"{row}{identifier(self.on)} = any({mine})")
        more = []
        if not parent.reading_requires(role, membership):
            more = [parent.role_condition(registry, role, f"{self._alias(depth)}.", depth + 1)]
        return self._parent_row_exists(parent.sql_name, self.key, row, depth, *more)

    def reading_requires(self, role: str, membership: MembershipLike) -> bool:
        """Return whether every rule for reading this table requires at least the role."""
        return all(
            isinstance(rule, str) and membership.includes(rule, role)
            for rule in self.verbs["read"].rules
        )

    def _kind(self, registry: Registry, membership: MembershipLike) -> str:
        return registry[membership.mapping].types[membership.resource]

    def _header(self, registry: Registry) -> str:
        membership = self.membership(registry)
        noun = self.through or (membership and membership.noun)
        if noun is None:
            return "rows count for whoever has the permission"
        return f"rows count for whoever belongs to their {noun}"

    @property
    def sql_name(self) -> str:
        """The table's name in SQL, quoted where necessary."""
        return identifier(self.schema, self.table)

    @property
    def _label(self) -> str:
        return f"guard of {self.schema}.{self.table}"
