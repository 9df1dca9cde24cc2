"""Sums over batches of the means of many columns, or of the channels of pictures, made on the device that inputs are on."""

from __future__ import annotations

from typing import Final, Literal

import torch

from ..core.columns import Floats
from ..detectors.batch_means import BatchMeans
from ..detectors.signatures import picture_size

Part = Literal["column", "channel"]
WIDEST: Final = 4096  # columns of a table that are looked at one by one; chosen
HUGE: Final = 1e19
"""Rows with greater numbers are left out: their squares are no numbers of single precision, and they leave nothing of the others' mean."""
_CHANNELS: Final = (2, 3, 4)


class ColumnSums:
    """Sums over batches, by worker, of the means of parts of the inputs and of their squares, less the median of the first batch.

    What is subtracted is a value of the first batch: a column of one value is exactly 0, in whatever batches it comes, and one far
    from 0 keeps its digits.

    Notes
    -----
    Nothing waits for the device before `taken`. 32 bytes a column and worker, however many batches come.
    """

    def __init__(self) -> None:
        self.part: Part | None = None
        """What the columns are; None before the first, and where their number differs from batch to batch, as of padded texts."""
        self._origin: torch.Tensor | None = None
        self._sums: dict[tuple[int | None, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}
        self._is_even = True

    def add(
        self, part: Part, values: torch.Tensor, is_fine: torch.Tensor, worker: int | None
    ) -> None:
        """Take a batch.

        Parameters
        ----------
        part
            What the columns are.
        values
            (n, k) finite numbers, of whatever value in rows that are not fine.
        is_fine
            (n, 1) which rows count.
        worker
            The number of the worker that made it.
        """
        if self._origin is None and self._is_even:
            self.part, self._origin = part, _medians(values, is_fine)
        if self._origin is None or self.part != part or len(self._origin) != values.shape[1]:
            self.part, self._origin, self._sums, self._is_even = None, None, {}, False
            return
        place = worker, values.device
        origin = self._origin.to(device=values.device, dtype=values.dtype)
        left = values - origin
        if (
            values.device.type != "cpu" or not is_fine.all()
        ):  # only a CPU is asked: nobody waits for it
            left = torch.where(is_fine, left, 0.0)
        rows = is_fine.sum()
        total = left.sum(0).double()
        squares = left.square_().sum(0).double()
        mean = total / rows.clamp(min=1)
        sums = torch.stack([mean, mean.square(), total, squares])
        counts = torch.stack([rows.clamp(max=1), rows])
        if place in self._sums:
            before = self._sums[place]
            sums, counts = before[0] + sums, before[1] + counts
        self._sums[place] = sums, counts

    @property
    def origin(self) -> Floats:
        """(k,) what was subtracted from columns."""
        found: Floats = torch.zeros(0).double().numpy()
        return found if self._origin is None else self._origin.double().cpu().numpy()

    def taken(self) -> dict[int | None, BatchMeans]:
        """Return what was added up, by worker, and begin anew."""
        found: dict[int | None, BatchMeans] = {}
        for (worker, _), (sums, counts) in self._sums.items():
            batches, rows = counts.tolist()
            own = BatchMeans.of(batches, rows, *sums.cpu().numpy())
            found[worker] = found[worker].merged(own) if worker in found else own
        self._sums = {}
        return found


def channel_means(x: torch.Tensor, flat: torch.Tensor) -> torch.Tensor | None:
    """Return the (n, c) means of the channels of pictures; None for other inputs.

    Parameters
    ----------
    x
        (n, ...) inputs: pictures are (n, c, height, width) with c = 2 to 4, or (n, height, width, c) with c = 3 or 4.
    flat
        (n, m) the same numbers, floating ones.
    """
    if x.ndim != 4:
        return None
    if x.shape[1] in _CHANNELS:
        return flat.view(len(x), x.shape[1], -1).mean(2)
    if x.shape[3] in _CHANNELS and picture_size(x.shape[1:]) == tuple(x.shape[1:3]):
        return flat.view(len(x), -1, x.shape[3]).mean(1)
    return None


def _medians(values: torch.Tensor, is_fine: torch.Tensor) -> torch.Tensor:
    """Return (k,) medians of the rows that are fine, each one of their values; 0 where none is."""
    places = ((is_fine.sum() - 1) // 2).clamp(min=0).expand(1, values.shape[1])
    ordered = torch.where(is_fine, values, torch.inf).sort(0).values
    return ordered.gather(0, places)[0].nan_to_num(posinf=0.0)
