"""Sums by key, for words by user and for posts by length."""

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
_MANY = 1 << 18  # pending pairs, 4 MB
_EXACT = 1 << 53  # floats have all integers up to here


class Sums:
    """Sums of values, which are not negative, by key. Memory is bounded by the distinct keys, and a constant."""

    def __init__(self) -> None:
        self._keys = self._values = np.empty(0, np.int64)
        self._pending: list[tuple[Integers, Integers]] = []
        self._count = 0

    def add(self, keys: Integers, values: Integers) -> None:
        """Add `values[n]` to the sum of `keys[n]`. The arrays must not change afterwards."""
        self._pending.append((keys, values))
        self._count += len(keys)
        if self._count > max(_MANY, len(self._keys)):
            self._compact()

    def result(self) -> tuple[Integers, Integers]:
        """The distinct keys, ascending, and their sums."""
        self._compact()
        return self._keys, self._values

    def _compact(self) -> None:
        if self._pending:
            self._keys, self._values = _summed(*self._take())

    def _take(self) -> tuple[Integers, Integers]:
        """All keys and values. The sums keep none, so that they are not in memory twice while they are sorted."""
        keys, values = zip((self._keys, self._values), *self._pending, strict=True)
        self._keys = self._values = np.empty(0, np.int64)
        self._pending, self._count = [], 0
        return np.concatenate(keys), np.concatenate(values)


def _summed(keys: Integers, values: Integers) -> tuple[Integers, Integers]:
    if not len(keys):
        return keys, values
    low = int(keys.min())
    if int(keys.max()) - low < len(keys) and int(values.max()) * len(keys) <= _EXACT:
        return _summed_by_index(keys, values, low)
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    del order
    first = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    return keys[first], np.add.reduceat(values, first)


def _summed_by_index(keys: Integers, values: Integers, low: int) -> tuple[Integers, Integers]:
    """The same without sorting, for keys that are close to each other. `np.bincount` adds floats, so the sums must be exact."""
    indices = keys - low
    found = np.flatnonzero(np.bincount(indices))
    return found + low, np.bincount(indices, weights=values)[found].astype(np.int64)
