"""The natural-size test against the whole stream at once, in plain numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student

from tocsin.detectors.base import Observations
from tocsin.detectors.natural_size import NaturalSize

DAY = 86_400_000_000_000
HORIZONS = ((7, 120), (14, 180))
RATE_BLOCKS = 194
BUDGET = 2e3


def in_one_go(values: np.ndarray, is_label: list[bool], blocks: np.ndarray) -> set:
    """Return (block, stream, statistic, z) of every alarm."""
    count = blocks[-1]  # the last block stays open
    statistics = []
    for x, label in zip(values.T, is_label, strict=True):
        low, middle, high = np.quantile(x[np.isfinite(x)][:2000], (0.25, 0.5, 0.75))
        g = x if label else np.arcsinh((x - middle) / ((high - low) / 1.35))
        found = np.full((count, 2), np.nan)
        maxima = np.full(count, np.nan)
        for b in range(count):
            rows = g[(blocks == b) & np.isfinite(x)]
            if len(rows) >= 4:
                found[b, 0] = rows.mean()
                maxima[b] = rows.max()
                if label:
                    found[b, 1] = (np.diff(rows) != 0).sum() / (len(rows) - 1)
            seven = maxima[max(0, b - 6) : b + 1]
            if not label and len(rows) and np.isfinite(seven).sum() >= 4:
                found[b, 1] = np.log(np.nanstd(seven) + 0.02)
        statistics.append(found)
    rows = np.bincount(blocks)[:count]
    tests = 4.0 * values.shape[1]
    alarms: dict[tuple[int, int, int], tuple[float, float]] = {}
    for h, reference in HORIZONS:
        for k, found in enumerate(statistics):
            for s in range(2):
                change = changes(found[:, s], h, reference)
                for b in range(count):
                    past = change[: max(0, b - 59)] ** 2
                    past = past[np.isfinite(past)]
                    if len(past) < 30 or not np.isfinite(change[b]):
                        continue
                    z = change[b] / (np.sqrt(past.mean()) + 1e-6)
                    rate = rows[max(0, b + 1 - RATE_BLOCKS) : b + 1].mean()
                    alpha = min(rate / BUDGET, 1 / 20) / tests
                    threshold = student.isf(alpha / 2, max(1, len(past) // h))
                    strength = -z if s == 1 and not is_label[k] else abs(z)
                    if strength > threshold * max(1.0, alarms.get((b, k, s), (0.0, 0.0))[1]):
                        alarms[b, k, s] = (z, strength / threshold)
    return {(b, k, s, round(z, 3)) for (b, k, s), (z, _) in alarms.items()}


def changes(statistic: np.ndarray, h: int, reference: int) -> np.ndarray:
    found = np.full(len(statistic), np.nan)
    for b in range(len(statistic)):
        recent = statistic[max(0, b + 1 - h) : b + 1]
        before = statistic[max(0, b + 1 - h - reference) : max(0, b + 1 - h)]
        if np.isfinite(recent).sum() >= max(1, h // 2) and np.isfinite(before).sum() >= 25:
            found[b] = np.nanmean(recent) - np.nanmean(before)
    return found


def wandering(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows that wander and shift, with holes, and the block of each, some without any row."""
    rng = np.random.default_rng(seed)
    blocks = np.repeat(np.arange(420), 24)
    kept = rng.random(len(blocks)) < 0.8
    for first in (150, 290):
        kept &= (blocks < first) | (blocks > first + 4)
    blocks = blocks[kept]
    blocks[0] = 0
    level = np.cumsum(rng.normal(0, 0.05, 420)) + np.sin(np.arange(420) / 9)
    numbers = level[blocks, None] + rng.normal(size=(len(blocks), 2))
    numbers[blocks >= 330, 0] += 4
    numbers[blocks >= 360, 1] = np.minimum(numbers[blocks >= 360, 1], np.median(numbers[:, 1]))
    label = rng.random(len(blocks)) < np.where(blocks < 340, 0.4, 0.85)
    values = np.column_stack([numbers, label])
    values[rng.random(values.shape) < 0.05] = np.nan
    return values, blocks


@pytest.mark.parametrize("seed", range(2))
def test_alarms_are_those_of_the_whole_stream_at_once(seed: int) -> None:
    values, blocks = wandering(seed)
    hours = np.arange(len(blocks))
    names = ("feature:0", "feature:1", "label")
    verdicts = NaturalSize(BUDGET, label="none", longest_blocks=10**6, gap_blocks=10**6).update(
        Observations(
            names=names,
            values=values,
            offsets=hours,
            rows=np.zeros_like(hours),
            times=blocks * DAY + (hours % 20) * 3_600_000_000_000,
        )
    )
    # A verdict stands at the first row after its block; empty blocks end where the next row comes.
    expected = {
        (int(np.searchsorted(blocks, b, "right")), names[k], s, z)
        for b, k, s, z in in_one_go(values, [False, False, True], blocks)
    }
    second = ("scale up", "scale down", "flip rate up", "flip rate down")
    found = {
        (v.offset, v.subject, int(v.change in second), round(v.size_sigmas or 0.0, 3))
        for v in verdicts
    }
    assert len(expected) > 30
    assert near(found, expected)


def near(found: set, expected: set) -> bool:
    """Whether both are the same, but for the last digit of z: samples are in single precision."""
    a, b = sorted(found), sorted(expected)
    return [x[:3] for x in a] == [x[:3] for x in b] and bool(
        np.allclose([x[3] for x in a], [x[3] for x in b], atol=0.0021)
    )
