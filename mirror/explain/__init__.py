"""Explain: follow one permission from the primary's row to what row-level security answers."""

from mirror.explain.page import Page, Step, Word
from mirror.explain.run import access_to, explain_key, explain_resource, explain_table

__all__ = ["Page", "Step", "Word", "access_to", "explain_key", "explain_resource", "explain_table"]
