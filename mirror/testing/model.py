"""Model: what is tested, and how it is installed in two empty databases."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, NullPool, create_engine

from mirror.model.registry import Registry
from mirror.schema import upgrade

Tables = str | Path | Callable[[Connection], object] | None
"""SQL, a file of SQL, a function that takes a SQLAlchemy connection, or nothing."""


@dataclass(frozen=True)
class Model:
    """A registry, and the tables on both sides that are not the mirror's."""

    registry: Registry
    primary: Tables = None
    """Creates the backend's tables; for example `Base.metadata.create_all`."""
    target: Tables = None
    """Creates your own tables in the target, which guards name. The mirrored tables exist then."""
    triggers: bool = False
    """Whether triggers record changes, as after `mirror migrate primary --triggers`. False: your
    hooks or ORM capture do, as in the backend."""

    def install(self, primary_url: str, target_url: str) -> None:
        """Create all tables in two empty databases, and migrate both, guards included.

        Raises:
            MirrorError: as `mirror.schema.upgrade`.
        """
        _run(primary_url, self.primary)
        _run(primary_url, lambda c: upgrade(c, "primary", self.registry, triggers=self.triggers))
        _run(target_url, lambda c: upgrade(c, "supabase", self.registry))
        _run(target_url, self.target)
        _run(target_url, lambda c: upgrade(c, "supabase", self.registry, guards=True))


def sqlalchemy_url(url: str) -> str:
    """Return a libpq URL as SQLAlchemy takes it, for psycopg."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def _run(url: str, tables: Tables) -> None:
    if tables is None:
        return
    with create_engine(sqlalchemy_url(url), poolclass=NullPool).begin() as connection:
        if isinstance(tables, Path):
            tables = tables.read_text(encoding="utf-8")
        if isinstance(tables, str):
            # Without parameters, so that psycopg runs several statements and leaves each % alone.
            connection.connection.cursor().execute(tables)
        else:
            tables(connection)
