"""Samples that are unusual to a model, by what it made of samples that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import betabinom

from ..core.columns import Floats, Ints
from ..detectors.logit_scores import LogitGaussian, margin, rounded
from .finding import ADVERSARIAL, OUTLIER, Finding, counted

LEAST: Final = 600
"""Samples of a reference; six of them are its most unusual hundredth."""
MOST: Final = 10_000
"""Samples of a reference that are used."""
_LEVELS: Final = (0.001, 0.002, 0.005, 0.01)  # shares of the reference, chosen
_DOUBT: Final = 0.001  # that a finding of a kind is by chance
_FOLDS: Final = 5
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

    As many clean samples are beyond a share of the reference as that share; there is a finding where more are than chance explains.

    Parameters
    ----------
    name
        Of the reference.
    reference
        (m, k) logits and (m, d) embeddings of it, `LEAST` rows or more in random order; None for no embeddings.
    samples, logits, embedding
        (n,), (n, k) and (n, d).

    Notes
    -----
    Adversarial: the two scores of `detectors/adversarial.py`. Out of distribution: the distance of the unit vector to its fifth nearest and,
    since a unit vector says nothing of it, the length, which is too large or too small.

    All of the reference is ranked by scores that have not seen the row itself: Gaussians are fitted to four fifths of it, and the row is left out
    of its own neighbours. Each score is asked at each level whether so many samples are beyond. Those named are what is beyond at one
    level for each score that says yes: the level with most samples over twice what chance explains, so most named rightly less wrongly.

    Labels are not used. An adversarial input that has kept its label is to the model what a wrong label is, and `suspicion` tells of both.

    References
    ----------
    Neighbours: Sun, Ming, Zhu and Li 2022, "Out-of-distribution detection with deep nearest neighbors" (arXiv 2204.06507), section 3.
    Ranks over folds: Vovk 2015, "Cross-conformal predictors", Annals of Mathematics and Artificial Intelligence 74, 9-28
    (doi:10.1007/s10472-013-9368-4), equation 3. How many are beyond: `_chance`.
    """
    others, near = reference
    kinds = {ADVERSARIAL: _logit_ranks(others, logits)}
    if near is not None and embedding is not None:
        kinds[OUTLIER] = _embedding_ranks(near, embedding)
    found = [_finding(kind, name, samples, ranks, len(others)) for kind, ranks in kinds.items()]
    return [one for one in found if one is not None]


def _logit_ranks(reference: Floats, rows: Floats) -> dict[str, Ints]:
    """Return by score (n,) how many of a reference are as unusual as each row."""
    z, x = torch.from_numpy(reference), torch.from_numpy(rows)
    with torch.inference_mode():
        ranks = {"margin": _as_large(margin(z), margin(x))}
        ranks["gaussian"] = np.zeros(len(rows), np.int64)
        for k in range(_FOLDS):
            is_own = np.arange(len(reference)) % _FOLDS == k
            fitted = LogitGaussian.fit(reference[~is_own])
            ranks["gaussian"] += _as_large(fitted.score(z[is_own]), fitted.score(x))
    return ranks


def _embedding_ranks(reference: Floats, rows: Floats) -> dict[str, Ints]:
    """Return by score (n,) how many of a reference are as unusual as each row."""
    z, x = torch.from_numpy(reference), torch.from_numpy(rows)
    unit = torch.nn.functional.normalize(z, dim=1)
    # A row of the reference is the nearest of its own.
    far = _distance(unit, unit, _NEIGHBOURS + 1)
    length, lengths = z.norm(dim=1), x.norm(dim=1)
    return {
        "far": _as_large(far, _distance(unit, torch.nn.functional.normalize(x, dim=1), _NEIGHBOURS)),
        "long": _as_large(length, lengths),
        "short": _as_large(-length, -lengths),
    }  # fmt: skip


def _distance(reference: torch.Tensor, unit: torch.Tensor, nearest: int) -> torch.Tensor:
    """Return the (n,) squared distances of unit vectors to the one of a reference that is so near."""
    parts = torch.split(unit, _AT_ONCE)
    cosine = [(part @ reference.T).topk(nearest, dim=1).values[:, -1] for part in parts]
    return 2 - 2 * torch.cat(cosine)


def _as_large(reference: torch.Tensor, scores: torch.Tensor) -> Ints:
    """Return (n,) how many scores of a reference are as large as each or larger."""
    ordered = np.sort(rounded(reference.numpy()))
    return len(ordered) - np.searchsorted(ordered, rounded(scores.numpy()), side="left")


def _finding(
    kind: str, name: str, samples: Ints, ranks: Mapping[str, Ints], others: int
) -> Finding | None:
    is_named, chance = np.zeros(len(samples), np.bool_), 0.0
    for rank in ranks.values():
        beyond = _beyond(rank, others, _DOUBT / len(ranks))
        if beyond:
            is_named |= rank < beyond
            chance += len(samples) * beyond / (others + 1)
    if not is_named.any():
        return None
    count = int(is_named.sum())
    text = f"{counted(count)} of {len(samples):,} more unusual than nearly all of {name}, where chance explains about {chance:.0f}"
    return Finding(kind, text, samples[is_named])


def _beyond(rank: NDArray[np.int64], others: int, doubt: float) -> int:
    """Return the k for which samples with fewer than k of a reference as unusual as they are named; 0 for none."""
    levels = sorted({max(1, int(level * (others + 1))) for level in _LEVELS})
    best, gain = 0, -np.inf
    for k in levels:
        count = int((rank < k).sum())
        more = count - 2 * len(rank) * k / (others + 1)
        if more > gain and _chance(count, len(rank), k, others) <= doubt / len(levels):
            best, gain = k, more
    return best


def _chance(count: int, samples: int, k: int, others: int) -> float:
    """Return how likely so many samples, or more, are beyond the k-th largest of a reference if they are as it is.

    References
    ----------
    The share beyond is Beta(k, m + 1 - k) distributed: Vovk 2012, "Conditional validity of inductive conformal predictors", Proposition 2a; and so the
    number is beta-binomial, or negative hypergeometric: as many as of samples in a random order precede the k-th of the others. Exact where the score is
    fitted to neither; Bates, Candes, Lei, Romano and Sesia 2023, "Testing for outliers with conformal p-values" (doi:10.1214/22-AOS2244), have this
    dependence of p-values that share a reference.
    """
    return float(betabinom.sf(count - 1, samples, k, others + 1 - k))
