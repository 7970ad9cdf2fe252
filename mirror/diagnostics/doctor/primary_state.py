"""Primary state: the state of the primary that the checks need, and how it is read."""

import time
from dataclasses import dataclass, field

from psycopg import sql

from mirror.diagnostics.doctor.source_reads import Scan, read_scans
from mirror.errors import MirrorError, Permanent
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.schema.key_types import incomparable_columns
from mirror.schema.quoting import identifier
from mirror.schema.trigger_state import missing_triggers
from mirror.sync.connections import Database
from mirror.sync.row_queries import row_query
from mirror.sync.snapshot import Source
from mirror.sync.structure import find_changed_structures

_SERVER = """
select current_setting('server_version_num')::integer, pg_is_in_recovery(),
  extract(epoch from clock_timestamp())::float8
"""

# Everything with an old snapshot or transaction id: vacuum keeps all rows that died since then.
# A role that is not a member of pg_read_all_stats does not see these columns of other roles'
# sessions.
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
select format('the inactive replication slot %I', slot_name), null,
  format('select pg_drop_replication_slot(%L);', slot_name)
from pg_replication_slots
where not active and xmin is not null
"""

_FILTERED = """
select s.name from unnest(%s::text[]) as s (name)
where row_security_active(to_regclass(s.name)::oid)
order by 1
"""

_UNLOGGED = """
select s.name from unnest(%s::text[]) as s (name)
join pg_class as c on c.oid = to_regclass(s.name)
where c.relpersistence = 'u'
order by 1
"""

_TYPES = """
select t.oid, format_type(t.oid, null),
  array(select e.enumlabel::text from pg_enum as e where e.enumtypid = t.oid)
from pg_type as t
where t.oid = any(%s::oid[])
"""

_SERVER_TYPE_NAMES = (
    "select d.name, format_type(to_regtype(d.name)::oid, null) from unnest(%s::text[]) as d (name)"
)


@dataclass(frozen=True)
class OpenTransaction:
    """A session, prepared transaction or replication slot that holds back vacuum."""

    name: str
    seconds: float | None
    """How long it has been open; None: unknown."""
    command: str
    """The SQL statement that ends it."""


@dataclass(frozen=True)
class SourceColumn:
    """A column of a mapping's query in the primary."""

    type: str
    """The type as the server spells it."""
    labels: tuple[str, ...]
    """The values of an enum; empty for other types."""
    declared: str | None
    """The mapping's type as the server spells it; None: the server does not have this type."""


@dataclass
class PrimaryState:
    """The primary beside its figures; parts that could not be read keep their defaults."""

    version: int = 0
    replica: bool = False
    """Whether the server is a standby."""
    skew_seconds: float = 0.0
    """How far its clock is ahead of this machine's; negative: behind."""
    open_transactions: list[OpenTransaction] = field(default_factory=list)
    missing_triggers: dict[str, list[str]] = field(default_factory=dict)
    """By table: the triggers that are missing there, or are not as they are printed, with their
    states."""
    filtered: list[str] = field(default_factory=list)
    """The tables, as in the mappings, whose row-level security applies to the mirror's role."""
    unlogged: list[str] = field(default_factory=list)
    """The tables, as in the mappings, that a crash of the server empties."""
    changed: dict[str, list[str]] = field(default_factory=dict)
    """By mapping name: what has changed in the structure of what it reads since all of its rows
    were last compared or recorded as changed."""
    columns: dict[str, dict[str, SourceColumn]] = field(default_factory=dict)
    """By mapping name and column name."""
    refused: dict[str, MirrorError] = field(default_factory=dict)
    """By mapping name: why its query fails."""
    uncastable: dict[str, list[str]] = field(default_factory=dict)
    """By mapping name: columns that cannot be cast to the declared types."""
    incomparable: dict[str, list[str]] = field(default_factory=dict)
    """By mapping name: keys and references that cannot be compared with the declared types."""
    scans: dict[str, list[Scan]] = field(default_factory=dict)
    """By mapping name: reads of keys and references that compare each row of a large table."""


def read_server(database: Database) -> PrimaryState:
    """Return a state with only the server's own facts; needs no migration.

    These are its version, whether it is a standby, its clock, and open transactions.

    Raises:
        MirrorError: the server does not answer, or refuses the query.
    """
    began = time.time()
    version, replica, now = database.execute(_SERVER)[0]
    open_transactions = [OpenTransaction(*row) for row in database.execute(_OPEN)]
    return PrimaryState(version, replica, now - (began + time.time()) / 2, open_transactions)


def read_tables(primary: PrimaryState, database: Database, registry: Registry) -> None:
    """Add to `primary` the triggers, the row-level security and changes of the mapped tables.

    Raises:
        MirrorError: the server does not answer, or refuses the query.
    """
    tables = {identifier(*table.split(".", 1)): table for table in registry.effects}
    primary.missing_triggers = missing_triggers(registry, database.execute)
    primary.filtered = [tables[name] for (name,) in database.execute(_FILTERED, [list(tables)])]
    primary.unlogged = [tables[name] for (name,) in database.execute(_UNLOGGED, [list(tables)])]
    primary.changed = find_changed_structures(database, registry)


def read_columns(primary: PrimaryState, source: Source, registry: Registry) -> None:
    """Add to `primary` the columns that each mapping's query yields, or the query's error.

    Also add the columns that cannot be cast to their declared types or compared with them, and
    reads that scan large tables. No row is read.

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
            primary.columns[mapping.name] = _describe(database, mapping, _limited(plain, query))
            with_casts = _limited(values, query)
            incomparable = incomparable_columns(mapping, database.execute)
        except Permanent as error:
            primary.refused[mapping.name] = error
            continue
        primary.incomparable[mapping.name] = [one.column for one in incomparable]
        try:
            database.execute(with_casts, [0])
        except Permanent:
            primary.uncastable[mapping.name] = [
                name
                for name, declared_type in mapping.row_layout
                if not _can_cast(database, primary.columns[mapping.name][name].type, declared_type)
            ]
            continue
        try:
            # A mapping with these columns cannot be read at all.
            primary.scans[mapping.name] = [] if incomparable else read_scans(database, mapping)
        except Permanent as error:
            primary.refused[mapping.name] = error


def _limited(values: sql.Composed, query: sql.Composable) -> sql.Composed:
    """Return a SELECT that takes its LIMIT as a parameter; with 0 it reads no row."""
    return sql.SQL("select {} from ({}) as q limit %s").format(values, query)


def _describe(
    database: Database, mapping: Mapping, statement: sql.Composed
) -> dict[str, SourceColumn]:
    """Return the columns that a SELECT of a mapping's columns yields, by name."""
    oids = database.column_types(statement, [0])
    types = {oid: (name, tuple(labels)) for oid, name, labels in database.execute(_TYPES, [oids])}
    declared_types = [type_ for _, type_ in mapping.row_layout]
    server_names = dict(database.execute(_SERVER_TYPE_NAMES, [declared_types]))
    return {
        name: SourceColumn(*types[oid], declared=server_names[type_])
        for (name, type_), oid in zip(mapping.row_layout, oids, strict=True)
    }


def _can_cast(database: Database, type_: str, declared_type: str) -> bool:
    try:
        # Both types come from the server and from the declarations, so they are no user input.
        database.execute(f"select null::{type_}::{declared_type}::text")
    except Permanent:
        return False
    return True
