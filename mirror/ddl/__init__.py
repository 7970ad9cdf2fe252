"""The SQL that declarations turn into."""

from mirror.ddl.target import model_sql

__all__ = ["model_sql"]
