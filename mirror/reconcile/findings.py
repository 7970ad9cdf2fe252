"""Case: what a run knows of one mapping, from the first suspicion to the last repair."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mirror.errors import Halted, Rejected, TooSlow, Unexplained, WentBack, WrongSource
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.reconcile.compare import Missing
from mirror.reconcile.drift import Direction, Drift, Kind
from mirror.reconcile.pieces import Spool
from mirror.reconcile.primary import Unreadable
from mirror.reconcile.repair import Item
from mirror.reconcile.report import MappingReport


def _key(value: Any) -> Key:
    return tuple(value)


def _item(value: Any) -> Item:
    return [(name, tuple(key)) for name, key in value]


@dataclass
class MappingFindings:
    """One mapping's part of a run."""

    mapping: Mapping
    repaired: bool
    """False: it is looked at only for the guard of those above it."""
    part: MappingReport
    suspects: Spool[Key] = field(default_factory=lambda: Spool(_key))
    extras: Spool[Item] = field(default_factory=lambda: Spool(_item))
    orphans: Spool[Item] = field(default_factory=lambda: Spool(_item))
    """Extra rows whose parents are what is gone; those go along with them."""
    expired: Spool[Item] = field(default_factory=lambda: Spool(_item))
    """Extra rows that grant nothing any more."""
    over: Spool[Item] = field(default_factory=lambda: Spool(_item))
    """Changed rows that allow too much."""
    rest: Spool[Item] = field(default_factory=lambda: Spool(_item))
    loads: list[Missing] = field(default_factory=list)
    """Where the target has nothing of much."""

    def close(self) -> None:
        """Forget what was found."""
        for spool in (self.suspects, self.extras, self.orphans, self.expired, self.over, self.rest):
            spool.close()

    def sort(self, drift: Drift) -> None:
        """Put a drift where its repair finds it."""
        item = [(self.mapping.name, drift.key), *sorted(drift.parents)]
        if drift.kind is not Kind.EXTRA:
            spool = self.over if drift.direction is Direction.OVER else self.rest
        elif drift.expired:
            spool = self.expired
        else:
            spool = self.orphans if drift.parents else self.extras
        spool.add([item])

    @contextmanager
    def contained(self) -> Iterator[None]:
        """Let what is wrong with this mapping be reported, and the others go on."""
        try:
            yield
        except (WrongSource, WentBack):
            raise
        except Unreadable as error:
            self.part.error = str(error)
            self.part.held = f"{error}: nothing of {self.mapping.name} was changed."
        except (Rejected, Halted, TooSlow, Unexplained) as error:
            self.part.error = str(error)
