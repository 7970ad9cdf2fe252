"""Checks: every kind of problem that the doctor looks for, with its severity and its remedy.

This is one table, so its length is the number of kinds.
"""

from mirror.diagnostics.doctor.kinds import Check, error, warning
from mirror.diagnostics.status import REMEDIES
from mirror.schema.migrate import OLDEST

CHECKS: dict[str, Check] = {
    # Settings
    "setting-missing": error(
        "a required setting is not set",
        "processes that need it do not start, and the doctor leaves out what needs it",
        "Set {variable}.",
    ),
    "setting-malformed": error(
        "a setting has an invalid value",
        "processes that read it do not start",
        "Correct the value.",
    ),
    "setting-unknown": warning(
        "a MIRROR_* variable is set that nothing reads",
        "the value has no effect; perhaps a default holds in its place",
        "Correct its name, or unset it.",
    ),
    "redis-not-set": warning(
        "REDIS_URL is not set",
        "the doctor checks neither the broker nor beat",
        "Set REDIS_URL to the broker of the workers, or start `mirror run`, which needs none.",
    ),
    "key-kind": error(
        "an API key is of the wrong kind, belongs to another project, or has expired",
        "the target refuses every call, so events wait",
        "Copy a secret key from the project's settings, or sign a token for mirror_writer.",
    ),
    "key-expiring": warning(
        "an API key expires within two weeks",
        "from then on the target refuses every call",
        "Create a new key and give it to the workers.",
    ),
    "listen-deaf": warning(
        "PRIMARY_LISTEN_URL leads to a transaction pooler or to another database",
        "it delivers no notifications, so the relay polls",
        "Set it to the direct URL of the primary. Until then the relay polls.",
    ),
    # Either side as a whole
    "primary-unreachable": error(
        "the primary does not answer",
        "nothing is mirrored until it does, and nothing there was checked",
        "Start the primary, or correct PRIMARY_DATABASE_URL.",
    ),
    "primary-refused": error(
        "the primary refuses a query of the mirror",
        "what it reads was not checked, and workers may fail in the same way",
        "Grant the missing privilege to the role in PRIMARY_DATABASE_URL.",
    ),
    "primary-not-migrated": error(
        "the primary has no outbox: it was never migrated",
        "transactions that record an event fail",
        "Run `mirror migrate primary`.",
    ),
    "primary-replica": error(
        "PRIMARY_DATABASE_URL leads to a standby",
        "fences need the primary server, so nothing is mirrored",
        "Set it to the URL of the primary server.",
    ),
    "primary-version": error(
        f"PostgreSQL on the primary is older than {OLDEST['primary']}",
        "`mirror migrate` refuses it, and statements of the mirror may fail",
        "Upgrade it to a supported version.",
    ),
    "primary-behind": error(
        "the primary is missing migrations of this version",
        "statements of this version may fail there",
        "Run `mirror migrate primary`.",
    ),
    "primary-ahead": error(
        "the primary has migrations of a newer version",
        "an older version runs here, and its statements may fail",
        "Install the newer version of permission-mirror here.",
    ),
    "target-unreachable": error(
        "the target does not answer",
        "nothing is mirrored until it does, and nothing there was checked",
        "Restore the project, or correct SUPABASE_DB_URL or SUPABASE_URL.",
    ),
    "target-refused": error(
        "the target refuses a query of the mirror",
        "what it reads was not checked, and writes may fail in the same way",
        "Connect as postgres, or with a secret key or a token for mirror_writer.",
    ),
    "key-refused": error(
        "the target's API rejects the key",
        "nothing is mirrored, so revoked users keep their access",
        "Use a key of the project that SUPABASE_URL names.",
    ),
    "target-not-migrated": error(
        "the target is missing schema mirror or one of its functions",
        "nothing is mirrored; events wait",
        "Run `mirror migrate supabase`. If it has nothing to apply, run `mirror migrate supabase"
        ' --sql | psql -1 -v ON_ERROR_STOP=1 "$SUPABASE_DB_URL"`.',
    ),
    "target-version": error(
        f"PostgreSQL in the target is older than {OLDEST['supabase']}",
        "`mirror migrate` refuses it, and functions of the mirror may fail",
        "Upgrade the project in its dashboard.",
    ),
    "target-behind": error(
        "the target is missing migrations, or was migrated from other declarations",
        "the target refuses writes of the mappings that differ, and may lack functions",
        "Run `mirror migrate supabase`, deploy the workers, then run `mirror resync`.",
    ),
    "target-ahead": error(
        "the target has migrations of a newer version",
        "an older version runs here, and the target may refuse its writes",
        "Install the newer version of permission-mirror here.",
    ),
    "api-stale": error(
        "the project's API has not noticed the last migration",
        "calls of new functions fail, so events wait",
        "Run `notify pgrst, 'reload schema'` in the target.",
    ),
    "clock-skew": warning(
        "the clocks of a server and of this machine differ by more than 30 seconds",
        "tokens and rows expire at the wrong time",
        "Synchronise the clocks with NTP.",
    ),
    # Source and declarations
    "mapping-digest": error(
        "the target was migrated to another version of a mapping",
        "it refuses this mapping's rows, so their events wait",
        REMEDIES["mapping-digest"],
    ),
    "stale": error(
        "the target is older than `max_staleness`",
        "policies refuse every user",
        REMEDIES["stale"],
    ),
    "failed-over": error(
        "a server of the pair has failed over, and both sides have not been compared since",
        "the target may allow what the primary refuses, or refuse what it allows",
        REMEDIES["failed-over"],
    ),
    "not-paired": error(
        "primary and target did not take their last step together: one of them is another "
        "database, a copy, or was restored",
        "events wait, and users keep the access that they had",
        REMEDIES["not-paired"],
    ),
    # The mappings and the primary's tables
    "source-filtered": error(
        "row-level security on the primary could hide rows from the mirror's role",
        "the mapping's reads are refused, so its events wait",
        "`alter role ROLE bypassrls`, or connect as the owner of table {table}, which must not"
        " have FORCE ROW LEVEL SECURITY.",
    ),
    "source-unlogged": warning(
        "a table that a mapping reads is UNLOGGED",
        "after a crash it is empty, without an event, and the target keeps its rows",
        "`alter table {table} set logged`.",
    ),
    "source-query": error(
        "the query of a mapping fails: a table or column is missing, or the mirror may not read it",
        "the mapping's events wait, and the target keeps its rows",
        "Correct mapping {mapping}, or migrate your tables first.",
    ),
    "source-changed": error(
        "what a mapping reads was altered since all of its rows were last compared",
        "rows may have changed without an event",
        "Run `mirror resync {mapping}`, or `mirror reconcile --mapping {mapping}`.",
    ),
    "source-type": error(
        "a column of the primary cannot be cast to the type in the mapping",
        "the mapping cannot be read, so its events wait",
        "Correct the type in mapping {mapping}, or add a cast to its query.",
    ),
    "source-cast": warning(
        "a column of the primary can hold values that do not fit the type in the mapping",
        "the event of a row with such a value fails; a key that may have lost access is withheld",
        "Use the primary's type in mapping {mapping}, or text.",
    ),
    "source-key": error(
        "the primary cannot compare the type of a key or reference with its type in the mapping",
        "the mapping cannot be read, so its events wait",
        "In the query of mapping {mapping}, cast {column} to {type}.",
    ),
    "source-scan": warning(
        "no index of a large table serves the column of a key or reference as the query "
        "computes it, with a cast for example",
        "each read compares all rows of the table, so events are late and the primary is busy",
        "Create an index in the primary on the expression of {column} in the query of mapping"
        " {mapping}.",
    ),
    "expires-zone": error(
        "the column by which a mapping's rows expire has no time zone in the primary",
        "it is read as UTC, so rows may expire hours too late",
        "Write `{column} AT TIME ZONE 'UTC'` in the query of mapping {mapping}, with the zone that"
        " its times are in.",
    ),
    "enum-label": error(
        "`active` of a mapping lists a value that the primary's enum does not have",
        "no row can have it, so users who should have access may have none",
        "Correct `active` in mapping {mapping}.",
    ),
    "role-unknown": warning(
        "the primary's enum has a role that is not a level of the membership",
        "this role grants nothing",
        "If the role should grant access, add it to the levels of the membership over mapping"
        " {mapping}.",
    ),
    "triggers-behind": error(
        "the triggers were installed from older mappings",
        "changes that only the new mappings read are lost until the next reconcile",
        "Run `mirror migrate primary`.",
    ),
    "trigger-missing": error(
        "a trigger is missing, disabled, changed, or not enabled always, so that it does not "
        "run under replication",
        "changes are lost until the next reconcile",
        "Run `mirror migrate primary`, then `mirror resync`.",
    ),
    # The target's tables
    "table-missing": error(
        "a mirrored or guarded table does not exist",
        "statements that read it fail; events of its mapping wait",
        "Restore the table, then run `mirror migrate supabase` and `mirror resync`.",
    ),
    "column-missing": error(
        "a mirrored table is missing a column of its mapping",
        "the target refuses the mapping's rows, so its events wait",
        "Run `alter table {table} add column {column} {type}`, then `mirror resync`.",
    ),
    "column-type": error(
        "a column of a mirrored table has another type than in the mapping",
        "the target may refuse values, or store others than the primary has",
        "alter table {table} alter column {column} type {type} using {column}::{type};",
    ),
    "column-required": error(
        "a mirrored table requires a value that the mirror may not have",
        "the target refuses rows",
        "alter table {table} alter column {column} drop not null;",
    ),
    "column-extra": warning(
        "a mirrored table has a column that is not in the mapping",
        "the next migration refuses to run",
        "Run `alter table {table} drop column {column}`, or add the column to the mapping.",
    ),
    "leftover": warning(
        "the target has a table, column or function that an earlier version of the mappings "
        "declared",
        "it takes space; no access depends on it",
        "Look at it, then run `mirror migrate supabase --prune`.",
    ),
    "reference-missing": warning(
        "a mirrored table lacks the foreign key to a parent of its mapping",
        "if a parent is deleted by hand, its children stay until the next reconcile",
        "Run `alter table {table} add foreign key ({column}) references {parent} on delete"
        " cascade`. If it refuses rows, `mirror reconcile` deletes them.",
    ),
    "reference-outside": error(
        "a mirrored table has a foreign key that its mapping does not declare, to auth.users "
        "for example",
        "the target refuses rows without a counterpart there",
        "alter table {table} drop constraint {constraint};",
    ),
    "column-generated": error(
        "a mirrored column is generated",
        "the target refuses the mirror's values",
        "Run `alter table {table} alter column {column} drop expression`; of an identity column,"
        " `drop identity`.",
    ),
    "write-altered": error(
        "a trigger or rule that is not the mirror's can change or drop the rows that the "
        "mirror writes",
        "the target may allow more than the primary",
        "Run `{command}` The mapping's query can compute the values instead.",
    ),
    "write-refused": warning(
        "a constraint, unique index or trigger that is not the mirror's can refuse a row of "
        "the primary",
        "the target then keeps the row that it has",
        "Run `{command}` An index that is not unique refuses nothing.",
    ),
    "writer-filtered": error(
        "row-level security of a mirrored table applies to the mirror's own role",
        "its writes are refused",
        "Run `alter table {table} no force row level security`. The table must belong to the role"
        " that migrates.",
    ),
    "table-inherited": error(
        "a mirrored table inherits from another table, is a partition, or has children",
        "rows are read past its policies, or past the mirror",
        "Run `alter table {child} no inherit {parent}`; of a partition,"
        " `alter table {parent} detach partition {child}`.",
    ),
    "delete-cascades": error(
        "a foreign key deletes or changes rows of a table that is not mirrored when the mirror"
        " deletes a row",
        "you lose rows of your own when access is revoked",
        'Drop constraint {constraint} of {table}, or declare on_delete="retain" in mapping'
        " {mapping}.",
    ),
    "delete-blocked": warning(
        "a foreign key of a table that is not mirrored keeps the mirror from deleting rows",
        "they stay with their key alone, and grant nothing",
        'Declare on_delete="retain" in mapping {mapping}, or drop constraint {constraint} of'
        " {table}.",
    ),
    "index-missing": warning(
        "policies, scopes or deletes find rows by a column that has no index",
        "statements of users and of the mirror are slow",
        "create index concurrently on {table} ({column});",
    ),
    "published": error(
        "a mirrored table is in the publication supabase_realtime",
        "every subscriber gets the keys of deleted rows, whatever the policies",
        "alter publication supabase_realtime drop table {table};",
    ),
    # Privileges and policies in the target
    "rls-off": error(
        "row-level security is off on a mirrored or guarded table",
        "policies have no effect: every role with a privilege reaches all rows",
        "alter table {table} enable row level security;",
    ),
    "grant-excess": error(
        "anon or authenticated has a privilege on a mirrored or guarded table that is not declared",
        "clients may read or write more than the declarations say",
        "Run `revoke {privilege} on {table} from public, {role}`, then grant the declared"
        " privileges again: `mirror ddl supabase | psql -1 -v ON_ERROR_STOP=1"
        ' "$SUPABASE_DB_URL"`, with `--guards` for guarded tables.',
    ),
    "grant-missing": warning(
        "authenticated is missing a declared privilege",
        "the target refuses clients",
        "grant {privilege} on {table} to authenticated;",
    ),
    "function-executable": error(
        "anon or authenticated can execute a function that only the mirror may call",
        "a client could read or change what the mirror holds",
        "revoke execute on function {function} from public, {role};",
    ),
    "function-shared": error(
        "two models in the target declare the same function",
        "policies of both decide by the rows of the model that was migrated last",
        "Give the declaration of one of them another `noun`, or another `check`, and run"
        " `mirror migrate supabase` for both.",
    ),
    "guards-missing": warning(
        "guards are declared but were never installed",
        "their tables have no policies of the mirror",
        "Run `mirror migrate supabase --guards`.",
    ),
    "guards-behind": error(
        "the guards were installed from older declarations",
        "policies decide by the older rules",
        "Run `mirror migrate supabase`.",
    ),
    "policy-missing": error(
        "a declared policy does not exist",
        "the target refuses clients",
        "Run `mirror migrate supabase --guards`; for a mirrored table, run"
        ' `mirror ddl supabase | psql -1 -v ON_ERROR_STOP=1 "$SUPABASE_DB_URL"`.',
    ),
    "bucket-public": error(
        "a bucket with guarded folders is public",
        "each file can be downloaded without a sign-in",
        "Run `update storage.buckets set public = false where id = {bucket}` in the target.",
    ),
    "guard-trigger-missing": error(
        "a trigger of the guards is missing or disabled",
        "clients get no message when their access changes, or can write protected columns",
        "Run `mirror migrate supabase --guards`.",
    ),
    "part-open": error(
        "a partition or child of a guarded table has no row-level security or its own policies",
        "under its own name, clients read and write its rows past the guard",
        "Run `alter table {part} enable row level security`, and drop its permissive policies.",
    ),
    "view-open": warning(
        "a view of a mirrored or guarded table runs with its owner's rights",
        "its users see rows past the policies, and may be able to write them",
        "Run `alter view {view} set (security_invoker = on)`, or"
        " `revoke all on {view} from anon, authenticated`.",
    ),
    "policy-permissive": error(
        "a mirrored or guarded table has a permissive policy that is not declared",
        "one permissive policy is enough to allow a user, so it opens rows that the declared "
        "policies protect",
        "Run `drop policy {policy} on {table}`, or make the policy restrictive.",
    ),
    "policy-recursive": error(
        "policies read each other's tables in a circle",
        "statements fail with 42P17",
        "Read the table through a SECURITY DEFINER function, for example a helper of the mirror.",
    ),
    "policy-ignores-status": error(
        "a policy reads a membership table without its status",
        "former members keep access",
        "Call a helper of the mirror instead, or add the condition on {column}.",
    ),
    "policy-unwrapped": warning(
        "a policy calls auth.uid() or a helper once per row",
        "statements that read many rows are slow",
        "Write `(select {call})`, which PostgreSQL runs once per statement.",
    ),
    # Processing of events
    "outbox-late": error(
        "an event has been waiting for too long",
        "changes are late, and revoked users may still have access",
        REMEDIES["outbox-late"],
    ),
    "consumer-missing": error(
        "no worker has read the outbox lately",
        "changes do not reach the target, and revoked users keep their access",
        "Start a worker: `celery -A mirror.worker worker`, or `mirror run`.",
    ),
    "beat-missing": warning(
        "beat has not run lately",
        "events whose doorbell message was lost wait, and nothing is purged or reconciled",
        "Start beat: `celery -A mirror.worker beat`, or `mirror run`.",
    ),
    "relay-missing": warning(
        "triggers record changes but no relay has run lately",
        "their events wait for beat",
        "Start a relay: `mirror relay`, or `mirror run`.",
    ),
    "broker-unreachable": error(
        "Redis does not answer",
        "no doorbell message wakes the workers, so changes are late",
        "Start Redis, or correct REDIS_URL.",
    ),
    "transaction-open": warning(
        "a transaction or replication slot on the primary has been open for too long",
        "vacuum cannot remove dead rows of the outbox, so claims become slow",
        "End it: {command}",
    ),
    "stuck": error(
        "events have failed for more than a minute",
        "the target is out of date for their keys",
        REMEDIES["stuck"],
    ),
    "buried": error(
        "the mirror stopped retrying events after repeated failures",
        "the target stays out of date for their keys",
        REMEDIES["buried"],
    ),
    "parked": error(
        "all rows of a mapping fail alike",
        "its events wait and the target keeps its rows",
        REMEDIES["parked"],
    ),
    "unclaimed": error(
        "no worker knows a mapping as the target does",
        "its events wait",
        REMEDIES["unclaimed"],
    ),
    "withheld": error(
        "keys may have lost access, and can be neither read nor written",
        "they grant nothing",
        REMEDIES["withheld"],
    ),
    "last-reconcile": error(
        "the last reconcile did not repair everything",
        "the target may allow too much or too little",
        REMEDIES["last-reconcile"],
    ),
    "two-schedulers": warning(
        "both beat and the platform's scheduler start reconciles",
        "each comparison is made twice",
        REMEDIES["two-schedulers"],
    ),
}
"""By code, in the order in which the doctor prints findings of one severity."""
