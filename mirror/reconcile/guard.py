"""Guard: when so much would be deleted that the primary, not the target, may be what is wrong."""

from mirror.reconcile.report import MappingReport

FEWEST = 100
SHARE = 0.01


def refusal(part: MappingReport, *, max_deletes: int | None, confirmed: bool) -> str | None:
    """Return why this mapping's extra rows must not be deleted, or None.

    The default bound is 100 rows or 1 % of what the target holds, whichever is more. Rows past
    their expiry do not count. `confirmed` lifts every bound.
    """
    if confirmed or not part.extra:
        return None
    confirm = f"If that is right, run `mirror reconcile --confirm {part.mapping}`."
    if not part.rows:
        return (
            f"the primary has no row of {part.mapping} at all, the target {part.target_rows}: "
            f"nothing of it was deleted. {confirm}"
        )
    unexpired = part.target_rows - part.expired
    if part.extra > FEWEST and part.rows < unexpired / 2:
        return (
            f"the primary has only {part.rows} rows of {part.mapping}, the target "
            f"{unexpired}: nothing of it was deleted. {confirm}"
        )
    bound = max(FEWEST, int(part.target_rows * SHARE)) if max_deletes is None else max_deletes
    if part.extra > bound:
        return (
            f"{part.extra} rows of {part.mapping} would be deleted, more than {bound}: none was. "
            f"If that is right, run `mirror reconcile --max-deletes {part.extra}`."
        )
    return None
