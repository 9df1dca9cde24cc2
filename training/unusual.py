"""Samples that are unusual to a model, by what it made of samples that it was not trained on."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom

from ..core.columns import Floats, Ints
from ..detectors.adversarial import Fitted
from ..detectors.conformal import Calibration, flag_rate_bound
from .finding import ADVERSARIAL, OUTLIER, Finding, counted

LEAST: Final = 600
"""Samples of a reference; half of them are fitted to, and the smallest level needs 300 others."""
MOST: Final = 10_000
"""Samples of a reference that are used."""
_LEVEL: Final = 0.01  # share of clean samples that are flagged, chosen
_DOUBT: Final = 0.001  # that more are by chance, and that the bound of that is wrong
_NEIGHBOURS: Final = 5
_AT_ONCE: Final = 1024


def unusual(
    name: str,
    reference: tuple[Floats, Floats | None],
    samples: Ints,
    logits: Floats,
    embedding: Floats | None,
) -> list[Finding]:
    """Return samples whose logits are as those of adversarial inputs are, and whose embeddings are far from all of a reference.

    A hundredth of clean samples is flagged as well; so there is a finding where more are than chance explains.

    Parameters
    ----------
    name
        Of the reference.
    reference
        (m, k) logits and (m, d) embeddings of it, `LEAST` rows or more in random order; None for no embeddings.
    samples, logits, embedding
        (n,), (n, k) and (n, d).

    References
    ----------
    Adversarial: `detectors/adversarial.py`. Out of distribution: Sun, Ming, Zhu and Li 2022, "Out-of-distribution detection with
    deep nearest neighbors" (arXiv 2204.06507), section 3: the distance of the unit vector to its fifth nearest; and, since a unit vector
    says nothing of it, the length, half of the level each. Levels: `detectors/conformal.py`.
    """
    others, near = reference
    half = len(others) // 2
    fitted = Fitted.fit(others, half, _LEVEL)
    rest = len(others) - half
    found = [
        _finding(ADVERSARIAL, name, samples, fitted.flags(logits), rest, list(fitted.levels.values()))
    ]  # fmt: skip
    if near is not None and embedding is not None:
        p_far = Calibration(_distance(near[:half], near[half:])).p(
            _distance(near[:half], embedding)
        )
        p_long = Calibration(_length(near[half:])).p(_length(embedding))
        is_out = np.minimum(p_far, p_long) <= _LEVEL / 2
        found.append(_finding(OUTLIER, name, samples, is_out, rest, [_LEVEL / 2, _LEVEL / 2]))
    return [one for one in found if one is not None]


def _finding(
    kind: str, name: str, samples: Ints, flagged: NDArray[np.bool_], rest: int, levels: list[float]
) -> Finding | None:
    confidence = 1 - _DOUBT / len(levels)
    rate = sum(flag_rate_bound(level, rest, confidence) for level in levels)
    count, chance = int(flagged.sum()), int(binom.isf(_DOUBT, len(samples), min(rate, 1.0)))
    if count <= chance:
        return None
    text = f"{counted(count)} of {len(samples):,} more unusual than {1 - _LEVEL:.0%} of {name}, where chance explains {chance:,}"
    return Finding(kind, text, samples[flagged])


def _distance(reference: Floats, rows: Floats) -> Floats:
    """Return the (n,) distances of unit vectors to the fifth nearest of a reference."""
    unit, others = _unit(rows), _unit(reference).T
    found = [
        (part @ others).topk(_NEIGHBOURS, dim=1).values[:, -1]
        for part in torch.split(unit, _AT_ONCE)
    ]
    cosine = torch.cat(found).numpy()
    return np.asarray(2 - 2 * cosine, np.float64)


def _length(rows: Floats) -> Floats:
    return np.asarray(np.linalg.norm(rows, axis=1), np.float64)


def _unit(rows: Floats) -> torch.Tensor:
    x = torch.from_numpy(rows)
    return torch.nn.functional.normalize(x, dim=1)
