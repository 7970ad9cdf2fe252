"""Schema: composes SQL from declarations, migrates both databases, and uninstalls.

`mirror migrate`, `mirror ddl`, `mirror uninstall` and Alembic revisions run it; `mirror.access`
uses its quoting. The hand-written migrations are in `migrations/`, at the top of the repository.
The SQL of the printed functions is in `skeletons/`, with placeholders.
"""

from mirror.schema.guard_policies import guards_sql
from mirror.schema.migrate import upgrade
from mirror.schema.model_tables import model_sql
from mirror.schema.triggers import removal_sql, triggers_sql
from mirror.schema.uninstall import downgrade

__all__ = ["downgrade", "guards_sql", "model_sql", "removal_sql", "triggers_sql", "upgrade"]
