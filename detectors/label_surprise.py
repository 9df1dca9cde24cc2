"""What a label is beyond what the features say: the residuals of a small logistic model that learns online."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints
from .base import HUGE
from .compiled import compiled
from .streams import StreamTable

_EARLY: Final = 32  # values of a feature of which its first mean and deviation are made; chosen
_MAD_TO_SIGMA: Final = 1.482602218505602  # 1 / Phi^-1(3/4)
_CUT: Final = 5.0  # standard deviations; as `reference.CLIP_SIGMAS`
_RATE: Final = 0.2
"""AdaGrad's step. On Elec2, seed 1, F1 of gradual drifts was 0.657 with 0.2 and 0.618 with 0.1."""
_FIRST_SQUARE: Final = 1e-2
_SMALLEST: Final = 1e-100  # a deviation whose square is a number


class Features(NamedTuple):
    """State with one row a feature.

    Parameters
    ----------
    early, taken
        (k, 32) its first values and (k,) how many there are.
    seen, mean, variance
        (k,) of all values, each cut at five standard deviations.
    average
        (k,) moving average of the standardised values.
    weights, squares
        (k, 2) the model's weights for the value and for its distance from the average, and AdaGrad's sums
        of squared gradients.
    """

    early: Floats
    taken: Ints
    seen: Ints
    mean: Floats
    variance: Floats
    average: Floats
    weights: Floats
    squares: Floats


@compiled
def _residuals(
    values: Floats, label: int, columns: Ints, features: Ints, s: Features,
    blocks: Ints, first: int, rates: Floats, own: Floats, own_squares: Floats, own_average: Floats,
    inputs: Floats, residuals: Floats,
) -> None:  # fmt: skip
    """Fill residuals row by row, learning from each.

    `own` is the weights of the constant and of the label's moving average, `own_average` the average and
    the number of labels in it, `inputs` scratch.
    """
    count = features.shape[0]
    for i in range(values.shape[0]):
        rows = rates[blocks[i] - first]
        known = False
        score = own[0]
        for c in range(count):
            k = features[c]
            x = values[i, columns[c]]
            inputs[c, 0], inputs[c, 1] = 0.0, 0.0
            if not abs(x) <= HUGE:
                continue
            if s.seen[k] == 0:
                _begin(k, x, s)
                continue
            known = True
            sigma = math.sqrt(s.variance[k])
            z = min(max((x - s.mean[k]) / sigma, -_CUT), _CUT)
            s.seen[k] += 1
            share = 1.0 / s.seen[k]
            s.mean[k] += z * sigma * share
            s.variance[k] *= 1.0 + (z * z * (1.0 - share) - 1.0) * share
            inputs[c, 0], inputs[c, 1] = z, z - s.average[k]
            s.average[k] += (z - s.average[k]) / min(float(s.seen[k] - _EARLY), rows)
            score += s.weights[k, 0] * inputs[c, 0] + s.weights[k, 1] * inputs[c, 1]
        residuals[i] = np.nan
        y = values[i, label]
        if not known or not (y == 0.0 or y == 1.0):  # noqa: PLR1714 - numba knows no `in` here
            continue
        score += own[1] * own_average[0]
        residual = y - 1.0 / (1.0 + math.exp(-score)) if score > -500.0 else y
        residuals[i] = residual
        for c in range(count):
            k = features[c]
            for w in range(2):
                gradient = residual * inputs[c, w]
                if gradient != 0.0:
                    s.squares[k, w] += gradient * gradient
                    s.weights[k, w] += _RATE * gradient / math.sqrt(s.squares[k, w])
        own_squares[0] += residual * residual
        own[0] += _RATE * residual / math.sqrt(own_squares[0])
        gradient = residual * own_average[0]
        own_squares[1] += gradient * gradient
        own[1] += _RATE * gradient / math.sqrt(own_squares[1])
        own_average[1] += 1.0
        own_average[0] += (y - 0.5 - own_average[0]) / min(own_average[1], rows)


@compiled
def _begin(k: int, x: float, s: Features) -> None:
    """Take one of a feature's first values; the last of them gives mean and deviation."""
    s.early[k, s.taken[k]] = x
    s.taken[k] += 1
    if s.taken[k] < _EARLY:
        return
    median = np.median(s.early[k])
    distance = np.abs(s.early[k] - median)
    sigma = _MAD_TO_SIGMA * np.median(distance)
    if not sigma > _SMALLEST:
        usual = distance[distance > 0.0]
        sigma = np.median(usual) if len(usual) > 0 else 0.0
    if sigma > _SMALLEST:
        s.mean[k], s.variance[k], s.seen[k] = median, sigma * sigma, _EARLY
    s.taken[k] = 0


class LabelSurprise:
    """The label of each row less its probability, given the features of the row.

    A drift of the labels, or of what they mean, moves the mean of these residuals; what the features
    explain of the labels' natural variation does not. So a drift stands out more from the stream's own
    changes than it does in the labels themselves.

    Notes
    -----
    The model is a logistic regression on each feature, on its distance from its own moving average over
    about one block, on the label's moving average and on a constant; a feature is standardised by all
    its values so far, each cut at five standard deviations, beginning with the robust scale of its first
    32. Weights are learnt by AdaGrad (Duchi, Hazan and Singer 2011, "Adaptive subgradient methods for
    online learning and stochastic optimization", JMLR 12, 2121-2159, section 1.3). A residual is made
    before its row is learnt from. Rows whose label is neither 0 nor 1 have none, and teach nothing.
    State is some 400 bytes a feature.
    """

    def __init__(self) -> None:
        self._features = StreamTable(
            {
                "early": np.zeros(_EARLY), "taken": 0, "seen": 0, "mean": 0.0, "variance": 0.0,
                "average": 0.0, "weights": np.zeros(2), "squares": np.full(2, _FIRST_SQUARE),
            }
        )  # fmt: skip
        self._own = _own()

    def residuals(
        self, values: Floats, label: int, features: dict[str, int],
        blocks: Ints, first: int, rates: Floats,
    ) -> Floats:  # fmt: skip
        """Return (n,) residuals within -1 and 1, NaN where there is none, and learn from the rows.

        Parameters
        ----------
        values
            (n, c) the rows.
        label
            The label's column.
        features
            Features and their columns.
        blocks
            (n,) the block of each row, rising.
        first, rates
            How many rows a block is taken to have, for block `first` and those after it.
        """
        s = self._features
        numbers = s.numbers(tuple(features))
        columns = np.fromiter(features.values(), np.int64, len(features))
        residuals = np.empty(len(values))
        _residuals(
            values, label, columns, numbers, Features(**{name: s[name] for name in Features._fields}),
            blocks, first, rates, self._own["weights"], self._own["squares"],
            self._own["average"], np.empty((len(numbers), 2)), residuals,
        )  # fmt: skip
        return residuals

    def state(self) -> tuple[list[str], dict[str, NDArray[Any]]]:
        """Return names and arrays, for a snapshot."""
        names, arrays = self._features.state()
        return names, {**arrays, **{f"own.{key}": array for key, array in self._own.items()}}

    def load(self, names: list[str], arrays: dict[str, NDArray[Any]]) -> None:
        """Replace everything by what `state` gave."""
        self._features.load(names, arrays)
        self._own = {key: arrays[f"own.{key}"] for key in self._own}


def _own() -> dict[str, Floats]:
    """Return weights of the constant and the label's average, their squares, and that average's state."""
    return {"weights": np.zeros(2), "squares": np.full(2, _FIRST_SQUARE), "average": np.zeros(2)}
