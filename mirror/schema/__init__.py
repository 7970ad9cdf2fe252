"""Schema: the SQL that declarations turn into, and the migrations of both databases.

Runs in `mirror migrate`, in Alembic revisions, and wherever text becomes SQL (`quoting`). SQL that
people wrote lies in `migrations/`, at the top of the repository.
"""

from mirror.schema.guards import guards_sql
from mirror.schema.migrate import downgrade, upgrade
from mirror.schema.model_tables import model_sql
from mirror.schema.triggers import removal_sql, triggers_sql

__all__ = ["downgrade", "guards_sql", "model_sql", "removal_sql", "triggers_sql", "upgrade"]
