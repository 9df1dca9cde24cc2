"""Compiled counting for features that tell the label: rows into counts, and counts into how well each feature tells."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from typing import Final

import numpy as np

from ..core.columns import Floats, Ints, Singles
from .compiled import compiled, inlined

VALUES, EQUAL, BEFORE = range(3)
"""Columns of `equal`: rows with a value, those where it is the label, those where it is the label of the row before."""
LOGS: Final = np.log(np.maximum(np.arange(1 << 12), 1))
"""Logarithms of the counts that are common."""
AREA, AREA_VARIANCE, INFORMATION, INFORMATION_VARIANCE = range(4)
"""Columns of what `measure` fills."""


@compiled
def tally(
    table: Ints,
    equal: Ints,
    same: Ints,
    values: Singles,
    edges: Singles,
    used: Ints,
    classes: Ints,
    labels: Singles,
    before: Singles,
) -> None:
    """Count n rows.

    Parameters
    ----------
    table
        (k, 34, c) as `LabelCounts` has it.
    equal, same
        (k, 3), see `VALUES`; (2,) rows with a label before them, and those with the same one.
    values
        (k, n) features, NaN for none.
    edges, used
        (k, 16), NaN beyond (k,) how many there are; a feature with -1 is not counted in the table.
    classes
        (n,) numbers of classes, -1 for none.
    labels, before
        (n,) labels, and those of the rows before; NaN for none.

    Notes
    -----
    A cell is how many edges are below a value and how many are not above it: loops without branches over rows, which the
    compiler makes vectors of.
    """
    n, missing, many = len(labels), table.shape[1] - 1, table.shape[2]
    for i in range(n):
        if not np.isnan(before[i]) and not np.isnan(labels[i]):
            same[0] += 1
            same[1] += labels[i] == before[i]
    cells = np.empty(n, np.int32)
    for j in range(values.shape[0]):
        there, is_label, was_label = np.int32(0), np.int32(0), np.int32(0)
        for i in range(n):
            x = values[j, i]
            there += np.int32(not np.isnan(x))
            is_label += np.int32(x == labels[i])
            was_label += np.int32(x == before[i])
        equal[j, 0] += there
        equal[j, 1] += is_label
        equal[j, 2] += was_label
        if used[j] < 0:
            continue
        cells[:] = 0
        for e in range(used[j]):
            edge = edges[j, e]
            for i in range(n):
                cells[i] += np.int32(edge < values[j, i]) + np.int32(edge <= values[j, i])
        for i in range(n):
            y = classes[i]
            if 0 <= y < many:
                x = values[j, i]
                table[j, missing if np.isnan(x) else cells[i], y] += 1


@compiled
def places(labels: Floats, known: Floats, found: Ints) -> int:
    """Fill (n,) `found` with which of the known classes each label is, -1 for none; return the first that is new, or n."""
    new = len(labels)
    for i in range(len(labels)):
        found[i] = -1
        for y in range(len(known)):
            if labels[i] == known[y]:
                found[i] = y
                break
        if found[i] < 0 and new == len(labels) and not np.isnan(labels[i]):
            new = i
    return new


@compiled
def measure(table: Ints, fewest: int, logs: Floats, found: Floats) -> None:
    """Fill (k, 4) `found`, see `AREA`, from (k, 34, c) counts; NaN where it is not known. `logs` is `LOGS`.

    The numbers are those of `leaky_features.area` and `information`, for all features at once.
    """
    cells, many = table.shape[1], table.shape[2]
    sums = np.empty(many, np.int64)
    for j in range(table.shape[0]):
        found[j, :] = np.nan
        sums[:] = 0
        for x in range(cells):
            for y in range(many):
                sums[y] += table[j, x, y]
        known = 0
        for y in range(many):
            known += sums[y] >= fewest
        if known < 2:
            continue
        if many == 2:
            _area(table[j], fewest, found[j])
        _information(table[j], sums, logs, found[j])


@compiled
def _area(counts: Ints, fewest: int, found: Floats) -> None:
    n, p = 0.0, 0.0
    for x in range(len(counts) - 1):
        n += counts[x, 0]
        p += counts[x, 1]
    if min(n, p) < fewest:
        return
    value, below = 0.0, 0.0
    for x in range(len(counts) - 1):
        value += counts[x, 1] * (below + counts[x, 0] / 2) / n
        below += counts[x, 0]
    value /= p
    negatives, positives, of_p, of_n = 0.0, 0.0, 0.0, 0.0
    for x in range(len(counts) - 1):
        above = (negatives + counts[x, 0] / 2) / n
        over = 1 - (positives + counts[x, 1] / 2) / p
        negatives += counts[x, 0]
        positives += counts[x, 1]
        of_p += counts[x, 1] * (above - value) ** 2
        of_n += counts[x, 0] * (over - value) ** 2
    found[0] = max(value, 1 - value)
    found[1] = max(of_p / (p * (p - 1)) + of_n / (n * (n - 1)), 1 / (4 * min(n, p) ** 2))


@inlined
def _log(count: int, logs: Floats) -> float:
    return float(logs[count] if count < len(logs) else np.log(count))


@compiled
def _information(counts: Ints, sums: Ints, logs: Floats, found: Floats) -> None:
    n, least = 0, np.inf
    columns, rows, cells = 0, 0, 0
    for y in range(len(sums)):
        if sums[y] > 0:
            n += sums[y]
            least = min(least, sums[y])
            columns += 1
    bits, entropy, bits_squared = np.zeros(len(sums)), 0.0, 0.0
    for y in range(len(sums)):
        if sums[y] > 0:
            bits[y] = _log(n, logs) - _log(sums[y], logs)
            entropy += sums[y] / n * bits[y]
            bits_squared += sums[y] / n * bits[y] ** 2
    gains, squares, crossed = (
        0.0,
        0.0,
        0.0,
    )  # of what a cell tells; with what its class would have told
    for x in range(len(counts)):
        total = 0
        for y in range(len(sums)):
            total += counts[x, y]
        if total == 0:
            continue
        rows += 1
        row = _log(n, logs) - _log(total, logs)
        for y in range(len(sums)):
            if counts[x, y] > 0:
                cells += 1
                gain = row + _log(counts[x, y], logs) - _log(sums[y], logs)
                gains += counts[x, y] * gain
                squares += counts[x, y] * gain**2
                crossed += counts[x, y] * gain * bits[y]
    gains, squares, crossed = gains / n, squares / n, crossed / n
    mutual = gains
    value = mutual / entropy
    variance = max(squares - 2 * value * crossed + value**2 * bits_squared, 0.0)
    more = (cells - rows - columns + 1) / (2 * n)
    corrected = (mutual - more) / (entropy + (columns - 1) / (2 * n))
    found[2] = min(max(corrected, 0.0), 1.0)
    found[3] = max(variance / (n * entropy**2), 1 / (4 * n * least))
