"""Mapping findings: the suspects and drifts of one mapping, collected during a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mirror.errors import Halted, NotPaired, Rejected, TooSlow, Unexplained, WentBack, WrongSource
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.reconcile.compare import MissingRange
from mirror.reconcile.drift import Direction, Drift, Kind
from mirror.reconcile.primary_reader import Unreadable
from mirror.reconcile.repair import RepairItem
from mirror.reconcile.report import MappingReport
from mirror.reconcile.spool import Spool


def _decode_key(value: Any) -> Key:
    return tuple(value)


def _decode_item(value: Any) -> RepairItem:
    return [(name, tuple(key)) for name, key in value]


def _items() -> Spool[RepairItem]:
    return Spool(_decode_item)


@dataclass
class MappingFindings:
    """The suspects and drifts of one mapping in one run, and its report."""

    mapping: Mapping
    requested: bool
    """False: the run compares the mapping only because deletes in its parents also delete its rows,
    and repairs nothing of it."""
    report: MappingReport
    suspects: Spool[Key] = field(default_factory=lambda: Spool(_decode_key))
    extras: Spool[RepairItem] = field(default_factory=_items)
    """Extra rows that are neither expired nor orphans."""
    orphans: Spool[RepairItem] = field(default_factory=_items)
    """Extra rows whose parents are missing; their repair removes those parents, too."""
    expired: Spool[RepairItem] = field(default_factory=_items)
    """Extra rows that have expired, and so grant nothing."""
    over_grants: Spool[RepairItem] = field(default_factory=_items)
    """Changed rows that allow more than the primary."""
    others: Spool[RepairItem] = field(default_factory=_items)
    """All other rows that drifted."""
    loads: list[MissingRange] = field(default_factory=list)
    """Ranges that the target lacks: all rows that the primary has there are to be written."""

    def close(self) -> None:
        """Delete the lists, which may lie in temporary files. The report stays."""
        for value in vars(self).values():
            if isinstance(value, Spool):
                value.close()

    def add_drift(self, drift: Drift) -> None:
        """Add a drift to the one list (`extras`, `over_grants`, …) for its kind of repair."""
        item = [(self.mapping.name, drift.key), *sorted(drift.parents)]
        if drift.kind is not Kind.EXTRA:
            spool = self.over_grants if drift.direction is Direction.OVER else self.others
        elif drift.expired:
            spool = self.expired
        else:
            spool = self.orphans if drift.parents else self.extras
        spool.add([item])

    @contextmanager
    def errors_reported(self) -> Iterator[None]:
        """Put an error of the block into the mapping's report, so that the other mappings go on.

        If the primary cannot return the mapping's rows, `held` says so, too. Errors that concern
        all mappings are raised: a database does not answer or is not migrated, the target mirrors
        another primary, or the primary went back in time.
        """
        try:
            yield
        except (WrongSource, NotPaired, WentBack):
            raise
        except Unreadable as error:
            self.report.error = str(error)
            self.report.held = f"{error}: nothing of {self.mapping.name} was changed."
        except (Rejected, Halted, TooSlow, Unexplained) as error:
            self.report.error = str(error)
