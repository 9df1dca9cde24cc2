"""Counts of some labels by feature, as whole numbers that are added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Ints
from ..core.snapshot import check
from .leaky_features import CELLS, LabelCounts


class Trained(NamedTuple):
    """What was counted in training.

    Parameters
    ----------
    counts
        Labels by feature.
    classes, middle
        The numbers of their classes, or above which number a label is of the second.
    copies
        Features that were the label, or a copy of it.
    """

    counts: LabelCounts
    classes: list[float]
    middle: float | None
    copies: frozenset[str] = frozenset()

    @property
    def known(self) -> dict[str, bool]:
        """Features that were counted, and whether they are copies of the label."""
        return {name: name in self.copies for name in self.counts.names}


class Window(NamedTuple):
    """Counts of some labels; see `leaky_kernel.tally`."""

    table: Ints
    equal: Ints
    same: Ints

    @classmethod
    def empty(cls, features: int, classes: int) -> Window:
        """Return counts of no label."""
        return cls(
            np.zeros((features, CELLS, classes), np.int64), np.zeros((features, 3), np.int64),
            np.zeros(2, np.int64),
        )  # fmt: skip

    def padded(self, features: int, classes: int) -> Window:
        """Return the same with room for so many features and classes."""
        k, _, c = self.table.shape
        if (k, c) == (features, classes):
            return self
        more = ((0, features - k), (0, 0))
        return Window(
            np.pad(self.table, (*more, (0, classes - c))), np.pad(self.equal, more), self.same
        )

    def arrays(self, of: str, dtype: Any) -> dict[str, NDArray[Any]]:
        """Return what `read` takes, the table in a smaller type."""
        return {
            f"table{of}": self.table.astype(dtype), f"equal{of}": self.equal, f"same{of}": self.same,
        }  # fmt: skip

    @classmethod
    def read(
        cls, arrays: Mapping[str, NDArray[Any]], of: str, features: int, classes: int, dtype: Any
    ) -> Window:
        """Return a window of what `arrays` has returned; raises StateError if it is not one."""
        return cls(
            checked(arrays, f"table{of}", (features, CELLS, classes), dtype).astype(np.int64),
            checked(arrays, f"equal{of}", (features, 3), np.int64),
            checked(arrays, f"same{of}", (2,), np.int64),
        )

    def __add__(self, other: Any) -> Window:
        return Window(*(a + b for a, b in zip(self, other, strict=True)))


def checked(
    arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...], dtype: Any
) -> NDArray[Any]:
    """Return an array of a snapshot; raises StateError if it has another shape or type."""
    check(arrays[name], name, shape, np.dtype(dtype))
    return arrays[name]
