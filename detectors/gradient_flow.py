"""What is wrong with gradients as they come: explosion, layers that get none or next to none, updates as large as the weights, no numbers."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from ..core.columns import Floats, Ints
from ..core.verdict import Summary, Verdict
from .first_claims import AGAIN, FirstClaims
from .surges import RISE, Surges

NAME: Final = "gradient_flow"
_STEPS: Final = 10
"""Steps in a row that make a layer dead, and of which a layer's median share is taken; chosen."""
VANISHED: Final = 1e-5
"""Of the largest layer's root mean square; chosen. Healthy nets on digits and MNIST raise nothing, ten sigmoid layers do (`bench training-faults`)."""
_REACHED: Final = 10 * VANISHED
"""A layer of so much gets its gradient, and what comes after it is on no way that has vanished: chosen. Classifiers like BERT give it 5e-3, ten
sigmoid layers at most 1e-9 where it vanishes first."""
_LARGE_UPDATE: Final = 1.0
"""Of a layer's weights, in three of the last five looks. About 0.001 is usual."""
_FLOOR: Final = math.log(10.0) / RISE
"""The least scale of the norm's logarithm: an explosion is to ten times the usual at least. A run that leaves a saddle rises too, by less and not at
once."""
_WILD: Final = 100.0  # times the norms of the first steps, while there are no others; chosen
_REST: Final = 50  # steps


class GradientFlow:
    """Watches the gradients of one model.

    Parameters
    ----------
    names
        Of the layers, in the order of the forward pass.
    sizes
        (layers,) int64: how many parameters each has.
    unplaced
        So many of the first have no place in the order that is known.

    Notes
    -----
    A layer that is frozen, or was not part of a step, has -1 in place of each number, and is not judged.

    A gradient vanishes on its way to the first layer. So of layers with next to none only those are claimed before which none gets 1e-4 of
    the largest: queries and keys of attention that still looks everywhere alike may get less than 1e-5, while what is before them learns.

    A layer whose units are all below zero takes the gradient from those before it, and may take it from those after it too: they are given
    nothing but zeros, and what they make of these may be below zero as well. So of dead layers the last is the cause, but for those
    that are given the same in all rows.

    Examples
    --------
    >>> import numpy as np
    >>> from tocsin.detectors.gradient_flow import GradientFlow
    >>> flow = GradientFlow(["first", "last"], np.array([100, 100]))
    >>> found = [v for step in range(10) for v in flow.update(step, np.array([0.0, 1.0]))]
    >>> [(v.offset, v.change, v.subject) for v in found]
    [(9, 'dead', 'gradient:first')]
    """

    def __init__(self, names: Sequence[str], sizes: Ints, unplaced: int = 0) -> None:
        self.names = list(names)
        self._unplaced = unplaced
        self._roots = np.sqrt(np.maximum(sizes, 1))
        self._surges = Surges(_FLOOR, _WILD)
        self._zeros = np.zeros(len(self.names), np.int64)
        self._starved = np.zeros(len(self.names), bool)
        self._shares: deque[Floats] = deque(maxlen=_STEPS)
        self._updates: deque[Floats] = deque(maxlen=5)
        self._first = FirstClaims(AGAIN)

    def update(self, step: int, norms: Floats) -> list[Verdict]:
        """Take the (layers,) norms of a step's gradients in; return what is wrong with them."""
        known = ~(norms < 0)
        broken = np.flatnonzero(known & ~np.isfinite(norms))
        if len(broken):
            return self.not_finite(step, self.names[broken[-1]], "backward pass")
        if not known.any():
            return []
        largest = float(np.sqrt((norms[known] ** 2).sum()))
        flow = self._loss_of_flow(step, norms, known)
        return flow if largest == 0.0 else [*self._explosion(step, norms, largest), *flow]

    @property
    def silent(self) -> list[str]:
        """The layers that may be dead in a few steps; of these, what they are given tells the cause."""
        return [
            self.names[k]
            for k in np.flatnonzero((self._zeros >= _STEPS // 2) & (self._zeros < _STEPS))
        ]

    def fed(self, varies: Mapping[str, bool]) -> None:
        """Take in, of layers by name, whether what they are given differs between the rows of a batch."""
        for name, is_varied in varies.items():
            self._starved[self.names.index(name)] = not is_varied

    def not_finite(self, step: int, layer: str, where: str) -> list[Verdict]:
        """Return the claim that a layer is the first whose numbers are none, unless it is more of the last one."""
        text = f"{layer} is the first layer of the {where} that is not finite"
        return self._claims(step, "non-finite", layer, 1.0, 1.0, "layers that are not finite", text)

    def updated(self, step: int, ratios: Floats) -> list[Verdict]:
        """Take the (layers,) norms of a step's updates by those of the weights in; return what is wrong with them."""
        self._updates.append(ratios)
        large = (np.array(self._updates) > _LARGE_UPDATE).sum(axis=0)
        if large.max() < 3:
            return []
        worst = int(np.argmax(large * 1e6 + np.minimum(ratios, 1e5)))
        return self._claims(
            step, "update", self.names[worst], float(ratios[worst]), _LARGE_UPDATE,
            "norm of the update by that of the weights",
            f"the update of {self.names[worst]} is {ratios[worst]:.3g} times its weights, about 0.001 is usual",
        )  # fmt: skip

    def _explosion(self, step: int, norms: Floats, largest: float) -> list[Verdict]:
        surge = self._surges.update(largest)
        # One step is what clipping is for, and less than ten times the usual no explosion.
        if surge is None or surge.kind == "spike" or surge.statistic < RISE:
            return []
        layer = self.names[int(np.argmax(norms))]
        return self._claims(
            step, "exploding", layer, surge.statistic, RISE, "robust scales of log norm",
            f"the norm is {largest:.3g}, {surge.statistic:.1f} scales above {surge.usual:.3g}, most of it in {layer}",
            Summary(count=self._surges.count, mean=surge.usual), Summary(count=1, mean=largest),
        )  # fmt: skip

    def _loss_of_flow(self, step: int, norms: Floats, known: np.ndarray) -> list[Verdict]:
        """Return which layers get no gradient, or next to none, while others do."""
        self._zeros = np.where(known & (norms == 0.0), self._zeros + 1, 0)
        self._starved &= self._zeros > 0
        found: list[Verdict] = []
        dead = np.flatnonzero(self._zeros >= _STEPS)
        starved = np.flatnonzero(self._starved[dead][1:])
        some = bool((norms[known] > 0.0).any())
        # Where none gets a gradient, all may be learnt; not where a layer is given the same in all rows.
        if len(dead) and (some or len(starved)):
            before = int(starved[0]) if len(starved) else len(dead) - 1
            after = len(dead) - 1 - before
            layer = self.names[dead[before]]
            more = f", nor do {before} before it" if before else ""
            more += f", nor do {after} after it, to which all rows are the same" if after else ""
            found += self._claims(
                step, "dead", layer, float(len(dead)), 1.0, "layers without a gradient",
                f"{layer} gets no gradient for {_STEPS} steps{more}",
            )  # fmt: skip
        if not some:
            return found
        size = np.where(known, norms / self._roots, np.nan)
        share = size / np.nanmax(size)
        share[share == 0.0] = np.nan  # those are dead, not faint
        self._shares.append(share)
        if len(self._shares) == _STEPS:
            middle = np.median(self._shares, axis=0)  # NaN where one of them is
            reached = np.flatnonzero(middle[self._unplaced :] >= _REACHED)
            end = self._unplaced + int(reached[0]) if len(reached) else len(middle)
            faint = np.flatnonzero(middle[:end] < VANISHED)
            if len(faint):
                layer = self.names[faint[np.argmin(middle[faint])]]
                least = float(middle[faint].min())
                found += self._claims(
                    step, "vanishing", layer, least, VANISHED, "share of the largest layer's gradient",
                    f"the gradient of {layer} is {least:.1e} of the largest layer's, as root mean square, and {len(faint)} of "
                    f"{int(known.sum())} layers are below {VANISHED:g}",
                )  # fmt: skip
        return found

    def _claims(
        self, step: int, change: str, layer: str, statistic: float, threshold: float, unit: str, evidence: str,
        reference: Summary | None = None, current: Summary | None = None,
    ) -> list[Verdict]:  # fmt: skip
        if not self._first.is_first(change, step, _REST):
            return []
        return [
            Verdict(
                detector=NAME, subject=f"gradient:{layer}", offset=step, row=0, statistic=statistic,
                threshold=threshold, unit=unit, change=change, evidence=evidence,
                reference=reference, current=current,
            )
        ]  # fmt: skip
