"""What is said of features that tell the label, are it, or are of a later time: verdicts and their words."""

from __future__ import annotations

from typing import Final, NamedTuple

from ..core.columns import Ints
from ..core.verdict import Verdict
from .binary_metrics import Metric, Z, wilson
from .leaky_features import HIGH, MAYBE, Leaky
from .leaky_kernel import BEFORE, EQUAL, VALUES

FEATURES, SAME_AS_LABEL, TIMES = "leaky_features", "equal_to_label", "feature_times"
"""The detectors' names."""
LEAK: Final = "leak"
"""What the subjects of these verdicts begin with."""
SAME: Final = 0.99
"""A feature that agrees with the label so often is equal to it, if ..."""
RARE: Final = 0.01
"""Features that are of a time after the event in fewer rows are somebody's clock (chosen)."""
_ABOVE_CHANCE: Final = 0.9
"""... so much of what is not chance is agreement (Cohen's kappa) ..."""
_SURELY: Final = 0.7
"""... surely so much (both chosen; total agreement with a label of two even classes shows it in 250)."""


class Agreement(NamedTuple):
    """How often a feature is the label, in so many rows, and a lower bound of what of it is not chance."""

    share: Metric
    by_chance: float
    rows: int
    bound: float


def agreement(equal: Ints, same: Ints, z: float) -> Agreement | None:
    """Return how often a feature is the label, None where that is not sure to be more than chance.

    Cohen's kappa (1960, doi:10.1177/001316446002000104), where chance is agreement with the label of the row before; it counts
    as many rows as two labels after one another differ in.
    """
    n, agree = int(equal[VALUES]), int(equal[EQUAL])
    chance = equal[BEFORE] / n
    kappa = (agree / n - chance) / (1 - chance) if chance < 1 else 0.0
    counts = n * (1 - same[1] / max(int(same[0]), 1))
    if kappa < _ABOVE_CHANCE or counts <= 0:
        return None
    scale = (Z / z) ** 2
    low, _ = wilson(kappa * counts * scale, counts * scale)
    if low <= _SURELY:
        return None
    return Agreement(Metric(agree / n, *wilson(agree, n)), float(chance), n, low)


def plain(name: str) -> str:
    """Return a feature's own name, of a stream's."""
    return name.partition(":")[2] or name


def equal_to_label(name: str, found: Agreement, at: tuple[int, int]) -> Verdict:
    """Say that a feature is equal to the label."""
    share, low, high, _ = found.share
    return Verdict(
        detector=SAME_AS_LABEL, subject=f"leak:{plain(name)}", offset=at[0], row=at[1], statistic=share,
        threshold=SAME, unit="share of rows", lasts=True, change="equal to the label", size=share - found.by_chance,
        delay_events=found.rows,
        evidence=f"equal to the label in {share:.1%} ({low:.1%} to {high:.1%}) of {found.rows:,} rows, by chance "
        f"{found.by_chance:.1%}",
    )  # fmt: skip


_SETTLES: Final = {
    False: "; a drift.reference that was written with --label would settle it: honest if training had it so too",
    True: "; drift.reference does not tell of this feature: written anew, with it, it would settle it",
}
"""What is to be known, by whether training is."""
_SAID: Final = {"auc": "area under the curve", "information": "share of the label's information"}


def tells_label(
    claim: Leaky, at: tuple[int, int], labels: int, *, is_trained: bool = False
) -> Verdict:
    """Say that a feature tells the label too well, in so many labels up to an event.

    `is_trained` says whether the reference is training.
    """
    value, low, high, _ = claim.value
    before = "" if claim.before is None else f", {claim.before.value:.3f} in the reference"
    says, settles = "tells the label", ""
    if claim.why == MAYBE:
        says, settles = "may be a leak", _SETTLES[is_trained]
    return Verdict(
        detector=FEATURES, subject=f"leak:{plain(claim.feature)}", offset=at[0], row=at[1], statistic=value,
        threshold=HIGH[claim.by], unit=_SAID[claim.by], lasts=True, change=f"{says}: {claim.why}",
        size=None if claim.before is None else value - claim.before.value, delay_events=labels,
        evidence=f"{says}, {claim.why}: {_SAID[claim.by]} {value:.3f} ({low:.3f} to {high:.3f}) over "
        f"{labels:,} labels{before}{settles}",
    )  # fmt: skip


def after_event(name: str, share: Metric, rows: int, skew: float, at: tuple[int, int]) -> Verdict:
    """Say that a feature is of a time after its event in too many rows, by more than `skew` seconds."""
    value, low, high, _ = share
    return Verdict(
        detector=TIMES, subject=f"leak:{plain(name)}", offset=at[0], row=at[1], statistic=value, threshold=RARE,
        unit="share of rows", lasts=True, change="after the event", size=value, delay_events=rows,
        evidence=f"more than {skew:g} s after the event in {value:.1%} ({low:.1%} to {high:.1%}) of {rows:,} rows",
    )  # fmt: skip


def settled(name: str, detector: str, at: tuple[int, int]) -> Verdict:
    """Say that what was said of a feature is so no more."""
    return Verdict(
        detector=detector, subject=f"leak:{plain(name)}", offset=at[0], row=at[1], statistic=0.0, threshold=0.0,
        phase="settled", outcome="returned",
    )  # fmt: skip
