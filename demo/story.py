"""What happens in the demo's stream, event by event, and when: known in advance, so that it can be checked."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import nn

from .classifier import CLASSES, Digits
from .pgd import pgd

BATCH: Final = 10
"""Images that the server answers together."""
ATTACKER: Final = "mallory"
_CLIENTS: Final = (*(f"branch-{n}" for n in range(1, 9)), ATTACKER)
_BRIGHTER: Final = 1.3
_SWAPPED: Final = {1: 7, 7: 1, 4: 9, 9: 4}
_LABELLED: Final = 0.9  # of all predictions get a label
_LABEL_DELAY: Final = (50, 400)  # events


@dataclass(frozen=True)
class Change:
    """Something that goes wrong at a known event.

    Parameters
    ----------
    at
        Number of the first prediction it concerns.
    kind
        What the alert for it must be.
    text
        What to announce.
    """

    at: int
    kind: str
    text: str


INPUTS: Final = Change(
    3000, "data drift", "the scanner's lamp is replaced: images are 30 % brighter"
)
LABELS: Final = Change(5000, "concept drift", "new rules for labels: 1 and 7, 4 and 9 change names")
ATTACK: Final = Change(
    7000, "adversarial input", f"{ATTACKER} sends PGD images made against this very model"
)
CHANGES: Final = (INPUTS, LABELS, ATTACK)
EVENTS: Final = 8500


class Served(NamedTuple):
    """A batch for the model to answer: the ids, who asks, and (n, 64) images."""

    first: int
    ids: list[str]
    clients: list[str]
    images: torch.Tensor


class Truth(NamedTuple):
    """A label that has become known."""

    prediction_id: str
    label: str
    is_changed: bool  # its prediction was made after the rules changed


def identity(number: int) -> str:
    """Return the prediction id of event `number`."""
    return f"digit-{number:06d}"


def number_of(prediction_id: str) -> int:
    """Return which event a prediction id belongs to."""
    return int(prediction_id.removeprefix("digit-"))


def tell(model: nn.Module, held_out: Digits, seed: int) -> Iterator[Served | Truth]:
    """Yield what the server is asked, and what becomes known, in order.

    Parameters
    ----------
    model
        A copy of the classifier, which the attacker has got hold of.
    held_out
        Images that the model was not trained on; requests are drawn from them.
    seed
        Another one tells another story of the same plot.
    """
    rng = np.random.default_rng(seed)
    hostile = pgd(model, held_out.images, held_out.labels)
    due: list[tuple[int, int, Truth]] = []
    for first in range(0, EVENTS, BATCH):
        while due and due[0][0] <= first:
            yield heapq.heappop(due)[2]
        drawn = rng.integers(0, len(held_out.images), BATCH)
        clients = [_CLIENTS[k] for k in rng.integers(0, len(_CLIENTS), BATCH)]
        images = held_out.images[drawn].clone()
        if first >= INPUTS.at:
            images = (images * _BRIGHTER).clamp(0, 1)
        for i, client in enumerate(clients):
            if first >= ATTACK.at and client == ATTACKER:
                images[i] = hostile[drawn[i]]
        yield Served(first, [identity(first + i) for i in range(BATCH)], clients, images)
        for i in range(BATCH):
            if rng.random() >= _LABELLED:
                continue
            digit = int(held_out.labels[drawn[i]])
            is_changed = first >= LABELS.at
            label = CLASSES[_SWAPPED.get(digit, digit) if is_changed else digit]
            delay = int(rng.integers(*_LABEL_DELAY))
            truth = Truth(identity(first + i), label, is_changed)
            heapq.heappush(due, (first + i + delay, first + i, truth))
    while due:
        yield heapq.heappop(due)[2]
