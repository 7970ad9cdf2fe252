"""Spool: sequences in batches, and lists that move to a temporary file when they grow."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

_IN_MEMORY: Final = 4 << 20


def batched(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield a sequence in slices of at most `size`."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


class Spool(Generic[T]):
    """A list of plain values; beyond a few megabytes they lie in an unnamed temporary file.

    So the memory of a reconcile does not grow with the number of differences.
    """

    def __init__(self, decode: Callable[[Any], T]) -> None:
        self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - `close` closes it
            max_size=_IN_MEMORY, mode="w+", encoding="utf-8"
        )
        self._decode = decode
        self.count = 0

    def close(self) -> None:
        """Delete the values and the temporary file, if there is one."""
        self._file.close()

    def add(self, values: Iterable[T]) -> None:
        """Add values that JSON can represent."""
        self._file.seek(0, 2)
        for value in values:
            self._file.write(json.dumps(value) + "\n")
            self.count += 1

    def batches(self, size: int) -> Iterator[list[T]]:
        """Yield all values in batches. Do not add any meanwhile."""
        self._file.seek(0)
        batch: list[T] = []
        for line in self._file:
            batch.append(self._decode(json.loads(line)))
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch
