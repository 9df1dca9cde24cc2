"""What the numbers of a row of the series follow from, so that rows of several partitions or times can be added up."""

from __future__ import annotations

import zlib
from typing import Final

import msgspec
import numpy as np

from ..core.columns import Ints
from ..core.errors import StateError
from ..core.metric_row import Value
from ..detectors import binary_counts, cbpe, gaps, regression_sums
from ..detectors.binary_metrics import Metric

_LEVEL: Final = 1  # of zlib: 6 saves a tenth and takes twice as long
_WIDEST: Final = 1 << 20  # bytes of one packed row, unpacked: what is larger was not written by us


PARTS: Final = 6
"""How many of `cohorts.PREDICTIONS` and the like there are."""


class ServedCounts(msgspec.Struct, frozen=True, array_like=True):
    """What predictions have met of training, looked up in one way.

    Parameters
    ----------
    law
        What training tells of chance: `coincidence.Law`.
    every
        Rows of training for one that is kept.
    row
        As `served_counts` counts it.
    """

    law: list[int]
    every: int
    row: list[int]


class RowCounts(msgspec.Struct, frozen=True, kw_only=True, tag="pairs", array_like=True):
    """Of one cohort, or window, and group.

    Parameters
    ----------
    parts
        As `cohorts.PREDICTIONS` and the like have them.
    is_regression
        None before a prediction has come that says.
    classes, names
        The classes that pairs had, as `ClassNumbers` and as people have them.
    columns, positive, asked
        As `ScoreColumns` has them: the classes of scores, the one that is asked about, and as it was set.
    pairs
        Packed, of `pair_metrics.width_of`.
    estimates
        Packed by `packed_estimates`; empty where there are none, or others than of two classes.
    expected
        `late_labels.Expected`: counts, variances, shared; empty where it is not known.
    unlabelled_are_negative
        What `expected` was made for.
    served
        By how they were looked up: `exact`, `near`, `embedding`, `image`.
    losses
        Rows of training with a loss, those of them whose loss is small, and the same of what was served; empty where it is not known.
    times
        Stream to how many of its times there were, and how many of them after their event.
    """

    parts: list[int]
    is_regression: bool | None
    classes: list[float]
    names: list[str]
    columns: list[str]
    positive: float
    asked: str | None
    pairs: bytes
    estimates: bytes = b""
    expected: list[list[float]] = []
    unlabelled_are_negative: bool = False
    served: dict[str, ServedCounts] = {}
    losses: list[int] = []
    times: dict[str, tuple[int, int]] = {}


class GapCounts(msgspec.Struct, frozen=True, kw_only=True, tag="gap", array_like=True):
    """Of two groups that are compared.

    Parameters
    ----------
    of
        Of which segments, or crossing, and the values of either group.
    sides
        Packed, of `binary_counts.WIDTH` or `regression_sums.WIDTH`, of either.
    said
        Of either how many predictions were positive, and how many there were.
    half_width
        Within which a rate must be known for its gap to be judged.
    is_regression
        Whether they are of numbers.
    """

    of: tuple[str, str, str]
    sides: tuple[bytes, bytes]
    said: tuple[tuple[int, int], tuple[int, int]]
    half_width: float
    is_regression: bool = False

    @property
    def width(self) -> int:
        """Whole numbers of a side."""
        return regression_sums.WIDTH if self.is_regression else binary_counts.WIDTH

    def told(self, a: Ints, b: Ints) -> tuple[dict[str, Value], list[str]]:
        """Return the gaps that follow from two sides, and which of them cannot be judged."""
        found: dict[str, Metric]
        if self.is_regression:
            found, few = gaps.of_numbers(a, b), gaps.few_numbers(a, b, self.half_width)
        else:
            found, few = gaps.gaps(a, b, self.said), gaps.few(a, b, self.half_width, self.said)
        return {f"gap:{key}": metric for key, metric in found.items()}, [
            f"gap:{key}" for key in few
        ]


def compared(name: str) -> tuple[str, str, str]:
    """Return a row's segment, and the groups that are compared in it.

    Examples
    --------
    >>> compared("sex,race=F,1|M,1")
    ('sex,race', 'F,1', 'M,1')
    """
    segment, _, both = name.partition("=")
    a, _, b = both.partition("|")
    return segment, a, b


encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[RowCounts | GapCounts] = msgspec.msgpack.Decoder(
    RowCounts | GapCounts
)


def decode(counts: bytes) -> RowCounts | GapCounts | None:
    """Return what `encode` was given; None for nothing, or what another version wrote.

    Raises
    ------
    StateError
        It is of this version, and damaged.
    """
    try:
        found = _decoder.decode(counts) if counts else None
    except msgspec.MsgspecError:
        return None
    if isinstance(found, RowCounts) and len(found.parts) != PARTS:
        raise StateError(f"unreadable row: {PARTS} counts were expected, it has {len(found.parts)}")
    return found


def packed(row: Ints) -> bytes:
    """Return whole numbers, most of which are 0: gaps between the others and these, byte by byte of equal weight, deflated."""
    at = np.flatnonzero(row)
    sparse = np.concatenate([at, row[at]])
    sparse[1 : len(at)] -= at[:-1]
    return zlib.compress(sparse.view(np.uint8).reshape(-1, 8).T.tobytes(), _LEVEL)


def unpacked(data: bytes, width: int) -> Ints:
    """Return (width,) what was packed; 0 beyond.

    Raises
    ------
    StateError
        It was wider, or was not packed here.
    """
    unzip = zlib.decompressobj()
    try:
        planes = unzip.decompress(data, _WIDEST)
    except zlib.error as error:
        raise StateError(f"unreadable row: its counts cannot be unpacked: {error}") from None
    if not unzip.eof or len(planes) % 16:
        raise StateError("unreadable row: its counts are cut short, or are too many")
    table = np.frombuffer(planes, np.uint8).reshape(8, -1).T
    sparse = np.ascontiguousarray(table).view(np.int64).reshape(2, -1)
    at, found = np.cumsum(sparse[0]), np.zeros(width, np.int64)
    if len(at) and not 0 <= at.min() <= at.max() < width:
        raise StateError(
            f"unreadable row: it has counts in {at.max() + 1} columns, where there are {width}"
        )
    found[at] = sparse[1]
    return found


def packed_estimates(row: Ints) -> bytes:
    """Return a row of `cbpe`; expected labels by bin as how many to a score there, which are alike where the calibration is flat."""
    scored = np.maximum(row[cbpe.SCORED : cbpe.EXPECTED], 1)
    each, rest = np.divmod(row[cbpe.EXPECTED :], scored)
    return packed(np.concatenate([row[: cbpe.EXPECTED], each, rest]))


def unpacked_estimates(data: bytes) -> Ints:
    """Return what `packed_estimates` was given."""
    wide = unpacked(data, cbpe.WIDTH + binary_counts.BINS)
    row, rest = wide[: cbpe.WIDTH].copy(), wide[cbpe.WIDTH :]
    scored = np.maximum(row[cbpe.SCORED : cbpe.EXPECTED], 1)
    row[cbpe.EXPECTED :] = row[cbpe.EXPECTED :] * scored + rest
    return row
