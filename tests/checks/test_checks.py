"""The public checks: a detector written from the documentation passes, and each fault is caught."""

from __future__ import annotations

import pickle
import random
import struct
import time
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from tocsin.core.errors import StateError
from tocsin.core.snapshot import pack, unpack
from tocsin.core.verdict import Verdict
from tocsin.detectors.base import HUGE, Observations
from tocsin.testing import check_detector, normal_case
from tocsin.testing.checks import CHECKS


class Cusum:
    """A user's detector, written from the documentation alone."""

    threshold = 30.0

    def __init__(self) -> None:
        self.up = self.down = 0.0

    def update(self, batch: Observations) -> list[Verdict]:
        found = []
        for row, value in enumerate(batch.values[:, 0].tolist()):
            if not self.is_usable(value):
                continue
            self.up = max(0.0, self.up + value - 0.3)
            self.down = max(0.0, self.down - value - 0.3)
            if max(self.up, self.down) > self.threshold:
                found.append(
                    Verdict(
                        detector="cusum",
                        subject=batch.names[0],
                        offset=int(batch.offsets[row]),
                        row=int(batch.rows[row]),
                        statistic=max(self.up, self.down),
                        threshold=self.threshold,
                    )
                )
                self.up = self.down = 0.0
        return found

    def is_usable(self, value: float) -> bool:
        return abs(value) <= HUGE

    def snapshot(self) -> bytes:
        return pack("cusum", 1, {"up": self.up, "down": self.down}, {})

    def restore(self, state: bytes) -> None:
        meta, _ = unpack("cusum", 1, state)
        self.up, self.down = meta["up"], meta["down"]


def test_a_detector_written_from_the_documentation_passes() -> None:
    check_detector(Cusum, normal_case(streams=1))


class ReturnsNone(Cusum):
    def update(self, batch):
        super().update(batch)


class SpeaksNumpy(Cusum):
    def update(self, batch):
        return [
            msgspec.structs.replace(v, statistic=np.float64(v.statistic))
            for v in super().update(batch)
        ]


class ClaimsNan(Cusum):
    def update(self, batch):
        return [msgspec.structs.replace(v, statistic=np.nan) for v in super().update(batch)]


class WritesIntoItsRows(Cusum):
    def update(self, batch):
        found = super().update(batch)
        batch.values[:] = 0.0
        return found


class WithoutRestore(Cusum):
    restore = None  # type: ignore[assignment]


class ReturnsFlags(Cusum):
    def update(self, batch):
        return [True for _ in super().update(batch)]


class InReverse(Cusum):
    def update(self, batch):
        return super().update(batch)[::-1]


class Anonymous(Cusum):
    def update(self, batch):
        return [msgspec.structs.replace(v, detector="") for v in super().update(batch)]


class AboutNothing(Cusum):
    def update(self, batch):
        return [msgspec.structs.replace(v, subject="") for v in super().update(batch)]


class CountsUpdates(Cusum):
    def update(self, batch):
        self.up += 1e-9
        return super().update(batch)


class OneVerdictABatch(Cusum):
    def update(self, batch):
        return super().update(batch)[:1]


class CentresOnTheBatch(Cusum):
    def update(self, batch):
        if not len(batch):
            return []
        return super().update(replace(batch, values=batch.values - batch.values.mean() / 2))


class RollsDice(Cusum):
    def update(self, batch):
        self.threshold = 30 + random.random()
        return super().update(batch)


class ForgetsOneSum(Cusum):
    def snapshot(self):
        return pack("cusum", 1, {"up": 0.0, "down": self.down}, {})


class KeepsNothing(Cusum):
    def snapshot(self):
        return b""

    def restore(self, state):
        pass


class Pickles(Cusum):
    def snapshot(self):
        return pickle.dumps((self.up, self.down))

    def restore(self, state):
        self.up, self.down = pickle.loads(state)


class RaisesWhatItLikes(Cusum):
    def restore(self, state):
        try:
            super().restore(state)
        except StateError:
            raise struct.error("unpack requires a buffer of 16 bytes") from None


class TrustsItsBytes(Cusum):
    def snapshot(self):
        return np.array([self.up, self.down]).tobytes()

    def restore(self, state):
        if len(state) != 16:
            raise StateError(f"expected 16 bytes, found {len(state)}")
        self.up, self.down = np.frombuffer(state).tolist()


class ResetsBeforeItReads(Cusum):
    def restore(self, state):
        self.up = self.down = -1.0
        super().restore(state)


class TakesNan(Cusum):
    def is_usable(self, value):
        return abs(value) <= HUGE or value != value


class TakesInfinity(Cusum):
    def is_usable(self, value):
        return value == value


class TakesHuge(Cusum):
    def is_usable(self, value):
        return bool(np.isfinite(value))


class RaisesOnNan(Cusum):
    def is_usable(self, value):
        if value != value:
            raise ValueError("NaN")
        return super().is_usable(value)


class ReadsTheLastBatchLater(Cusum):
    def __init__(self):
        super().__init__()
        self.waiting = None

    def update(self, batch):
        found = [] if self.waiting is None else super().update(self.waiting)
        self.waiting = batch
        return found


class KeepsHistory(Cusum):
    def __init__(self):
        super().__init__()
        self.history = []

    def update(self, batch):
        self.history.extend(batch.values[:, 0].tolist())
        return super().update(batch)


class SnapshotsHistory(Cusum):
    def __init__(self):
        super().__init__()
        self.history = b""

    def update(self, batch):
        self.history += bytes(len(batch) // 40)
        return super().update(batch)

    def snapshot(self):
        return super().snapshot() + self.history


class TakesItsTime(Cusum):
    def update(self, batch):
        end = time.process_time() + 5e-5 * len(batch)
        while time.process_time() < end:
            pass
        return super().update(batch)


class FiresOnNoise(Cusum):
    threshold = 5.0


class NeverFires(Cusum):
    threshold = np.inf


class FiresLate(Cusum):
    threshold = 300.0


BROKEN = {
    "check_protocol": [
        WithoutRestore, ReturnsFlags, InReverse, Anonymous, AboutNothing, ReturnsNone,
        SpeaksNumpy, ClaimsNan,
    ],
    "check_takes_nothing": [CountsUpdates],
    "check_any_batch_cut": [OneVerdictABatch, CentresOnTheBatch, CountsUpdates],
    "check_same_rows_same_verdicts": [RollsDice],
    "check_snapshot_goes_on": [ForgetsOneSum, KeepsNothing],
    "check_damaged_snapshot_is_refused": [
        KeepsNothing, Pickles, RaisesWhatItLikes, TrustsItsBytes, ResetsBeforeItReads,
    ],
    "check_junk_does_not_blind": [TakesNan, TakesInfinity, TakesHuge],
    "check_input_is_copied": [ReadsTheLastBatchLater, WritesIntoItsRows],
    "check_memory_is_flat": [KeepsHistory, SnapshotsHistory],
    "check_keeps_pace": [TakesItsTime],
    "check_silent_when_nothing_changes": [FiresOnNoise],
    "check_change_is_found": [NeverFires, FiresLate],
}  # fmt: skip


@pytest.mark.parametrize(
    ("check", "broken"),
    [(check, kind) for check, kinds in BROKEN.items() for kind in kinds],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_broken_detector_is_caught_by_the_check_meant_for_it(
    check: str, broken: type[Cusum]
) -> None:
    case = replace(normal_case(streams=1), microseconds=25.0)
    by_name = {function.__name__: function for function in CHECKS}
    by_name[check](Cusum, case)
    with pytest.raises(AssertionError):
        by_name[check](broken, case)
    with pytest.raises(AssertionError):
        check_detector(broken, case)


def test_every_check_has_a_broken_detector_that_it_catches() -> None:
    assert list(BROKEN) == [check.__name__ for check in CHECKS]


def test_a_detector_that_raises_on_nan_is_caught_too() -> None:
    with pytest.raises(ValueError, match="NaN"):
        check_detector(RaisesOnNan, normal_case(streams=1))


@pytest.mark.parametrize("broken", [ForgetsOneSum, KeepsNothing])
def test_state_that_is_lost_is_said_to_be(broken: type[Cusum]) -> None:
    with pytest.raises(AssertionError, match=r"bytes\) and restore do not keep all of the state$"):
        check_detector(broken, normal_case(streams=1))
