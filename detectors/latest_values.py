"""The latest values of streams: what they were like before and after what ADWIN and Page-Hinkley find."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from ..core.columns import Floats, Ints
from ..core.verdict import Verdict
from .base import HUGE, Observations
from .compiled import compiled
from .onset import Onset, of_mean
from .reference import Reference, summarise
from .streams import StreamTable

_RECENT: Final = 128
"""Values kept of each stream, for the picture of a change and for its onset; a power of two."""
_BLOCKS: Final = 64
"""Means kept of each stream, each of `_RECENT` values: how far back an onset is looked for."""
MISSING_FOLLOWED: Final = 256
"""The first so many streams have their missing values watched; of the others they are counted."""


@compiled
def _remember(
    values: Floats, scaled: Floats, streams: Ints, recent: Floats, blocks: Floats, total: Floats,
    seen: Ints, odd: Ints,
) -> None:  # fmt: skip
    for j in range(streams.shape[0]):
        k = streams[j]
        count, part = seen[k], total[k]
        for i in range(values.shape[0]):
            if abs(values[i, j]) <= HUGE:
                recent[k, count & (_RECENT - 1)] = values[i, j]
                count += 1
                part += scaled[i, j]  # NaN while the stream is new
                if count & (_RECENT - 1) == 0:
                    blocks[k, (count // _RECENT - 1) % _BLOCKS] = part / _RECENT
                    part = 0.0
            else:
                odd[k] += 1
        seen[k], total[k] = count, part


class LatestValues:
    """Remembers them, and counts those that are missing or not usable.

    Parameters
    ----------
    reference
        What streams looked like when they were new.
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self.streams = StreamTable(
            {
                "recent": np.full(_RECENT, np.nan), "blocks": np.full(_BLOCKS, np.nan),
                "total": 0.0, "seen": 0, "unusable": 0,
            }
        )  # fmt: skip

    def add(self, values: Floats, scaled: Floats, names: tuple[str, ...]) -> None:
        """Take (n, k) values in, and the same in sigmas from their centres."""
        _remember(values, scaled, self.streams.numbers(names), *self.streams.arrays.values())

    def count(self, names: tuple[str, ...], usable: Any, rows: int) -> None:
        """Count of so many rows the (k,) or equally many usable values, and keep none."""
        numbers = self.streams.numbers(names)
        self.streams["seen"][numbers] += usable
        self.streams["unusable"][numbers] += rows - usable

    def completed(self, batch: Observations, scaled: Floats, found: list[Verdict]) -> list[Verdict]:
        """Return the verdicts with the stream before and after; takes the rows in up to each."""
        position = {
            (int(offset), int(row)): i
            for i, (offset, row) in enumerate(zip(batch.offsets, batch.rows, strict=True))
        }
        done, taken = [], 0
        for verdict in found:
            upto = position[verdict.offset, verdict.row] + 1
            self.add(batch.values[taken:upto], scaled[taken:upto], batch.names)
            taken = max(taken, upto)
            done.append(self._complete(verdict))
        self.add(batch.values[taken:], scaled[taken:], batch.names)
        return done

    def _complete(self, verdict: Verdict) -> Verdict:
        name = verdict.subject
        number = int(self.streams.numbers((name,))[0])
        recent, seen = self.streams["recent"][number], int(self.streams["seen"][number])
        size = min(seen, _RECENT)
        latest = recent[(seen - size + np.arange(size)) % _RECENT]
        # ADWIN's window reaches back beyond the onset, Page-Hinkley's sum to about there.
        began = self._since_change(number, name, latest, verdict.delay_events or size)
        size = min(size, began.delay)
        latest = latest[-size:]
        current = summarise(latest, self._reference.edges(name))
        _, deviation = self._reference.mean_and_deviation(name)
        reference = self._reference.summary(name)
        shift = (current.mean or 0.0) - (reference.mean or 0.0)
        # Of other streams than the first ones it is not known at each row how many values were missing.
        missed = int(self.streams["unusable"][number]) if number < MISSING_FOLLOWED else 0
        rarity = (seen + missed) / max(seen, 1)
        what = "rate" if self._reference.is_binary(name) else "location"
        sigmas = shift / deviation if reference.std else None
        said = f"{shift:+.4g}" if sigmas is None else f"{sigmas:+.1f} reference sigmas"
        if verdict.change:  # who says that much says the rest itself
            return msgspec.structs.replace(
                verdict,
                reference=verdict.reference or reference,
                current=verdict.current or current,
            )
        return msgspec.structs.replace(
            verdict,
            change=f"{what} {'up' if shift > 0 else 'down'}",
            size=shift,
            size_sigmas=sigmas,
            delay_events=round(rarity * began.delay),
            delay_low=round(rarity * began.low),
            delay_high=round(rarity * began.high),
            reference=reference,
            current=current,
            evidence=f"{said} over the last {size} values",
        )

    def _since_change(self, number: int, name: str, latest: Floats, upto: int) -> Onset:
        """Return about how many values ago a change of the last `upto` began."""
        size = len(latest)
        center, deviation = self._reference.mean_and_deviation(name)
        fine = (self._reference.cut(name, latest) - center) / deviation
        # Of what came before the latest values, whole blocks.
        last = (int(self.streams["seen"][number]) - size) // _RECENT
        wanted = min(max(0, -(-(upto - size) // _RECENT)), last, _BLOCKS - 1)
        means = self.streams["blocks"][number, np.arange(last - wanted, last) % _BLOCKS]
        means = means[np.isfinite(means)]
        weights = np.concatenate([np.full(len(means), float(_RECENT)), np.ones(size)])
        return of_mean(np.concatenate([means, fine]), weights)

    def unusable(self) -> dict[str, int]:
        """Return how many values of each stream could not be used, missing ones included."""
        counts = self.streams["unusable"]
        return {name: int(counts[k]) for k, name in enumerate(self.streams.names)}
