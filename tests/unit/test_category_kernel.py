"""How far a share that was counted may be from the true one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from tocsin.detectors.category_kernel import more


@pytest.mark.parametrize("count", [30, 400])
@pytest.mark.parametrize("doubt", [1.0, 4.0, 7.0])
def test_a_share_is_beyond_its_bounds_as_seldom_as_is_said(count: int, doubt: float) -> None:
    """Exactly, from the binomial law, for every share that may be counted."""
    counted = np.arange(count + 1) / count
    above = np.array([more(share, doubt / count) for share in counted])
    below = np.array([more(1.0 - share, doubt / count) for share in counted])
    for truth in (0.001, 0.01, 0.1, 0.3, 0.5, 0.8, 0.97, 0.999):
        chance = binom.pmf(np.arange(count + 1), count, truth)
        assert chance[counted + above < truth].sum() <= np.exp(-doubt)
        assert chance[counted - below > truth].sum() <= np.exp(-doubt)
    assert above[0] <= 2 * doubt / count  # a share that is 0 is known better than one of a half
