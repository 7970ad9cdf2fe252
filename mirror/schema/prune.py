"""Prune: drops from the target what earlier versions of a registry declared and this one does not.

A migration closes such tables, columns and functions, and leaves them for a person to look at
(`mirror.retire`). No statement has CASCADE.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from mirror.errors import NotMigrated, UsageError
from mirror.errors.sqlstates import IN_USE, server_error
from mirror.model.registry import Registry
from mirror.schema import catalog_queries
from mirror.schema.migrate import due, lock_migrations
from mirror.schema.quoting import identifier, literal
from mirror.schema.running import run, translated
from mirror.schema.sides import ROLE

_MOST_ROWS = 100_000
"""More rows of a table are not counted."""


@dataclass(frozen=True)
class Leftover:
    """A table, column or function that is not declared any more."""

    kind: str
    """`table`, `column` or `function`: the word after DROP."""
    name: str
    """As in SQL, with its schema; of a column, that of its table."""
    column: str
    """Not quoted; empty for tables and functions."""

    def __str__(self) -> str:
        """Return the kind and the name."""
        return f"{self.kind} {self.name}{'.' + self.column if self.column else ''}"


def read_leftovers(connection: Connection, registry: Registry) -> list[Leftover]:
    """Return what earlier versions of a registry have left in a target that is migrated."""
    rows = connection.execute(
        text("select kind, name, col from mirror.list_leftovers(:model)"), {"model": registry.name}
    )
    return [Leftover(*row) for row in rows]


def plan_pruning(connection: Connection, registry: Registry) -> tuple[list[str], list[str]]:
    """Return the statements that drop what is not declared any more, and notes on it.

    They are run and undone, so those that are returned work. Both lists are empty if nothing is
    left. The connection stays in its transaction, in which no migration can begin meanwhile.

    Raises:
        UsageError: the target is not migrated to this registry.
        NotMigrated: objects of the user's use what would go; the message names them.
        NotInTransaction, MirrorError: as `upgrade`.
    """
    with translated("supabase"):
        lock_migrations(connection)
        waiting = due(connection, "supabase", registry)
        if waiting:
            raise UsageError(
                f"{ROLE['supabase']}: {', '.join(step.name for step in waiting)} is to be applied "
                f"first: run `mirror migrate supabase`, deploy the workers, run `mirror resync`."
            )
        leftovers = read_leftovers(connection, registry)
        drops = _drops(registry, leftovers)
        if not drops:
            return [], []
        _check_callers(connection, leftovers)
        notes = [_rows(connection, each) for each in leftovers if each.kind == "table"]
        undone = connection.begin_nested()
        try:
            run_pruning(connection, drops)
        finally:
            undone.rollback()
    return drops, notes


def run_pruning(connection: Connection, drops: list[str]) -> None:
    """Run the statements of `plan_pruning` in the caller's transaction.

    Raises:
        NotMigrated: objects of the user's use what would go; the message names them.
    """
    with translated("supabase"):
        # A batch in flight and these statements could deadlock.
        run(connection, "select pg_advisory_xact_lock(1835627122, 1)")
        for drop in drops:
            try:
                run(connection, drop)
            except DBAPIError as error:
                found = server_error(error.orig)
                if found.state != IN_USE:
                    raise
                raise NotMigrated(
                    f"{ROLE['supabase']}: objects of yours use what would go: "
                    f"{found.detail or found.message}. Drop or change them first; nothing was "
                    f"changed."
                ) from None


def _drops(registry: Registry, leftovers: list[Leftover]) -> list[str]:
    names = {
        kind: [each.name for each in leftovers if each.kind == kind]
        for kind in ("function", "table")
    }
    drops = [
        f"alter table {each.name} drop column {identifier(each.column)};"
        for each in leftovers
        if each.kind == "column"
    ]
    # Together, because they refer to each other.
    drops += [f"drop {kind}\n  " + ",\n  ".join(names[kind]) + ";" for kind in names if names[kind]]
    if drops:
        drops.append(f"delete from mirror.leftovers where model = {literal(registry.name)};")
    return drops


def _check_callers(connection: Connection, leftovers: list[Leftover]) -> None:
    """Refuse if the text of a function of the user's names a table or function that would go.

    PostgreSQL does not know of that.
    """
    names = {each.name.partition("(")[0] for each in leftovers if each.kind != "column"}
    if not names:
        return
    parameters = {"pattern": catalog_queries.naming(names), "oids": []}
    callers = list(connection.scalars(text(catalog_queries.CALLERS), parameters))
    if callers:
        raise NotMigrated(
            f"{ROLE['supabase']}: functions of yours name what would go: {', '.join(callers)}. "
            f"Change them first; nothing was changed."
        )


def _rows(connection: Connection, table: Leftover) -> str:
    counted = f"select count(*) from (select from {table.name} limit {_MOST_ROWS + 1}) as t"
    ((rows,),) = run(connection, counted)
    return f"{table.name}: {f'more than {_MOST_ROWS:,}' if rows > _MOST_ROWS else rows} row(s)"
