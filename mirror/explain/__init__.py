"""Explain: follow one permission from the primary's row to what row-level security answers."""

from mirror.explain.audit import Audit, Mismatch, audit
from mirror.explain.page import Page, Step, Word
from mirror.explain.run import explain_key, explain_resource, question_about
from mirror.explain.statement import explain_table

__all__ = [
    "Audit",
    "Mismatch",
    "Page",
    "Step",
    "Word",
    "audit",
    "explain_key",
    "explain_resource",
    "explain_table",
    "question_about",
]
