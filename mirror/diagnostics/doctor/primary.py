"""The primary: what is asked of it."""

import time
from dataclasses import dataclass, field

from psycopg import sql

from mirror.errors import MirrorError, Permanent
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.schema.quoting import identifier
from mirror.sync.connections import Database
from mirror.sync.row_queries import row_query
from mirror.sync.source import Source

_SERVER = """
select current_setting('server_version_num')::integer, pg_is_in_recovery(),
  extract(epoch from clock_timestamp())::float8
"""

# Whatever keeps vacuum from removing what died since it began. Sessions of other roles show
# nothing of themselves to a role that is no member of pg_read_all_stats.
_OPEN = """
select format('session %s of role %s (%s)', pid, usename, coalesce(state, backend_type)),
  extract(epoch from now() - xact_start)::float8, format('select pg_terminate_backend(%s);', pid)
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid()
  and backend_type <> 'autovacuum worker' and coalesce(backend_xmin, backend_xid) is not null
  and xact_start is not null
union all
select format('prepared transaction %L', gid), extract(epoch from now() - prepared)::float8,
  format('rollback prepared %L;', gid)
from pg_prepared_xacts
where database = current_database()
union all
select format('replication slot %I, which nobody uses,', slot_name), null,
  format('select pg_drop_replication_slot(%L);', slot_name)
from pg_replication_slots
where not active and xmin is not null
"""

_HISTORY = "select name, checksum from mirror.migrations"

_TRIGGERS = """
select s.name, t.tgname::text, t.tgenabled::text
from unnest(%s::text[]) as s (name)
left join pg_trigger as t on t.tgrelid = to_regclass(s.name) and not t.tgisinternal
where to_regclass(s.name) is not null
"""

_TYPES = """
select t.oid, format_type(t.oid, null),
  array(select e.enumlabel::text from pg_enum as e where e.enumtypid = t.oid)
from pg_type as t
where t.oid = any(%s::oid[])
"""

_SAME = (
    "select d.name, format_type(to_regtype(d.name)::oid, null) from unnest(%s::text[]) as d (name)"
)


@dataclass(frozen=True)
class OpenTransaction:
    """Something that keeps vacuum from its work."""

    what: str
    seconds: float | None
    """How long it has been open; None: that is not known."""
    command: str
    """What ends it."""


@dataclass(frozen=True)
class SourceColumn:
    """A column of a mapping's query, as the primary yields it."""

    type: str
    labels: tuple[str, ...]
    """An enum's values."""
    declared: str | None
    """What the primary calls the mapping's type; None: it has none."""


@dataclass
class PrimaryState:
    """What the primary says."""

    version: int = 0
    replica: bool = False
    skew_seconds: float = 0.0
    """How far its clock is ahead of ours."""
    open_transactions: list[OpenTransaction] = field(default_factory=list)
    migrated: bool = False
    """It told its history."""
    applied: dict[str, str] = field(default_factory=dict)
    """Its migrations: checksums by name."""
    triggers: dict[str, dict[str, str]] = field(default_factory=dict)
    """By table as the mappings call it: pg_trigger's `tgenabled` by trigger."""
    heartbeats: dict[str, float] | None = None
    """Seconds since each part was last at work; None: the primary keeps none."""
    columns: dict[str, dict[str, SourceColumn]] = field(default_factory=dict)
    """By mapping and label."""
    refused: dict[str, MirrorError] = field(default_factory=dict)
    """By mapping: why its query does not run."""
    uncastable: dict[str, list[str]] = field(default_factory=dict)
    """By mapping: columns that cannot be read as its types."""


def read_server(database: Database) -> PrimaryState:
    """Return what the server says of itself, whether or not it was migrated.

    Raises:
        MirrorError: it does not answer.
    """
    began = time.time()
    version, replica, now = database.execute(_SERVER)[0]
    opened = [OpenTransaction(*row) for row in database.execute(_OPEN)]
    return PrimaryState(version, replica, now - (began + time.time()) / 2, opened)


def read_installed(primary: PrimaryState, database: Database, registry: Registry) -> None:
    """Add what our own tables say, and which triggers there are.

    Raises:
        MirrorError: they are not there, or may not be read.
    """
    primary.applied = dict(database.execute(_HISTORY))
    primary.migrated = True
    tables = {identifier(*table.split(".", 1)): table for table in registry.effects}
    for name, trigger, enabled in database.execute(_TRIGGERS, [list(tables)]):
        primary.triggers.setdefault(tables[name], {}).update({trigger: enabled} if trigger else {})
    if database.execute("select to_regclass('mirror.heartbeats') is not null")[0][0]:
        primary.heartbeats = dict(
            database.execute(
                "select name, extract(epoch from now() - seen_at)::float8 from mirror.heartbeats"
            )
        )


def read_columns(primary: PrimaryState, source: Source, registry: Registry) -> None:
    """Add what each mapping's query yields; no row of it is read.

    Raises:
        Transient: the primary does not answer any more.
    """
    database = source.database
    for mapping in registry:
        query, values = row_query(mapping), source.desired.values(mapping)
        plain = sql.SQL(", ").join(
            sql.SQL("q.{}").format(sql.Identifier(name)) for name, _ in mapping.row_layout
        )
        try:
            primary.columns[mapping.name] = _describe(database, mapping, _none_of(plain, query))
            with_types = _none_of(values, query)
        except Permanent as error:
            primary.refused[mapping.name] = error
            continue
        try:
            database.execute(with_types, [0])
        except Permanent:
            primary.uncastable[mapping.name] = [
                name
                for name, kind in mapping.row_layout
                if not _casts(database, primary.columns[mapping.name][name].type, kind)
            ]


def _none_of(values: sql.Composed, query: sql.Composable) -> sql.Composed:
    return sql.SQL("select {} from ({}) as q limit %s").format(values, query)


def _describe(
    database: Database, mapping: Mapping, statement: sql.Composed
) -> dict[str, SourceColumn]:
    oids = database.column_types(statement, [0])
    types = {oid: (name, tuple(labels)) for oid, name, labels in database.execute(_TYPES, [oids])}
    declared = dict(database.execute(_SAME, [[kind for _, kind in mapping.row_layout]]))
    return {
        name: SourceColumn(*types[oid], declared=declared[kind])
        for (name, kind), oid in zip(mapping.row_layout, oids, strict=True)
    }


def _casts(database: Database, kind: str, wanted: str) -> bool:
    try:
        # Types as the server and the declarations spell them: a developer's words.
        database.execute(f"select null::{kind}::{wanted}::text")
    except Permanent:
        return False
    return True
