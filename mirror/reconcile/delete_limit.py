"""Delete limit: refuses the deletes of a mapping if they are suspiciously many.

Then the primary may be wrong, not the target.
"""

from typing import Literal

from mirror.reconcile.report import MappingReport

FEWEST = 100
SHARE = 0.01


def refuse_deletes(
    part: MappingReport,
    *,
    max_deletes: int | None,
    confirmed: bool,
    command: Literal["reconcile", "resync"] = "reconcile",
) -> str | None:
    """Return why the rows that only the target has must not be deleted; None: they may be.

    They must not be deleted if the primary has no row of the mapping, if there are more than 100 of
    them and the primary has less than half of the target's rows, or if there are more of them than
    `max_deletes` (None: 100 rows or 1 % of the target's rows, whichever is more). Rows past their
    expiry do not count, except in that 1 %. `confirmed` lifts every limit. The remedy that is
    returned is an option of `command`.
    """
    if confirmed or not part.extra:
        return None
    confirm = f"If that is right, run `mirror {command} --confirm {part.mapping}`."
    if not part.rows:
        return (
            f"the primary has no row of {part.mapping} at all, the target has {part.target_rows}: "
            f"none of them was deleted. {confirm}"
        )
    unexpired = part.target_rows - part.expired
    if part.extra > FEWEST and part.rows < unexpired / 2:
        return (
            f"the primary has only {part.rows} rows of {part.mapping}, the target has "
            f"{unexpired}: none of them was deleted. {confirm}"
        )
    limit = max(FEWEST, int(part.target_rows * SHARE)) if max_deletes is None else max_deletes
    if part.extra > limit:
        if command == "reconcile":
            confirm = f"If that is right, run `mirror reconcile --max-deletes {part.extra}`."
        return (
            f"{part.extra} rows of {part.mapping} would be deleted, more than {limit}: none was "
            f"deleted. {confirm}"
        )
    return None
