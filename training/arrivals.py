"""Which samples of an iterable data set are the same in another epoch, whatever the order in which they arrive."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Ints
from ..detectors.fingerprint_kernel import Keys
from .contents import Contents


class Arrivals:
    """Gives the samples of an epoch the numbers under which they came first.

    In the first epoch these are the numbers of the order of arrival. Later ones are the same as long as each number has the content that it had;
    from where one has not, samples are known by their content, and what is nobody's else, or of several samples, is none of them.

    Parameters
    ----------
    contents
        What is known of the samples that came first under each number.

    Notes
    -----
    8 bytes a sample of the epoch, and nothing else until numbers are asked for; then 40 bytes a sample in the second epoch and later.
    """

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self.is_first = True
        """Whether it is the first epoch, whose samples get their numbers."""
        self._is_over = False
        self._begin()

    def _begin(self) -> None:
        self._waiting: list[tuple[Ints, Keys]] = []
        self._found = np.empty(0, np.int64)
        self._is_same = True
        self._count = -1  # contents that are in order

    def goes_on(self) -> None:
        """Take note that there is a batch, of this epoch or the first of another one."""
        if self._is_over:
            self.is_first = self._is_over = False
            self._begin()

    def take(self, samples: Ints, keys: Keys) -> None:
        """Take (n,) numbers of the order of arrival, and the keys of their contents."""
        if not self.is_first:
            self._waiting.append((samples, keys))

    def end(self) -> None:
        """Take note of the end of an epoch; its numbers can be asked for until another one begins."""
        self._is_over = True

    def numbers(self, samples: Ints) -> Ints:
        """Return the (n,) numbers that samples of the epoch came first under, -1 where this is not known."""
        if self.is_first:
            return samples
        if self._waiting:
            self._find()
        found = np.full(len(samples), -1)
        is_known = (samples >= 0) & (samples < len(self._found))
        found[is_known] = self._found[samples[is_known]]
        return found

    def _find(self) -> None:
        if self._count != self._contents.count:
            self._sort()
        size = 1 + max(int(samples.max(initial=-1)) for samples, _ in self._waiting)
        if size > len(self._found):
            more = max(size, 2 * len(self._found)) - len(self._found)
            self._found = np.concatenate([self._found, np.full(more, -1)])
        for samples, keys in self._waiting:
            at = np.searchsorted(self._numbers, samples).clip(max=len(self._numbers) - 1)
            is_own = (self._numbers[at] == samples) & (self._keys[at] == keys)
            self._is_same = self._is_same and bool(is_own.all())
            if self._is_same:
                self._found[samples] = samples
            elif len(self._single):
                place = np.searchsorted(self._single, keys).clip(max=len(self._single) - 1)
                is_known = self._single[place] == keys
                self._found[samples[is_known]] = self._single_numbers[place[is_known]]
        self._waiting = []

    def _sort(self) -> None:
        """Put contents in the order of numbers, and those that one sample has in the order of keys."""
        samples, keys = self._contents.samples, self._contents.exact
        self._count = len(samples)
        order = np.argsort(samples)
        self._numbers, self._keys = samples[order], keys[order]
        unique, first, counts = np.unique(keys, return_index=True, return_counts=True)
        is_single = counts == 1
        self._single: NDArray[np.uint64] = unique[is_single]
        self._single_numbers: Ints = samples[first[is_single]]
