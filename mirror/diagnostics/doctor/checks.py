"""Checks: everything that the doctor looks for, with how bad it is and the remedy."""

import string
from dataclasses import dataclass
from enum import StrEnum

from mirror.diagnostics.status import REMEDIES


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """Permissions are wrong, late or lost, or will be with the next change."""
    WARNING = "warning"
    """It works today; it is slow, or one step from an error."""


@dataclass(frozen=True)
class Check:
    """One kind of finding."""

    severity: Severity
    problem: str
    """What is the case."""
    remedy: str
    """What to do; words in braces are the thing's."""

    @property
    def generic_remedy(self) -> str:
        """The remedy for no thing in particular: `create index on TABLE (COLUMN)`."""
        names = {name for _, name, *_ in string.Formatter().parse(self.remedy) if name}
        return self.remedy.format(**{name: name.upper() for name in names})


def _error(problem: str, remedy: str) -> Check:
    return Check(Severity.ERROR, problem, remedy)


def _warning(problem: str, remedy: str) -> Check:
    return Check(Severity.WARNING, problem, remedy)


CHECKS: dict[str, Check] = {
    # Settings
    "setting-missing": _error("a setting is not set", "Set {variable}."),
    "setting-malformed": _error("a setting is malformed", "Correct it."),
    "redis-not-set": _warning(
        "REDIS_URL is not set, so the broker and beat are not looked at",
        "Set REDIS_URL to the workers' broker.",
    ),
    "key-kind": _error(
        "an API key is of the wrong kind, another project's, or expired",
        "Take a secret key from the project's settings, or sign a token of mirror_writer.",
    ),
    "key-expiring": _warning(
        "an API key expires within two weeks", "Make another, and give it to the workers."
    ),
    "listen-deaf": _warning(
        "PRIMARY_LISTEN_URL brings no notifications: a transaction pooler, or another database",
        "Give it the primary's direct URL; until then the relay polls.",
    ),
    # Either side as a whole
    "primary-unreachable": _error(
        "the primary does not answer; nothing there was looked at",
        "Start it, or correct PRIMARY_DATABASE_URL.",
    ),
    "primary-refused": _error(
        "the primary refuses what the mirror asks",
        "Give the role of PRIMARY_DATABASE_URL the right.",
    ),
    "primary-not-migrated": _error("the primary lacks the outbox", "Run `mirror migrate primary`."),
    "primary-replica": _error(
        "PRIMARY_DATABASE_URL leads to a standby", "Give it the primary: fences need one server."
    ),
    "primary-version": _error(
        "the primary's PostgreSQL is older than 14", "Upgrade it to a version that is supported."
    ),
    "primary-behind": _error("the primary lacks migrations", "Run `mirror migrate primary`."),
    "primary-ahead": _error(
        "the primary has migrations that this version does not know",
        "Install the newer permission-mirror.",
    ),
    "target-unreachable": _error(
        "the target does not answer; nothing there was looked at",
        "Restore the project, or correct SUPABASE_DB_URL or SUPABASE_URL.",
    ),
    "target-refused": _error(
        "the target refuses what the mirror asks",
        "Connect as postgres, or with a secret key or a token of mirror_writer.",
    ),
    "key-refused": _error(
        "the target's API refuses the key", "Take a key of the project that SUPABASE_URL names."
    ),
    "target-not-migrated": _error(
        "the target lacks the mirror, or a function of it",
        "Run `mirror migrate supabase`; if that finds nothing to do, `mirror migrate supabase --sql"
        ' | psql -1 "$SUPABASE_DB_URL"`.',
    ),
    "target-version": _error(
        "the target's PostgreSQL is older than 15", "Upgrade the project in its dashboard."
    ),
    "target-behind": _error(
        "the target lacks migrations, or has the model of other declarations",
        "Run `mirror migrate supabase`, deploy the workers, then `mirror resync`.",
    ),
    "target-ahead": _error(
        "the target has migrations that this version does not know",
        "Install the newer permission-mirror.",
    ),
    "api-stale": _error(
        "the project's API has not noticed what was migrated",
        "Run `notify pgrst, 'reload schema'` in the target.",
    ),
    "clock-skew": _warning(
        "a server's clock and ours differ by more than 30 seconds, so tokens and expiries do, too",
        "Set the clocks by NTP.",
    ),
    # Who mirrors what
    "mapping-digest": _error(
        "the target holds another version of a mapping", REMEDIES["mapping-digest"]
    ),
    "wrong-source": _error(
        "the target mirrors another primary, or this one went back in time",
        REMEDIES["wrong-source"],
    ),
    # The mappings and the primary
    "source-query": _error(
        "a mapping's query does not run: a table or column is missing, or may not be read",
        "Correct mapping {mapping}, or migrate your tables first.",
    ),
    "source-type": _error(
        "a column of the primary cannot be read as the mapping's type",
        "Correct the type in mapping {mapping}, or cast in its query.",
    ),
    "source-cast": _warning(
        "a column of the primary has values that may not fit the mapping's type",
        "Use the same type in mapping {mapping}, or text.",
    ),
    "enum-label": _error(
        "a value that grants access is none of the primary's enum",
        "Correct `active` in mapping {mapping}.",
    ),
    "role-unknown": _warning(
        "a role of the primary's enum is no level of the membership, so it counts for nothing",
        "Add it to the levels over mapping {mapping}, if it should count.",
    ),
    "triggers-behind": _error(
        "the triggers are older than the mappings", "Run `mirror migrate primary`."
    ),
    "trigger-missing": _error(
        "a trigger is missing or disabled, so changes are lost until a reconcile",
        'Run `mirror ddl primary | psql -1 "$PRIMARY_DATABASE_URL"`, then `mirror resync`.',
    ),
    # The target's tables
    "table-missing": _error(
        "a mirrored or guarded table is gone",
        "Restore it, then run `mirror migrate supabase` and `mirror resync`.",
    ),
    "column-missing": _error(
        "a mirrored table lacks a column",
        "alter table {table} add column {column} {type}; then `mirror resync`.",
    ),
    "column-type": _error(
        "a mirrored table's column has another type than the mapping",
        "alter table {table} alter column {column} type {type} using {column}::{type};",
    ),
    "column-required": _error(
        "a mirrored table demands a value that the mirror may not have, so rows are refused",
        "alter table {table} alter column {column} drop not null;",
    ),
    "column-extra": _warning(
        "a mirrored table has a column that the mapping lacks; the next migration refuses that",
        "Drop it: alter table {table} drop column {column}; or mirror it.",
    ),
    "reference-outside": _error(
        "a mirrored table refers to one that is not mirrored (auth.users), so rows are refused"
        " that are missing there",
        "alter table {table} drop constraint {constraint};",
    ),
    "delete-cascades": _error(
        "a mirrored row that goes takes along, or alters, rows that are not the mirror's",
        'Drop constraint {constraint} of {table}; or say on_delete="retain" in mapping {mapping}.',
    ),
    "delete-blocked": _warning(
        "a mirrored row is held back by rows that are not the mirror's; it stays as a bare key",
        'Say on_delete="retain" in mapping {mapping}; or drop constraint {constraint} of {table}.',
    ),
    "index-missing": _warning(
        "a column that policies, scopes or deletes look rows up by has no index",
        "create index concurrently on {table} ({column});",
    ),
    "published": _error(
        "a mirrored table is in the publication supabase_realtime, which tells every subscriber the"
        " keys of rows that go, whatever the policies",
        "alter publication supabase_realtime drop table {table};",
    ),
    # Who may do what in the target
    "rls-off": _error(
        "row-level security is off on a mirrored or guarded table",
        "alter table {table} enable row level security;",
    ),
    "grant-excess": _error(
        "anon or authenticated may do more with a mirrored or guarded table than is declared",
        "revoke {privilege} on {table} from public, {role}; then run what is declared:"
        ' `mirror ddl supabase | psql -1 "$SUPABASE_DB_URL"`, with `--guards` for guarded tables.',
    ),
    "grant-missing": _warning(
        "authenticated may not do what is declared, so clients are refused",
        "grant {privilege} on {table} to authenticated;",
    ),
    "function-executable": _error(
        "anon or authenticated may execute a function that is not theirs",
        "revoke execute on function {function} from public, {role};",
    ),
    "guards-missing": _warning(
        "guards are declared that were never installed",
        "Run `mirror migrate supabase --guards`.",
    ),
    "guards-behind": _error(
        "the guards are older than their declarations", "Run `mirror migrate supabase`."
    ),
    "policy-missing": _error(
        "a declared policy is gone, so clients are refused",
        "Run `mirror migrate supabase --guards`; for a mirrored table, run"
        ' `mirror ddl supabase | psql -1 "$SUPABASE_DB_URL"`.',
    ),
    "guard-trigger-missing": _error(
        "a trigger of the guards is gone or disabled, so nobody is told, or columns stand open",
        "Run `mirror migrate supabase --guards`.",
    ),
    "policy-permissive": _error(
        "a mirrored or guarded table has another permissive policy: policies are alternatives, so"
        " it lets in whom ours keep out",
        "drop policy {policy} on {table}; or make it restrictive.",
    ),
    "policy-recursive": _error(
        "policies read each other's tables in a circle, so statements fail with 42P17",
        "Read through a SECURITY DEFINER function, such as the mirror's helpers.",
    ),
    "policy-ignores-status": _error(
        "a policy reads a membership table without its status, so who left still counts",
        "Call the mirror's helpers instead, or add the condition on {column}.",
    ),
    "policy-unwrapped": _warning(
        "a policy calls auth.uid() or a helper for each row",
        "Write (select {call}), which runs once per statement.",
    ),
    # Traffic
    "outbox-late": _error(
        "events wait for long",
        "Start workers, and read in their log what keeps them.",
    ),
    "consumer-missing": _error(
        "nobody has asked the outbox for events lately",
        "Start a worker: `celery -A mirror.worker worker`.",
    ),
    "beat-missing": _warning(
        "beat has not rung lately: lost rings wait, nothing is purged or reconciled",
        "Start one: `celery -A mirror.worker beat`.",
    ),
    "relay-missing": _warning(
        "triggers record changes, and no relay has looked lately: they wait for beat",
        "Start one: `mirror relay`.",
    ),
    "broker-unreachable": _error(
        "Redis does not answer", "Start it, or correct REDIS_URL; until then nothing rings."
    ),
    "transaction-open": _warning(
        "something on the primary has been open for long: dead events of the outbox cannot be"
        " vacuumed",
        "End it: {command}",
    ),
    "buried": _error("events were given up", REMEDIES["buried"]),
    "last-reconcile": _error(
        "the last reconcile did not repair everything", REMEDIES["last-reconcile"]
    ),
    "two-schedulers": _warning("both beat and the platform reconcile", REMEDIES["two-schedulers"]),
}
"""By code, in the order in which they are told."""
