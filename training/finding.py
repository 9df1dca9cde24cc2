"""What was found in the data, and in which samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ..core.columns import Ints

NOT_FINITE: Final = "non-finite input"
OUT_OF_RANGE: Final = "input out of range"
DUPLICATE: Final = "duplicate"
NEAR: Final = "near duplicate"
CONFLICT: Final = "same input, other label"
LEAK: Final = "in another split"
SHARD: Final = "repeated shard"
ORDER: Final = "same order"
BALANCE: Final = "class balance"
DRIFT: Final = "feature drift"
LABEL: Final = "doubtful label"
TRIGGER: Final = "backdoor trigger"
ADVERSARIAL: Final = "adversarial input"
OUTLIER: Final = "out of distribution"
KINDS: Final = (
    NOT_FINITE, OUT_OF_RANGE, DUPLICATE, NEAR, CONFLICT, LEAK, SHARD, ORDER, BALANCE, DRIFT, LABEL,
    TRIGGER, ADVERSARIAL, OUTLIER,
)  # fmt: skip
"""All of them."""
QUARANTINED: Final = (NOT_FINITE, OUT_OF_RANGE, DUPLICATE, NEAR, CONFLICT, LEAK, TRIGGER)
"""Kinds whose samples `quarantine` leaves out."""


def _none() -> Ints:
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Finding:
    """Something in the data that training should not have.

    Parameters
    ----------
    kind
        One of the kinds of this file.
    summary
        One sentence.
    samples
        (n,) indices in the data set, rising; empty where it is not about single ones. Of an iterable data set numbers in the
        order of arrival.
    of
        (n,) what each is a copy of: the index of a sample, or of a row of the other split; of equal inputs with other labels one whose label differs; empty else.
    epoch
        In which it was seen first.
    part
        (n, 3) the part of each that it is about, of pictures: the first row and column, and the side; empty else.
    split
        The name of the other split that `of` is rows of; empty where it is samples of the data set itself.
    order
        (n,) places in `samples`, the most doubtful first; empty where all are alike.
    rather
        (n,) the class that the model prefers to the label of each; empty else.
    about
        Of what is found epoch by epoch what stays the same while it lasts, as a feature and a worker; empty else.
    """

    kind: str
    summary: str
    samples: Ints = field(default_factory=_none)
    of: Ints = field(default_factory=_none)
    epoch: int = 0
    part: Ints = field(default_factory=_none)
    split: str = ""
    order: Ints = field(default_factory=_none)
    rather: Ints = field(default_factory=_none)
    about: str = ""


def detector_of(kind: str) -> str:
    """Return what the detector of a kind of finding is called in alerts.

    Examples
    --------
    >>> detector_of(CONFLICT)
    'same_input_other_label'
    """
    return kind.replace(",", "").replace(" ", "_")


def counted(samples: int) -> str:
    """Return how many samples as text."""
    return f"{samples:,} sample" + ("" if samples == 1 else "s")


def listed(samples: Ints, most: int = 8) -> str:
    """Return the first few of samples as text.

    Examples
    --------
    >>> listed(np.arange(12), most=3)
    '0, 1, 2 and 9 more'
    """
    text = ", ".join(str(k) for k in samples[:most])
    return text + (f" and {len(samples) - most:,} more" if len(samples) > most else "")


def report(findings: Iterable[Finding]) -> str:
    """Return a line for each finding, and one for the samples that it is about."""
    lines: list[str] = []
    for found in findings:
        lines.append(f"{found.kind}: {found.summary}")
        if len(found.samples):
            lines.append(f"    samples {listed(found.samples)}")
    return "\n".join(lines) or "nothing found"
