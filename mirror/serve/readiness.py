"""Readiness: why the page cannot do its work yet."""

from mirror.diagnostics.figures import Unknown
from mirror.errors.redaction import one_line
from mirror.serve.watch import Watch


def not_ready(watch: Watch) -> list[str]:
    """Return why the app is not ready: a side does not answer, or is not migrated; empty: it is."""
    reading = watch.read()
    figures = reading.figures
    reasons = {
        one_line(str(part.error)): None
        for part in (figures.primary, figures.primary_migrations, figures.target)
        if isinstance(part, Unknown)
    }
    behind = [
        one_line(found.what)
        for found in reading.problems
        if found.code in {"primary-behind", "target-behind", "primary-ahead", "target-ahead"}
    ]
    return [*reasons, *behind]
