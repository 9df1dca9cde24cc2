"""MOA's HoeffdingTree with its default options, compiled: the model that the injected drifts are put before."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.detectors.compiled import compiled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NODES: Final = 1200
_GRACE: Final = 200.0  # rows of a leaf between two looks at whether it should split
_SPLITS: Final = 10  # candidates a feature
_TIE: Final = 0.05
_CONFIDENCE: Final = 1e-7
_LEAST_BRANCH: Final = 0.01


class Tree(NamedTuple):
    """Nodes; a feature of -1 is a leaf. Below, a is a feature and c a class."""

    feature: Ints
    limit: Floats
    below: Ints
    above: Ints
    seen: (
        Floats  # (node, c) rows, those that its parent's split is thought to have brought included
    )
    majority_right: Floats
    bayes_right: Floats
    looked: Floats
    rows: Floats  # (node, a, c) rows, mean, sum of squared deviations, least and greatest value
    mean: Floats
    squares: Floats
    low: Floats
    high: Floats


def predict(x: Floats, y: Ints) -> Ints:
    """Return (n,) predictions of a Hoeffding tree that learns from each row after predicting it.

    References
    ----------
    Domingos and Hulten 2000, "Mining high-speed data streams" (doi:10.1145/347090.347107); Naive Bayes
    where it has been right more often: Holmes, Kirkby and Pfahringer 2005 (doi:10.1007/11564126_49).
    """
    each = (_NODES, x.shape[1], 2)
    tree = Tree(
        np.full(_NODES, -1), np.zeros(_NODES), np.zeros(_NODES, np.int64), np.zeros(_NODES, np.int64),
        np.zeros((_NODES, 2)), np.zeros(_NODES), np.zeros(_NODES), np.zeros(_NODES),
        np.zeros(each), np.zeros(each), np.zeros(each), np.full(each, np.inf), np.full(each, -np.inf),
    )  # fmt: skip
    predicted = np.empty(len(y), np.int64)
    _grow(x, y, tree, predicted)
    return predicted


@compiled
def _grow(x: Floats, y: Ints, tree: Tree, predicted: Ints) -> None:
    nodes = 1
    for i in range(x.shape[0]):
        node = 0
        while tree.feature[node] >= 0:
            is_below = x[i, tree.feature[node]] <= tree.limit[node]
            node = tree.below[node] if is_below else tree.above[node]
        seen = tree.seen[node]
        majority = 1 if seen[1] > seen[0] else 0
        bayes = _bayes(x[i], node, tree)
        predicted[i] = majority if tree.majority_right[node] > tree.bayes_right[node] else bayes
        tree.majority_right[node] += majority == y[i]
        tree.bayes_right[node] += bayes == y[i]
        _learn(x[i], y[i], node, tree)
        weight = seen[0] + seen[1]
        if weight - tree.looked[node] >= _GRACE and nodes + 2 < _NODES:
            tree.looked[node] = weight
            if seen[0] > 0 and seen[1] > 0 and _split(node, nodes, tree):
                nodes += 2


@compiled
def _learn(x: Floats, y: int, node: int, tree: Tree) -> None:
    tree.seen[node, y] += 1
    count, mean, squares = tree.rows[node], tree.mean[node], tree.squares[node]
    low, high = tree.low[node], tree.high[node]
    for a in range(x.shape[0]):
        count[a, y] += 1
        deviation = x[a] - mean[a, y]
        mean[a, y] += deviation / count[a, y]
        squares[a, y] += deviation * (x[a] - mean[a, y])
        low[a, y] = min(low[a, y], x[a])
        high[a, y] = max(high[a, y], x[a])


@compiled
def _deviation(squares: float, count: float) -> float:
    return math.sqrt(squares / (count - 1)) if count > 1 and squares > 0 else 0.0


@compiled
def _bayes(x: Floats, node: int, tree: Tree) -> int:
    """Return the likelier class under normal laws of independent features."""
    total = tree.seen[node, 0] + tree.seen[node, 1]
    if total == 0:
        return 0
    is_new = tree.rows[node, 0, 0] + tree.rows[node, 0, 1] == 0
    votes = (0.0, 0.0)
    for c in range(2):
        vote = tree.seen[node, c] / total
        for a in range(0 if is_new else x.shape[0]):
            density = 0.0
            if tree.rows[node, a, c] > 0:
                sigma = _deviation(tree.squares[node, a, c], tree.rows[node, a, c])
                distance = x[a] - tree.mean[node, a, c]
                if sigma > 0:
                    density = math.exp(-0.5 * (distance / sigma) ** 2)
                    density /= sigma * math.sqrt(2 * math.pi)
                else:
                    density = 1.0 if distance == 0 else 0.0
            vote *= density
        votes = (votes[1], vote)
    return 1 if votes[1] > votes[0] else 0


@compiled
def _entropy(a: float, b: float) -> float:
    total = a + b
    bits = 0.0
    if total > 0 and a > 0:
        bits -= a / total * math.log2(a / total)
    if total > 0 and b > 0:
        bits -= b / total * math.log2(b / total)
    return bits


@compiled
def _rows_below(limit: float, n: float, mean: float, squares: float) -> tuple[float, float]:
    """Return how many of n normal values are at most the limit, and how many are above."""
    sigma = _deviation(squares, n)
    if sigma > 0:
        z = (limit - mean) / sigma
        equal = math.exp(-0.5 * z**2) / (sigma * math.sqrt(2 * math.pi)) * n
        less = 0.5 * (1 + math.erf((limit - mean) / sigma / math.sqrt(2.0))) * n - equal
    else:
        equal = n if limit == mean else 0.0
        less = n if limit > mean else 0.0
    return less + equal, max(n - equal - less, 0.0)


@compiled
def _branches(limit: float, node: int, a: int, tree: Tree) -> tuple[float, float, float, float]:
    """Return the rows of each class at most the limit of a feature, and of each above."""
    below, above = (0.0, 0.0), (0.0, 0.0)
    for c in range(2):
        n = tree.rows[node, a, c]
        parts = (0.0, 0.0)
        if n > 0 and limit < tree.low[node, a, c]:
            parts = (0.0, n)
        elif n > 0 and limit >= tree.high[node, a, c]:
            parts = (n, 0.0)
        elif n > 0:
            parts = _rows_below(limit, n, tree.mean[node, a, c], tree.squares[node, a, c])
        below, above = (below[1], parts[0]), (above[1], parts[1])
    return below[0], below[1], above[0], above[1]


@compiled
def _split(node: int, nodes: int, tree: Tree) -> bool:
    """Split a leaf by its best feature if that is better than the next by more than chance."""
    seen = tree.seen[node]
    whole = _entropy(seen[0], seen[1])
    best, second = 0.0, -1e9  # not to split at all has a merit of 0
    chosen, limit = -1, 0.0
    branches = (0.0, 0.0, 0.0, 0.0)
    for a in range(tree.low.shape[1]):
        low = min(tree.low[node, a, 0], tree.low[node, a, 1])
        high = max(tree.high[node, a, 0], tree.high[node, a, 1])
        if high <= low:
            continue
        merit, at = -1e9, 0.0
        rows = (0.0, 0.0, 0.0, 0.0)
        for j in range(_SPLITS):
            candidate = low + (high - low) / (_SPLITS + 1) * (j + 1)
            if candidate <= low or candidate >= high:
                continue
            parts = _branches(candidate, node, a, tree)
            left, right = parts[0] + parts[1], parts[2] + parts[3]
            total = left + right
            gain = -1e9
            if left > _LEAST_BRANCH * total and right > _LEAST_BRANCH * total:
                gain = whole - (
                    left / total * _entropy(parts[0], parts[1])
                    + right / total * _entropy(parts[2], parts[3])
                )
            if gain > merit:
                merit, at, rows = gain, candidate, parts
        if merit > best:
            best, second, chosen, limit, branches = merit, best, a, at, rows
        elif merit > second:
            second = merit
    bound = math.sqrt(math.log(1 / _CONFIDENCE) / (2 * (seen[0] + seen[1])))
    if chosen < 0 or not (best - second > bound or bound < _TIE):
        return False
    tree.feature[node], tree.limit[node] = chosen, limit
    tree.below[node], tree.above[node] = nodes, nodes + 1
    tree.seen[nodes, 0], tree.seen[nodes, 1] = branches[0], branches[1]
    tree.seen[nodes + 1, 0], tree.seen[nodes + 1, 1] = branches[2], branches[3]
    tree.looked[nodes], tree.looked[nodes + 1] = (
        branches[0] + branches[1],
        branches[2] + branches[3],
    )
    return True
