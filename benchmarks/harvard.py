"""Concept drift of frozen models: the Harvard files and fresh streams, beside River's ADWIN and an oracle.

Alarms are matched one to one with drifts: an alarm hits a drift in [start - width / 2, end + 1,000], repeated
and other alarms are false; a drift that moves the error rate by less than 0.02 does not count. The oracle is a
CUSUM that is told the drift and both rates and has the same false-alarm budget. Three drifts a stream.
A dummy that raises an alarm every 1,000 rows says what the scoring gives for nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from tocsin.detectors.evaluation import Score, f1_interval, pool, resampled_f1

from .common import Figures
from .common_detection import TOLERANCE, alarms, oracle, river_adwin, scored
from .common_streams import (
    FAMILIES,
    HARVARD_FAMILIES,
    MODELS,
    Stream,
    data_folder,
    fresh,
    harvard,
)  # fmt: skip

BUDGET_EVENTS: Final = 1e5
UNDER_TEST: Final = f"e_detector:budget={BUDGET_EVENTS:.0f},rate_tolerance=0.02"
"""The setting for error streams; the tolerance is the size below which the protocol lets drifts go."""
DUMMY: Final = f"dummy:every={TOLERANCE}"
UNSEEN: Final = range(5_000, 5_020)
MODES: Final = ("abrupt", "gradual")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="files of the same family, elsewhere")
    parser.add_argument("--seeds", type=seeds, default=UNSEEN, help="FIRST-LAST, of fresh streams")
    parser.add_argument("--detector", default=UNDER_TEST, help="as of tocsin backtest")
    arguments = parser.parse_args()
    figures = Figures("harvard")
    contest = Contest(figures, arguments.detector)
    folder = arguments.data or data_folder("harvard")
    for name in MODELS:
        streams = list(harvard(folder, name))
        for mode in MODES:
            found = contest.run(f"{name}_{mode}", [s for s in streams if s.mode == mode])
            bars = name == "tree"
            figures.report(f"{name}_{mode}_f1", found.f1, least=0.88 if bars else None)
            is_fast = bars and mode == "abrupt"
            figures.report(f"{name}_{mode}_delay", found.delay, most=15 if is_fast else None)
    for shape, families in (("own", FAMILIES), ("harvard", HARVARD_FAMILIES)):
        for name in MODELS if shape == "own" else ("tree",):
            streams = list(fresh(arguments.seeds, name, families, harvard_shape=shape == "harvard"))
            for mode in MODES:
                title = f"fresh_{shape}_{name}_{mode}"
                found = contest.run(title, [s for s in streams if s.mode == mode])
                bars = name == "tree"
                figures.report(f"{title}_f1", found.f1)
                figures.report(f"{title}_delay", found.delay)
                ratio = found.f1 / found.oracle
                figures.report(f"{title}_f1_over_oracle", ratio, least=0.90 if bars else None)
                is_rival = bars and mode == "abrupt"
                gain = found.f1 / found.adwin
                figures.report(f"{title}_f1_over_adwin", gain, least=1.001 if is_rival else None)
    figures.exit()


class Result:
    """What the detector under test reached, beside its rivals; without a hit, the worst there is."""

    def __init__(self, tested: Score, adwin: Score, best: Score) -> None:
        self.f1 = tested.f1 or 0.0
        self.delay = np.inf if tested.delay_median is None else tested.delay_median
        self.adwin = adwin.f1 or 0.0
        self.oracle = best.f1 or 0.0


class Contest:
    """Runs the contestants over streams and reports what needs no bar."""

    def __init__(self, figures: Figures, detector: str) -> None:
        self._figures = figures
        self._detector = detector

    def run(self, title: str, streams: list[Stream]) -> Result:
        """Return the pooled figures over some streams."""
        contestants: dict[str, Callable[[Stream], list[int]]] = {
            "": lambda stream: alarms(self._detector, stream.errors),
            "_adwin": lambda stream: river_adwin(stream.errors),
            "_oracle": lambda stream: oracle(stream, BUDGET_EVENTS),
            "_dummy": lambda stream: alarms(DUMMY, stream.errors),
        }
        scores = {
            name: [scored(stream, found(stream)) for stream in streams]
            for name, found in contestants.items()
        }
        pooled = {name: pool(of) for name, of in scores.items()}
        report = self._figures.report
        report(f"{title}_streams", len(streams))
        report(f"{title}_drifts", pooled[""].changes or 0)
        report(f"{title}_hits", pooled[""].hits or 0)
        report(f"{title}_false", pooled[""].false or 0)
        report(f"{title}_late", pooled[""].late)
        for name in ("_adwin", "_oracle", "_dummy"):
            report(f"{title}{name}_f1", pooled[name].f1 or 0.0)
        report(f"{title}_adwin_false", pooled["_adwin"].false or 0)
        if (delay := pooled["_adwin"].delay_median) is not None:
            report(f"{title}_adwin_delay", delay)
        interval = f1_interval(scores[""])
        if interval is not None:
            report(f"{title}_f1_low", interval[0])
            report(f"{title}_f1_high", interval[1])
            gain = resampled_f1(scores[""]) - resampled_f1(scores["_adwin"])
            low, high = np.nanquantile(gain, (0.025, 0.975)).tolist()
            report(f"{title}_f1_minus_adwin_low", low)
            report(f"{title}_f1_minus_adwin_high", high)
        return Result(pooled[""], pooled["_adwin"], pooled["_oracle"])


def seeds(text: str) -> range:
    """Read FIRST-LAST."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    main()
