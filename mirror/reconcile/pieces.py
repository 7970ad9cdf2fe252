"""Sequences in pieces, and lists that need not fit into memory."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

_IN_MEMORY: Final = 4 << 20


def pieces(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield a sequence in pieces of at most `size`."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


class Spool(Generic[T]):
    """Plain values, beyond a few megabytes in a file that has no name and ends with this object.

    How much differs must not decide how much memory a reconcile takes.
    """

    def __init__(self, decode: Callable[[Any], T]) -> None:
        self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - `close` closes it
            max_size=_IN_MEMORY, mode="w+", encoding="utf-8"
        )
        self._decode = decode
        self.count = 0

    def close(self) -> None:
        """Forget the values."""
        self._file.close()

    def add(self, values: Iterable[T]) -> None:
        """Add values that JSON can hold."""
        self._file.seek(0, 2)
        for value in values:
            self._file.write(json.dumps(value) + "\n")
            self.count += 1

    def batches(self, size: int) -> Iterator[list[T]]:
        """Yield all values in batches; none may be added meanwhile."""
        self._file.seek(0)
        batch: list[T] = []
        for line in self._file:
            batch.append(self._decode(json.loads(line)))
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch
