"""Drift in streams that are never at rest: injected drifts in the order of time, beside rivals.

The drifts of `common_injected` are put into Elec2 with its rows in order, so that seasons and natural drift
stay. One setting of `NaturalSize`, chosen on seed 1, sees the values of five features and the label; what
drops out of the calendar is an artefact of the protocol, so calendar columns and the time between rows are
printed apart, on the first seed, where the rivals stand too. All trials come from one stream: seeds vary the
injection only. Elec2's label says whether the price is above its mean of a day, which is close to what the
model of the label looks at: the figures without that model stand beside.

Synthetic seasonal streams without a drift say whether false alarms stay within the budget.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from scipy.signal import lfilter

from tocsin.core.verdict import Verdict
from tocsin.detectors.base import Observations
from tocsin.detectors.e_detector import EDetector
from tocsin.detectors.episodes import incidents
from tocsin.detectors.guard import DependenceGuard
from tocsin.detectors.natural_size import NaturalSize

from .common import Figures
from .common_detection import river_adwin
from .common_injected import (
    KINDS,
    MODES,
    Contest,
    Floats,
    Ints,
    Table,
    Trial,
    adwin_alarms,
    clean,
    electricity,
    merged,
    table,
    trial,
    trials,
)  # fmt: skip

BUDGET_EVENTS: Final = 1e5
LONGEST_BLOCKS: Final = 364
TESTED: Final = "natural_size"
_PLAIN: Final = "without_label_model"
_VOLUME: Final = "artefact_volume"
_CALENDAR: Final = "artefact_volume_calendar"
_RIVALS: Final = ("adwin_all_streams", "adwin_errors", "bank", "block_cusum", "dummy")
_STEP: Final = "step:seconds"
_BEGIN_NS: Final = 831_427_200_000_000_000  # 7 May 1996
_SEEN_BY_ADWIN: Final = 2000


@dataclass(frozen=True)
class Setting:
    """A stream and how its time runs."""

    data: Table
    row_seconds: float = 1800.0
    block_seconds: float = 86_400.0
    season_seconds: float = 604_800.0

    @property
    def block_rows(self) -> int:
        """Rows of a block of which none is missing."""
        return round(self.block_seconds / self.row_seconds)

    def blocks(self, rows: Ints) -> Ints:
        """Return the blocks that rows lie in."""
        return np.asarray(rows * self.row_seconds // self.block_seconds, np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="12,13,14")
    parser.add_argument("--trials", type=int, default=50, help="of each mode and kind")
    parser.add_argument("--data", type=Path, help="another file, its class in the last column")
    parser.add_argument("--tolerance", type=int, default=1500, help="rows, of another file")
    parser.add_argument("--row-seconds", type=float, default=86_400.0, help="of another file")
    parser.add_argument("--block-seconds", type=float, default=2_629_800.0, help="of another file")
    parser.add_argument(
        "--season-seconds", type=float, default=31_557_600.0, help="of another file"
    )
    asked = parser.parse_args()
    if asked.data is None:
        setting = Setting(electricity())
    else:
        setting = Setting(
            table(asked.data, asked.tolerance),
            asked.row_seconds, asked.block_seconds, asked.season_seconds,
        )  # fmt: skip
    figures = Figures("ordered")
    warned(figures, setting, int(asked.seeds.split(",")[0]), asked.trials)
    injected(figures, setting, [int(seed) for seed in asked.seeds.split(",")], asked.trials)
    if asked.data is None:
        synthetic(figures)
    figures.exit()


def warned(figures: Figures, setting: Setting, seed: int, count: int) -> None:
    """Report what the guard says of the warm-up: in the order of time, and shuffled."""
    data = setting.data
    names = (*(f"feature:{data.columns[j]}" for j in data.values), "label")

    def is_ordered(tried: Trial) -> bool:
        seen = int(np.searchsorted(tried.rows, tried.watched, side="right"))
        values = np.column_stack([tried.x[:seen, data.values], tried.y[:seen]]).astype(np.float64)
        guard = DependenceGuard()
        guard.update(Observations.of(values, names))
        return guard.overall().kind == "ordered"

    figures.report("guard_says_ordered_in_time_order", is_ordered(clean(data)), least=1)
    shuffled = [
        trial(data, KINDS[0], MODES[0], number, seed, ordered=False) for number in range(count)
    ]
    figures.report("guard_says_ordered_shuffled", sum(map(is_ordered, shuffled)), most=count / 50)


def injected(figures: Figures, setting: Setting, seeds: list[int], count: int) -> None:
    """Report the figures of a stream with drifts put in, and of the stream as it is."""
    untouched = clean(setting.data)
    verdicts = natural(setting, untouched)
    begun = begins(setting, untouched, verdicts)
    figures.report("clean_incidents", len(begun), most=2)
    for verdict in verdicts:
        if verdict.offset in begun and verdict.phase == "opened":
            figures.report(f"clean: {verdict.subject} {verdict.evidence}, at row", verdict.offset)
    longest = [longest_open(setting, verdicts)]
    pool = Contest(setting.data.tolerance)
    for seed in seeds:
        alone = Contest(setting.data.tolerance)
        for tried in trials(setting.data, seed, count, ordered=True):
            verdicts = natural(setting, tried)
            longest.append(longest_open(setting, verdicts))
            alarms = begins(setting, tried, verdicts)
            alone.add(TESTED, tried, alarms)
            pool.add(TESTED, tried, alarms)
            plain = natural(setting, tried, label="")
            pool.add(_PLAIN, tried, begins(setting, tried, plain))
            if seed == seeds[0]:
                others(pool, setting, tried)
        for mode in MODES:
            figures.report(f"seed_{seed}_{mode}_f1", alone.mean(TESTED, mode, "f1"))
    bars = {"abrupt": 0.65 if setting.data.calendar else 0.52, "gradual": 0.45}
    for mode in MODES:
        figures.report(f"{mode}_f1", pool.mean(TESTED, mode, "f1"), least=bars[mode])
    figures.report("gradual_f1_over_the_stretch_of_0.60", pool.mean(TESTED, "gradual", "f1") / 0.60)
    by_twice = pool.mean(TESTED, "gradual", "recall_by_twice")
    figures.report("gradual_recall_by_twice_the_window", by_twice, least=0.70)
    figures.report("longest_open_blocks", max(longest), most=LONGEST_BLOCKS)
    for mode in MODES:
        for kind in KINDS:
            found = pool.tallies[TESTED, mode, kind]
            figures.report(f"{mode}_{kind}_f1", found.f1)
            figures.report(f"{mode}_{kind}_recall", found.recall)
            figures.report(f"{mode}_{kind}_recall_by_twice", found.recall_by_twice)
            figures.report(
                f"{mode}_{kind}_false_early_a_trial", (found.false - found.late) / found.trials
            )
            figures.report(f"{mode}_{kind}_false_late_a_trial", found.late / found.trials)
            figures.report(f"{mode}_{kind}_delay_rows", float(np.median(found.delays or [np.nan])))
    for name in (_PLAIN, _VOLUME, _CALENDAR, *_RIVALS):
        if (name, MODES[0], KINDS[0]) in pool.tallies:
            for mode in MODES:
                figures.report(f"{name}_{mode}_f1", pool.mean(name, mode, "f1"))
    errors = untouched.errors
    same = sorted(adwin_alarms(untouched._replace(watched=-1), errors[:, None], 0, 0))
    figures.report("adwin_flags_not_river's", len({*same} ^ {*river_adwin(errors)}), most=0)


def others(pool: Contest, setting: Setting, tried: Trial) -> None:
    """Count the alarms of the artefact variants and of the rivals."""
    data = setting.data
    gap = 2 * data.tolerance
    step = natural(setting, tried, step=True)
    pool.add(_VOLUME, tried, begins(setting, tried, step))
    if data.calendar:
        every = list(range(len(data.columns)))
        pool.add(
            _CALENDAR, tried, begins(setting, tried, natural(setting, tried, every, step=True))
        )
    streams: Floats = np.column_stack([tried.x, tried.y, tried.errors]).astype(np.float64)
    pool.add("adwin_all_streams", tried, adwin_alarms(tried, streams, _SEEN_BY_ADWIN, gap))
    pool.add("adwin_errors", tried, adwin_alarms(tried, streams[:, -1:], tried.watched, 0))
    pool.add("bank", tried, bank(tried, streams, gap))
    pool.add("block_cusum", tried, block_cusum(tried, streams[:, 1:], setting.block_rows))
    pool.add("dummy", tried, range(tried.watched + data.tolerance, len(data), data.tolerance))


def natural(
    setting: Setting,
    tried: Trial,
    columns: list[int] | None = None,
    *,
    label: str = "label",
    step: bool = False,
) -> list[Verdict]:
    """Return what `NaturalSize` says of a trial.

    Parameters
    ----------
    setting, tried
        The stream.
    columns
        Features that it sees; all but the calendar where None.
    label
        The stream whose model is kept; none of that name for no model.
    step
        Whether it sees the time from one row to the next.
    """
    seen = setting.data.values if columns is None else columns
    names = [f"feature:{setting.data.columns[j]}" for j in seen] + ["label"]
    values = [tried.x[:, seen], tried.y[:, None]]
    if step:
        names.append(_STEP)
        values.append(np.diff(tried.rows, prepend=tried.rows[0] - 1)[:, None] * setting.row_seconds)
    detector = NaturalSize(
        BUDGET_EVENTS,
        block_seconds=setting.block_seconds,
        season_seconds=setting.season_seconds,
        label=label,
        longest_blocks=LONGEST_BLOCKS,
    )
    begin = _BEGIN_NS if setting.row_seconds < setting.block_seconds == 86_400 else 0
    return detector.update(
        Observations(
            names=tuple(names),
            values=np.ascontiguousarray(np.column_stack(values), np.float64),
            offsets=tried.rows,
            rows=np.zeros_like(tried.rows),
            times=begin + np.asarray(tried.rows * setting.row_seconds * 1e9, np.int64),
        )
    )


def begins(setting: Setting, tried: Trial, verdicts: list[Verdict]) -> list[int]:
    """Return the rows at which incidents begin.

    A column that first varies is a notice about the schema and no incident; but for the time between rows,
    which is always the same until some are dropped.
    """
    rows = [
        v.offset
        for v in verdicts
        if v.phase == "opened"
        and v.offset > tried.watched
        and (v.change != "schema" or v.subject == _STEP)
    ]
    blocks = setting.blocks(np.array(rows, np.int64)).tolist()
    first = incidents(blocks)
    return [rows[blocks.index(block)] for block in first]


def longest_open(setting: Setting, verdicts: list[Verdict]) -> int:
    """Return for how many blocks a change was open at most: of one stream and one kind."""
    since: dict[tuple[str, str], int] = {}
    longest = 0
    for verdict in verdicts:
        if verdict.change == "schema":
            continue
        key = (verdict.subject, verdict.change.rpartition(" ")[0])
        block = int(setting.blocks(np.array([verdict.offset]))[0])
        if verdict.phase == "opened":
            since[key] = block
        longest = max(longest, block - since[key])
    return longest


def bank(tried: Trial, streams: Floats, gap: int) -> list[int]:
    """Return the alarms of e-detectors as if no stream were ordered, of those within `gap` rows the first."""
    rows = Observations(
        names=tuple(f"stream:{j}" for j in range(streams.shape[1])),
        values=streams, offsets=tried.rows, rows=np.zeros_like(tried.rows),
    )  # fmt: skip
    found = EDetector(BUDGET_EVENTS).update(rows)
    return merged(
        [v.offset for v in found if v.phase == "opened" and v.offset > tried.watched], gap
    )


def block_cusum(tried: Trial, streams: Floats, block_rows: int) -> list[int]:
    """Return the alarms of two-sided CUSUMs of block means, merged: the best of the known on Elec2.

    Each mean is taken from the median of 60 blocks before it in units of their median absolute deviation, cut at
    6, less 1.5; the threshold is 1.5 times the largest sum of the warm-up, and 10 more. Page 1954,
    "Continuous inspection schemes", Biometrika 41, 100-115 (doi:10.1093/biomet/41.1-2.100).
    """
    count = len(streams) // block_rows
    means = streams[: count * block_rows].reshape(count, block_rows, -1).mean(axis=1)
    warm = int(np.searchsorted(tried.rows, tried.watched, side="right")) // block_rows
    sums = np.zeros((2, means.shape[1]))
    most = np.full_like(sums, 3.0)
    found = []
    for b in range(20, count):
        before = means[max(0, b - 60) : b]
        middle = np.median(before, axis=0)
        spread = (
            1.4826 * np.median(np.abs(before - middle), axis=0) + 0.1 * before.std(axis=0) + 1e-9
        )
        z = np.clip((means[b] - middle) / spread, -6, 6)
        sums = np.maximum(0, sums + np.stack([z, -z]) - 1.5)
        if b < warm:
            most = np.maximum(most, sums)
        elif (sums > 1.5 * most + 10).any():
            found.append(int(tried.rows[min((b + 1) * block_rows, len(tried.rows) - 1)]))
            sums[:] = 0
    return merged(found, 2500)


_STREAMS: Final = 100
_ROWS: Final = 45_312
_FEATURES: Final = 5
_SHIFT_AT: Final = 30_000
_RAMP_BLOCKS: Final = 52


def seasonal(
    seed: int, *, shift: float = 0.0, swing: float = 0.0, label: bool = False
) -> Observations:
    """Return half-hourly rows with seasons of a day and a week and an AR(1) of 0.9 and unit variance.

    Parameters
    ----------
    seed
        Of the randomness.
    shift
        What is added to the first feature from row 30,000 on, in standard deviations of the AR(1).
    swing
        Amplitude of a yearly cycle.
    label
        Add a label that depends on two features.
    """
    rng = np.random.default_rng([seed, 77])
    t = np.arange(_ROWS)
    season = 1.5 * np.sin(2 * np.pi * t / 48) + 0.7 * np.sin(4 * np.pi * t / 48)
    season += 0.5 * (t // 48 % 7 >= 5)
    noise = rng.normal(size=(_ROWS + 200, _FEATURES))
    values: Floats = np.asarray(lfilter([np.sqrt(1 - 0.9**2)], [1, -0.9], noise, axis=0))[200:]
    odds = values[:, 0] - values[:, 1]
    values = (
        values + season[:, None] + swing * np.sin(2 * np.pi * (t / 17532 + rng.random()))[:, None]
    )
    values[_SHIFT_AT:, 0] += shift
    names = [f"feature:{k}" for k in range(_FEATURES)]
    if label:
        is_one = rng.random(_ROWS) < 1 / (1 + np.exp(-2 * odds))
        values = np.column_stack([values, is_one.astype(np.float64)])
        names.append("label")
    return Observations(
        names=tuple(names),
        values=np.ascontiguousarray(values, np.float64),
        offsets=t,
        rows=np.zeros_like(t),
        times=_BEGIN_NS + t * 1_800_000_000_000,
    )


def synthetic(figures: Figures) -> None:
    """Report alarm days on streams without a drift, and how often a shift of one is found."""
    for name, swing, label in (
        ("", 0.0, False),
        ("_yearly_swing", 0.5, False),
        ("_label", 0.0, True),
    ):
        days: Counter[float] = Counter()
        for seed in range(_STREAMS):
            rows = seasonal(seed, swing=swing, label=label)
            for budget in (1e3, 1e4, 1e5):
                found = NaturalSize(budget).update(rows)
                days[budget] += len({v.offset for v in found if v.phase != "settled"})
        for budget, count in days.items():
            most = _STREAMS * _ROWS / budget
            figures.report(f"synthetic{name}_alarm_days_budget_{budget:.0e}", count, most=most)
    for shift in (0.5, 1.0):
        delays = []
        for seed in range(_STREAMS):
            found = NaturalSize(1e4).update(seasonal(seed, shift=shift))
            end = _SHIFT_AT + _RAMP_BLOCKS * 48
            seen = [
                v.offset for v in found if _SHIFT_AT <= v.offset <= end and v.phase != "settled"
            ]
            delays += [seen[0] - _SHIFT_AT] if seen else []
        figures.report(f"synthetic_shift_{shift}_sd_found", len(delays) / _STREAMS)
        figures.report(
            f"synthetic_shift_{shift}_sd_delay_rows", float(np.median(delays or [np.nan]))
        )


if __name__ == "__main__":
    main()
