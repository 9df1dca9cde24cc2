"""Which group each row of a batch is of: by a function of the batch, a key of it, or the number of the sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import torch

from ..core.columns import Ints
from .batch import attribute_of

Values: TypeAlias = Callable[[Any], Any] | Hashable | Sequence[Any] | np.ndarray[Any, Any] | torch.Tensor  # fmt: skip
"""How a segment is found: a function of the batch or a key of it that gives (n,) values, or (samples,) values by the sample's index."""
Segment: TypeAlias = Values | Mapping[str, Values]
"""One of these, or one for each data set by name."""
MOST: Final = 64
"""Groups of a segment: the first ones that come, all others are counted together; chosen."""
TRAINING: Final = "train"
"""What the data set of training is called."""


class Segments:
    """Numbers the groups of one segment.

    Parameters
    ----------
    name
        Of the segment.
    of
        How it is found; an array by sample is of the data set of training, unless a mapping says of which.

    Attributes
    ----------
    groups
        Their names, by number.

    Notes
    -----
    Whole numbers on an accelerator are not read where they come first: those below 64 are the numbers of their groups.
    """

    def __init__(self, name: str, of: Segment) -> None:
        self.name = name
        self.groups: list[str] = []
        self._of: Mapping[str, Values] | None = of if isinstance(of, Mapping) else None
        self._any: Any = None if isinstance(of, Mapping) else of
        self._numbers: dict[str, int] = {}
        self._by_sample: dict[str, Ints] = {}
        self._is_given = False

    def codes(self, batch: Any, data: str) -> torch.Tensor | None:
        """Return the (n,) int64 numbers of the groups of a batch's rows, `MOST` for others and for none; None where the data set has no such segment.

        Raises
        ------
        ValueError
            The batch has no such key, or does not know its samples.
        """
        of = self._any if self._of is None else self._of.get(data)
        if _is_array(of):
            return self._of_samples(of, batch, data)
        if of is None:
            return None
        if callable(of):
            return self._numbered(of(batch))
        try:
            return self._numbered(batch[of])
        except (KeyError, IndexError, TypeError):
            raise ValueError(
                f"segment {self.name!r}: found no {of!r} in a batch, a {type(batch).__name__}; name another key, or give a "
                "function of the batch"
            ) from None

    def _of_samples(self, values: Any, batch: Any, data: str) -> torch.Tensor | None:
        if self._of is None and data != TRAINING:
            return None
        if data not in self._by_sample:
            self._by_sample[data] = self._numbered(values).cpu().numpy()
        samples = attribute_of(batch, "samples")
        if not isinstance(samples, np.ndarray):
            raise ValueError(  # noqa: TRY004 - it is the loader that is another one
                f"segment {self.name!r} is an array by sample, and a batch of {data!r} knows no samples: wrap its loader in "
                "a WatchedLoader, or give a function of the batch"
            )
        known = self._by_sample[data]
        inside = (samples >= 0) & (samples < len(known))
        return torch.from_numpy(np.where(inside, known[np.where(inside, samples, 0)], MOST))

    def _numbered(self, values: Any) -> torch.Tensor:
        if isinstance(values, torch.Tensor):
            values = values.detach().reshape(-1)
            whole = not (values.is_floating_point() or values.is_complex())
            if whole and (self._is_given or (values.device.type != "cpu" and not self.groups)):
                if not self.groups:
                    self.groups, self._is_given = [str(k) for k in range(MOST)], True
                values = values.long()
                return torch.where((values >= 0) & (values < MOST), values, MOST)
            if not values.is_complex():
                values, places = torch.unique(values, return_inverse=True)
                numbers = [self._number(value) for value in values.tolist()]
                return torch.tensor(numbers, dtype=torch.int64)[places.cpu()]
            values = values.tolist()
        return torch.tensor([self._number(value) for value in values], dtype=torch.int64)

    def _number(self, value: Any) -> int:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return MOST
        name = str(value)
        number = self._numbers.get(name)
        if number is None:
            number = len(self.groups)
            if number < MOST:
                self._numbers[name] = number
                self.groups.append(name)
        return number


def _is_array(of: Any) -> bool:
    if isinstance(of, (str, bytes)):
        return False
    return isinstance(of, (np.ndarray, torch.Tensor, list, tuple))
