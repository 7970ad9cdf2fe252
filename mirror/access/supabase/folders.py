"""Folders: declares, in `Registry(guards=[…])`, policies on files in Storage by their folder.

`ddl` returns the SQL of the policies.
"""

import re
from dataclasses import dataclass
from textwrap import indent

from mirror.access.caller import caller
from mirror.access.rules import (
    VERBS,
    Allow,
    Others,
    Own,
    Permission,
    PolicyCondition,
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
from mirror.schema.freshness import mappings_read, must_be_fresh
from mirror.schema.quoting import literal

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_PLAIN = re.compile(r"[^{}/]+")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Declares the access of users to files of one bucket, in folders that belong to resources."""

    bucket: str
    """The bucket's id. The bucket must be private: everyone can download files of a public one."""
    path: str
    """The folder's path: `trips/{trip_id}`, `consultations/{id}/{user}`. `{user}` stands for the id
    of the user that owns the files, for `Own`; any other word in braces stands for the resource's
    id. The rules apply to all files below the folder, at any depth."""
    via: str
    """Name of the mapping whose Membership decides, or with Grants `mapping:kind`."""
    read: Verb = None
    """The rules for listing and downloading."""
    insert: Verb = None
    """The rules for uploading."""
    update: Verb = None
    """The rules for replacing and moving; the user needs `read`, too."""
    delete: Verb = None
    """The rules for removing; the user needs `read`, too."""
    stale: Stale | None = None
    """`ignore`: the policies do not ask how old the mirrored rows are that they read. None: `deny`,
    if the registry has `max_staleness`."""

    @property
    def verbs(self) -> dict[str, Allow]:
        """The rules by verb (`read`, `insert`, …), without the verbs that are forbidden."""
        return by_verb(self.read, self.insert, self.update, self.delete)

    def check(self, registry: Registry) -> None:
        """Refuse a declaration that cannot work.

        Raises:
            MappingError: names the folder and the remedy.
        """
        if (
            len(self._resource) != 1
            or self._parts.count("{user}") > 1
            or not all(
                _PLACEHOLDER.fullmatch(part) or _PLAIN.fullmatch(part) for part in self._parts
            )
        ):
            raise MappingError(
                f"{self._label}: a path is plain names, one {{id}}, and {{user}} at most once, "
                f"separated by slashes, as in 'trips/{{id}}'."
            )
        check_stale(self.stale, registry.max_staleness, self._label)
        membership = membership_for(registry, self.via, self._label)
        for verb in self.verbs.values():
            check_roles(registry, membership, verb, self._label)
            if verb.columns:
                raise MappingError(f"{self._label}: files have no columns to choose from.")
            if (
                any(isinstance(rule, Own | Others) for rule in verb.rules)
                and "{user}" not in self._parts
            ):
                raise MappingError(
                    f"{self._label}: `Own` and `Others` need to know the owner of a file; add "
                    f"/{{user}} to the path."
                )

    def condition(self, registry: Registry, verb: str) -> PolicyCondition:
        """Return the condition on a row of `storage.objects` that allows a verb of `verbs`."""
        membership = membership_for(registry, self.via, self._label)
        segments = {part: _segment(number) for number, part in enumerate(self._parts, 1)}
        resource = segments[self._resource[0]]
        in_folder = [PolicyCondition(f"bucket_id = {literal(self.bucket)}")]
        in_folder += [
            PolicyCondition(f"{_segment(number)} = {literal(part)}")
            for number, part in enumerate(self._parts, 1)
            if not _PLACEHOLDER.fullmatch(part)
        ]
        # A file in the folder, not the folder itself.
        in_folder.append(PolicyCondition(f"{_segment(len(self._parts) + 1)} <> ''"))

        def has_role(role: Role) -> PolicyCondition:
            if isinstance(role, Permission):
                return permission_condition(registry, role, self._label)
            mine = membership.my_resources(role)
            return PolicyCondition(
                f"{resource} = any(array(\n  select id::text from unnest({mine}) as id\n))"
            )

        own = PolicyCondition(f"{segments.get('{user}')} = {caller(registry).id}::text")

        def readable() -> PolicyCondition:
            raise MappingError(f"{self._label}: `Readers` is for tables; name a role.")

        rules = rules_condition(self.verbs[verb], own, has_role, readable)
        names = must_be_fresh(registry, self.stale, mappings_read(registry, rules.text))
        return while_fresh(registry, all_of(*in_folder, rules), names)

    def ids_in(self, path: str) -> tuple[str, str | None] | None:
        """Return the ids of the resource and of the owner in a file's path; None: another folder.

        The owner is None if the folder's path has none.
        """
        found = path.split("/")
        if len(found) <= len(self._parts) or not found[len(self._parts)]:
            return None
        values = list(zip(self._parts, found, strict=False))
        if any(part != value for part, value in values if not _PLACEHOLDER.fullmatch(part)):
            return None
        ids = dict(values)
        return ids[self._resource[0]], ids.get("{user}")

    @property
    def _parts(self) -> list[str]:
        return self.path.strip("/").split("/")

    @property
    def _resource(self) -> list[str]:
        return [part for part in self._parts if _PLACEHOLDER.fullmatch(part) and part != "{user}"]

    @property
    def _label(self) -> str:
        return f"folder {self.path!r} of bucket {self.bucket!r}"


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Declares, in `Registry(guards=[…])`, policies on Storage's table `storage.objects`.

    They are one for each verb that a folder allows.
    A path that is malformed, or spells an id in another way than the database, grants nothing. If
    Storage has not created its table yet, the migration creates no policy.
    """

    folders: tuple[Folder, ...]
    """The guarded folders. Policies of your own may allow other files."""

    @property
    def relation(self) -> tuple[str, str]:
        """Schema and name of the table that Storage reads and writes with the user's rights."""
        return "storage", "objects"

    def prepare(self, registry: Registry) -> list[str]:
        """Check the declarations; return an empty list, because no SQL has to run before `ddl`.

        Raises:
            MappingError: a folder's declaration cannot work.
        """
        for folder in self.folders:
            folder.check(registry)
        return []

    def ddl(self, registry: Registry) -> list[str]:
        """Return one block, which creates the policies; an empty list if no verb is allowed."""
        policies = []
        for verb in VERBS:
            found = [f.condition(registry, verb) for f in self.folders if verb in f.verbs]
            if found:
                one = any_of(*found)
                policies.append(policy(registry, "storage.objects", verb, one, one))
        if not policies:
            return []
        return [
            f"""\
-- Files. Text with text: a path that is no id casts to nothing.
do $$
begin
  if to_regclass('storage.objects') is null then
    raise warning 'storage.objects does not exist, so no folder is guarded; once Storage has '
      'made it, run `mirror migrate supabase --guards` again';
    return;
  end if;

{indent((chr(10) * 2).join(policies), "  ")}
end
$$;"""
        ]


def _segment(number: int) -> str:
    return f"split_part(name, '/', {number})"
