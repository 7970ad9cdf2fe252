"""Explain: follows one permission from the primary's row to the answer of row-level security."""

from mirror.diagnostics.explain.audit import Audit, Mismatch, audit
from mirror.diagnostics.explain.explanation import Explanation, Step, StepStatus
from mirror.diagnostics.explain.permission import explain_key, explain_resource, question_about
from mirror.diagnostics.explain.services import explain_channel, explain_file
from mirror.diagnostics.explain.statement import explain_table

__all__ = [
    "Audit",
    "Explanation",
    "Mismatch",
    "Step",
    "StepStatus",
    "audit",
    "explain_channel",
    "explain_file",
    "explain_key",
    "explain_resource",
    "explain_table",
    "question_about",
]
