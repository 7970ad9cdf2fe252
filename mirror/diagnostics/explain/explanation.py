"""Explanation: the steps that a permission passes, and the first step that stops it."""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class StepStatus(StrEnum):
    """The result of a step."""

    YES = "yes"
    """The permission passes this step."""
    NO = "no"
    """The permission is denied here, as it should be."""
    BROKEN = "broken"
    """Something is wrong here."""
    UNKNOWN = "unknown"
    """The result cannot be determined, or does not matter."""


@dataclass(frozen=True)
class Step:
    """One step between the primary's row and the target's answer."""

    name: str
    """`user`, `primary`, `events`, `ledger`, `target row`, or `decision`."""
    status: StepStatus
    says: str
    """The result in one sentence. It contains ids and deciding values, no other values of rows."""
    remedy: str | None = None
    """Instructions; None: there is nothing to do."""
    details: tuple[str, ...] = ()
    """Lines that support the result: events, policies."""
    values: dict[str, Any] = field(default_factory=dict)
    """The row's values by column, if they were requested."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values; the key of `status` is `word`, for programs that read it."""
        values = asdict(self)
        return {"name": values.pop("name"), "word": values.pop("status"), **values}


@dataclass(frozen=True)
class Explanation:
    """All steps of one permission."""

    question: str
    primary_grants: bool | None
    """Whether the primary grants the permission; None: it does not decide about it."""
    allowed: bool
    """Whether the target allows it."""
    steps: tuple[Step, ...]

    @property
    def first(self) -> Step | None:
        """The first step that stops the permission; None: no step does.

        If the target allows a permission that the primary does not grant, this is the first step
        that is wrong.
        """
        over_grant = self.allowed and self.primary_grants is False
        stops = {StepStatus.BROKEN} if over_grant else {StepStatus.BROKEN, StepStatus.NO}
        return next((step for step in self.steps if step.status in stops), None)

    @property
    def exit_code(self) -> int:
        """0: the target allows the permission, and `first` is None; otherwise 1."""
        return 0 if self.allowed and self.first is None else 1

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "question": self.question,
            "primary_grants": self.primary_grants,
            "target_allows": self.allowed,
            "first": self.first and self.first.name,
            "remedy": self.first and self.first.remedy,
            "steps": [step.as_json() for step in self.steps],
        }
