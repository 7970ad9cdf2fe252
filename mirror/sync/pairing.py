"""Pairing: whether a primary and a target are the two that took their last step together.

Both sides keep the token of their last common step. The primary proposes a step, and a worker
carries it to the target; so the primary is one step ahead at most. A copy or a restored side has
another token as soon as the original has taken a step without it. Addresses and names are shown,
and never compared.
"""

from dataclasses import dataclass
from typing import Final

from mirror.capture.statements import statement
from mirror.sync.connections import Database

RETARGET: Final = (
    "If this is the wrong target, correct its URL. If it is the right one, run `mirror retarget`, "
    "which mirrors everything again."
)
REBASE: Final = (
    "If a URL is wrong, that of the primary or of the target, correct it. If this primary is the "
    "truth now, run `mirror rebase`, which mirrors everything again."
)


@dataclass(frozen=True)
class Parting:
    """Why a primary and a target do not belong together."""

    says: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.says} {self.remedy}"


@dataclass(frozen=True)
class Pair:
    """The primary's last step. Every write carries it."""

    step: int
    token: str
    base: str | None
    """The token of the step before, which the target may still have; None: no target is known."""
    acked: bool
    """The target is known to have taken this step."""

    def parting(self, step: int | None, token: str | None) -> Parting | None:
        """Return why a target with this step and token is not the other side; None if it is."""
        if token == self.token or (token == self.base and not self.acked):
            return None
        # The step that both have taken, as the primary knows it.
        common = self.step if self.acked else self.step - 1
        here, there = f"the primary is at step {common}", f"the target at step {step}"
        if token is None or step is None:
            return Parting(
                f"{here}, and this target has taken none: it is another one, or it was emptied.",
                RETARGET,
            )
        if self.step == 0 and not self.acked:
            return Parting(
                f"the target is at step {step}, and this primary has taken none: it is another "
                "one, or it was restored from an old backup.",
                REBASE,
            )
        if step < common:
            return Parting(
                f"{here}, {there}: the target is another one, or it was restored from a backup.",
                RETARGET,
            )
        if step > self.step:
            return Parting(
                f"{here}, {there}: the primary was restored from a backup, a copy of it goes on "
                "with this target, or the target is another one.",
                REBASE,
            )
        return Parting(
            f"{here}, {there}, and these are two different steps: one of them is a copy or was "
            "restored, and the other went on without it.",
            REBASE,
        )


def is_other_primary(expected: str | None, found: str, *, paired: bool) -> bool:
    """Return whether a target that expects one primary refuses another, as `mirror.check_pair`.

    That is so for another branch of Neon, and, before the first step, for another server.
    """
    if expected is None:
        return False
    parts = list(zip(expected.split("/"), found.split("/"), strict=False))[int(paired) : 2]
    return any(one != other and "-" not in (one, other) for one, other in parts)


def read_pair(primary: Database) -> Pair:
    """Return the primary's last step, over a connection without an open transaction."""
    return Pair(*primary.execute(statement("read_pair"))[0])
