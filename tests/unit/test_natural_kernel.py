"""Since when a level is another one, in rings of blocks: what the compiled loop tells is what numpy finds."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.core.columns import Floats
from tocsin.detectors import natural_kernel as kernel

RING = 194


def told(ring: Floats, place: int, most: int) -> tuple[int, int, int]:
    claim = np.full(kernel.CLAIM, np.nan)
    kernel._since(ring, place, most, claim)
    since, latest, earliest = claim[[kernel.SINCE, kernel.LATEST, kernel.EARLIEST]].tolist()
    return int(since), int(latest), int(earliest)


def direct(ring: Floats, place: int, most: int) -> tuple[int, int, int]:
    """Return the split that explains most, and the ends of 95 % of the likelihood, by each split's own means."""
    newest_first = np.roll(ring[::-1], place + 1 - len(ring))
    usable = ~np.isnan(newest_first)
    known = newest_first[usable]
    won = np.zeros(most)
    for back in np.flatnonzero(usable[:most]):
        m = int(usable[: back + 1].sum())
        if m < len(known):
            residual = known[:m].var() * m + known[m:].var() * (len(known) - m)
            won[back] = known.var() * len(known) - residual
    best = int(won.argmax())
    noise = 6 * (known.var() - won[best] / len(known))  # of blocks that correlate by 0.7
    share = np.where(won > 0, np.exp((won - won[best]) / (2 * noise)), 0)
    latest, earliest = np.searchsorted(np.cumsum(share) / share.sum(), (0.025, 0.975)).tolist()
    return best + 1, min(latest, best) + 1, max(earliest, best) + 1


@pytest.mark.parametrize("most", [67, 74])
@pytest.mark.parametrize("shift", [0.0, 0.7, 2.0, -5.0])
def test_since_when_is_the_split_that_explains_most(shift: float, most: int) -> None:
    rng, widths = np.random.default_rng([3, most]), []
    for _ in range(100):
        ring = rng.normal(rng.normal(), size=RING)
        place, blocks = int(rng.integers(RING)), int(rng.integers(3, 60))
        ring[(place - np.arange(blocks)) % RING] += shift
        ring[rng.integers(RING, size=rng.integers(20))] = np.nan
        found = told(ring, place, most)
        assert found == direct(ring, place, most)
        widths.append(found[2] - found[1])
    assert max(widths) > (2 if abs(shift) > 1 else 20)


def test_a_step_without_noise_is_told_to_the_block() -> None:
    ring = np.zeros(RING)
    ring[[0, 1, 2, -1, -2]] = 1  # around the ring's end
    assert told(ring, 2, 74) == (5, 5, 5)


def test_a_level_that_never_changed_is_told_by_its_latest_block() -> None:
    ring = np.full(RING, np.nan)
    ring[:40] = 1.0
    assert told(ring, 39, 74) == (1, 1, 1)
