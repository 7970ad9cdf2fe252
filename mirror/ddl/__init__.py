"""The SQL that declarations turn into."""

from mirror.ddl.capture import removal_sql, triggers_sql
from mirror.ddl.guards import guards_sql
from mirror.ddl.target import model_sql

__all__ = ["guards_sql", "model_sql", "removal_sql", "triggers_sql"]
