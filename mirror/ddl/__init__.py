"""The SQL that declarations turn into."""

from mirror.ddl.capture import removal_sql, triggers_sql
from mirror.ddl.target import model_sql

__all__ = ["model_sql", "removal_sql", "triggers_sql"]
