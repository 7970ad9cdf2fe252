"""Folders: who may do what with files in Storage, by the path that they lie under."""

import re
from dataclasses import dataclass
from textwrap import indent

from mirror.access.rules import (
    CALLER,
    VERBS,
    Allow,
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
from mirror.schema.quoting import literal

_PLACE = re.compile(r"\{(\w+)\}")
_PLAIN = re.compile(r"[^{}/]+")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Files of one bucket under a path that names a membership's resource."""

    bucket: str
    """The bucket's id. It must be private: what is in a public one, anybody may download."""
    path: str
    """Such as `trips/{trip_id}` or `consultations/{id}/{user}`: `{user}` is the id of the user
    whose files they are, for `Own`, any other word the resource's. Files lie below, at any
    depth."""
    via: str
    """Name of the mapping whose Membership decides, or with Grants `mapping:kind`."""
    read: Verb = None
    """Who may list and download."""
    insert: Verb = None
    """Who may upload."""
    update: Verb = None
    """Who may replace and move; needs `read` too."""
    delete: Verb = None
    """Who may remove; needs `read` too."""

    @property
    def verbs(self) -> dict[str, Allow]:
        """The rules by verb, without those that nobody passes."""
        return by_verb(self.read, self.insert, self.update, self.delete)

    def check(self, registry: Registry) -> None:
        """Refuse what could not work.

        Raises:
            MappingError: names the folder and the remedy.
        """
        if (
            len(self._resource) != 1
            or self._parts.count("{user}") > 1
            or not all(_PLACE.fullmatch(part) or _PLAIN.fullmatch(part) for part in self._parts)
        ):
            raise MappingError(
                f"{self._who}: a path is plain names, one {{id}}, and {{user}} at most once, "
                f"joined by slashes, as in 'trips/{{id}}'."
            )
        membership = membership_over(registry, self.via, self._who)
        for verb in self.verbs.values():
            check_roles(registry, membership, verb, self._who)
            if verb.columns:
                raise MappingError(f"{self._who}: files have no columns to choose from.")
            if (
                any(isinstance(rule, Own | Others) for rule in verb.rules)
                and "{user}" not in self._parts
            ):
                raise MappingError(
                    f"{self._who}: `Own` and `Others` need to know whose a file is; add /{{user}} "
                    f"to the path."
                )

    def condition(self, registry: Registry, verb: str) -> PolicyCondition:
        """Return what is true of the rows of `storage.objects` that one may `verb`."""
        membership = membership_over(registry, self.via, self._who)
        segments = {part: _segment(number) for number, part in enumerate(self._parts, 1)}
        resource = segments[self._resource[0]]
        here = [PolicyCondition(f"bucket_id = {literal(self.bucket)}")]
        here += [
            PolicyCondition(f"{_segment(number)} = {literal(part)}")
            for number, part in enumerate(self._parts, 1)
            if not _PLACE.fullmatch(part)
        ]
        # A file, not the folder itself.
        here.append(PolicyCondition(f"{_segment(len(self._parts) + 1)} <> ''"))

        def reaches(role: Role) -> PolicyCondition:
            if isinstance(role, Permission):
                return permitted(registry, role, self._who)
            mine = membership.mine(role)
            return PolicyCondition(
                f"{resource} = any(array(\n  select id::text from unnest({mine}) as id\n))"
            )

        own = PolicyCondition(f"{segments.get('{user}')} = {CALLER}::text")

        def readable() -> PolicyCondition:
            raise MappingError(f"{self._who}: `Readers` is for tables; name a role.")

        return both(*here, either(self.verbs[verb], own, reaches, readable))

    @property
    def _parts(self) -> list[str]:
        return self.path.strip("/").split("/")

    @property
    def _resource(self) -> list[str]:
        return [part for part in self._parts if _PLACE.fullmatch(part) and part != "{user}"]

    @property
    def _who(self) -> str:
        return f"folder {self.path!r} of bucket {self.bucket!r}"


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Policies on `storage.objects`, where that exists; one for each verb.

    A path that is not spelt as the ids are in the database, or not well formed, is nobody's.
    """

    folders: tuple[Folder, ...]
    """What is guarded; other files are left to other policies."""

    @property
    def relation(self) -> tuple[str, str]:
        """Where Storage asks."""
        return "storage", "objects"

    def prepare(self, registry: Registry) -> list[str]:
        """Return nothing; refuse what could not work."""
        for folder in self.folders:
            folder.check(registry)
        return []

    def ddl(self, registry: Registry) -> list[str]:
        """Return the block that creates the policies."""
        policies = []
        for verb in VERBS:
            found = [f.condition(registry, verb) for f in self.folders if verb in f.verbs]
            if found:
                one = one_of(*found)
                policies.append(policy(registry, "storage.objects", verb, one, one))
        if not policies:
            return []
        return [
            f"""\
-- Files. Text with text: a path that is no id casts to nothing.
do $$
begin
  if to_regclass('storage.objects') is null then
    raise notice 'storage.objects does not exist, so no folder is guarded; once Storage has '
      'made it, run `mirror migrate supabase --guards` again';
    return;
  end if;

{indent((chr(10) * 2).join(policies), "  ")}
end
$$;"""
        ]


def _segment(number: int) -> str:
    return f"split_part(name, '/', {number})"
