"""Page: what was found at each step on the way of one permission, and where the way ends."""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class StepStatus(StrEnum):
    """What a step says of the permission."""

    YES = "yes"
    """It passes here."""
    NO = "no"
    """It ends here, and rightly so: there is none."""
    BROKEN = "broken"
    """Something is wrong here."""
    UNKNOWN = "unknown"
    """It cannot be told, or does not matter."""


@dataclass(frozen=True)
class Step:
    """One place on the way."""

    name: str
    """`user`, `primary`, `events`, `ledger`, `target row`, or `decision`."""
    status: StepStatus
    says: str
    """What was found, in one sentence; ids, and the values that decide, but no others."""
    remedy: str | None = None
    """What to do about it."""
    details: tuple[str, ...] = ()
    """Lines that lead to it: events, policies."""
    values: dict[str, Any] = field(default_factory=dict)
    """The row, if values were asked for."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values; `status` keeps its first name there, `word`."""
        return {
            ("word" if name == "status" else name): value for name, value in asdict(self).items()
        }


@dataclass(frozen=True)
class Explanation:
    """The whole way."""

    question: str
    primary_grants: bool | None
    """Whether the primary grants it; None where it does not decide."""
    allowed: bool
    """Whether the target allows it."""
    steps: tuple[Step, ...]

    @property
    def first(self) -> Step | None:
        """The first step that breaks the chain; None: the permission passes, and rightly so.

        Where the primary grants nothing and the target allows nothing, it is what the primary
        says. Where the target allows it all the same, it is what is wrong further on.
        """
        over = self.allowed and self.primary_grants is False
        words = {StepStatus.BROKEN} if over else {StepStatus.BROKEN, StepStatus.NO}
        return next((step for step in self.steps if step.status in words), None)

    @property
    def exit_code(self) -> int:
        """0: allowed, and every step agrees; else 1."""
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
