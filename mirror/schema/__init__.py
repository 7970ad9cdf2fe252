"""Schema: composes SQL from declarations, and migrates both databases.

`mirror migrate`, `mirror ddl` and Alembic revisions run it; `mirror.access` uses its quoting. The
hand-written migrations are in `migrations/`, at the top of the repository. The SQL of the printed
functions is in `skeletons/`, with placeholders.
"""

from mirror.schema.guard_policies import guards_sql
from mirror.schema.migrate import downgrade, upgrade
from mirror.schema.model_tables import model_sql
from mirror.schema.triggers import removal_sql, triggers_sql

__all__ = ["downgrade", "guards_sql", "model_sql", "removal_sql", "triggers_sql", "upgrade"]
