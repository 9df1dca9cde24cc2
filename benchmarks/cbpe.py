"""Performance estimated without labels on US census employment, against the labels that came: error, groups, speed.

The calibration is learned on the reference; the later rows are estimated in chunks of 5,000 and by sex and race, and
then compared with what their labels say. Beside it NannyML's CBPE on the same rows in a virtual environment of its own,
made once under .bench/ (where that cannot be, a line says so), and the error of assuming that nothing has changed. Then
the errors of a regression beside NannyML's DLE, on the synthetic car prices that come with it.
Nothing here is random: there is no seed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet

from tocsin.core.columns import Floats, Ints
from tocsin.detectors import binary_counts, binary_metrics, cbpe
from tocsin.detectors.binary_metrics import Metric
from tocsin.detectors.calibration import Calibration

from .common import Figures
from .common_streams import data_folder
from .loss_chunks import BARS as LOSS_BARS
from .loss_chunks import WAYS, losses

Metrics = list[dict[str, Metric]]

CHUNK: Final = 5_000
BARS: Final = {
    "accuracy": 0.0055, "roc_auc": 0.0045, "f1": 0.0070, "precision": 0.0130, "recall": 0.0083,
}  # fmt: skip
"""Mean absolute error over chunks, at most."""
GROUP_BAR: Final = 0.0075  # of accuracy, in groups of more rows than:
GROUP_ROWS: Final = 10_000
TIMES: Final = 50  # as fast as NannyML, at the least
BATCH: Final = 256
_ROUNDS: Final = 15
_NANNYML: Final = (
    "nannyml==0.13.1", "statsmodels==0.14.5", "pandas==2.2.3", "numpy==2.2.6", "scikit-learn==1.6.1",
)  # fmt: skip
"""It needs statsmodels without saying so, and these versions of the others."""


def columns(folder: Path, part: str) -> dict[str, Any]:
    """Return the columns of one of the files as numpy arrays."""
    path = folder / f"employment_MA_{part}.pq"
    if not path.exists():
        raise FileNotFoundError(f"no file {path}; the README of the data folder says what it is")
    table = pyarrow.parquet.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def estimated(calibration: Calibration, cells: Ints, predicted: Floats, score: Floats) -> Metrics:
    table = np.zeros((int(cells.max()) + 1, cbpe.WIDTH), np.int64)
    cbpe.count(table, cells, predicted, score, calibration, 1)
    return [cbpe.estimates(row, calibration) for row in table]


def nanoseconds(
    calibration: Calibration,
    cells: Ints,
    predicted: Floats,
    score: Floats,
    size: int,
    truth: Metrics,
) -> float:
    """Return the time a row, in batches of a size, estimates of all cells included, which must be `truth`."""
    table = np.zeros((int(cells.max()) + 1, cbpe.WIDTH), np.int64)
    rows = len(cells)
    parts = [
        (cells[k : k + size], predicted[k : k + size], score[k : k + size])
        for k in range(0, rows, size)
    ]
    taken = []
    for _ in range(_ROUNDS):
        table[:] = 0
        began = time.process_time()
        for cell, said, of in parts:
            cbpe.count(table, cell, said, of, calibration, 1)
        found = [cbpe.estimates(row, calibration) for row in table]
        taken.append(time.process_time() - began)
        assert found == truth, "estimates depend on how events are cut"
    return min(taken) / rows * 1e9


def realised(cells: Ints, predicted: Floats, score: Floats, label: Floats) -> Metrics:
    table = np.zeros((int(cells.max()) + 1, binary_counts.WIDTH), np.int64)
    binary_counts.count(table, cells, predicted, label, score, 1)
    return [binary_metrics.metrics(row) for row in table]


def values(found: Metrics, name: str) -> Floats:
    return np.array([of[name].value for of in found])


def nannyml(folder: Path) -> dict[str, Any] | None:
    """Return NannyML's estimates by chunk and nanoseconds a row; None, and a line that says why, where it does not run."""
    home = Path(".bench/nannyml")
    python, ready = home / "bin/python", home / ".ready"
    wanted = " ".join(_NANNYML)
    child = [python, Path(__file__).with_name("cbpe_child.py"), folder, str(CHUNK)]
    try:
        if not ready.exists() or ready.read_text() != wanted:
            venv.create(home, with_pip=True, clear=True)
            install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            subprocess.run([*install, *_NANNYML], check=True, capture_output=True, text=True)
            ready.write_text(wanted)
        done = subprocess.run(child, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout or "").strip().splitlines()[-1:]
        print(f"cbpe: NannyML does not run here: {''.join(last)}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--no-rivals", action="store_true", help="install nothing")
    options = arguments.parse_args()
    figures = Figures("cbpe")
    folder = data_folder("employment_ma")
    before, later, targets = (
        columns(folder, p) for p in ("reference", "analysis", "analysis_target")
    )
    assert (later["id"] == targets["id"]).all(), "targets must be in the order of their rows"
    predicted, score = later["prediction"].astype(np.float64), later["predicted_probability"]
    label = targets["employed"].astype(np.float64)
    old_label, old_score = before["employed"].astype(np.float64), before["predicted_probability"]
    calibration = Calibration.fit(old_score, old_label)
    chunks = np.arange(len(score)) // CHUNK

    found = estimated(calibration, chunks, predicted, score)
    truth = realised(chunks, predicted, score, label)
    said, whole = before["prediction"].astype(np.float64), np.zeros(len(old_label), np.int64)
    (same,) = realised(whole, said, old_score, old_label)
    for name in found[0]:
        true, said = values(truth, name), values(found, name)
        figures.report(f"{name}_error", float(np.abs(said - true).mean()), most=BARS.get(name))
        unchanged = float(np.abs(same[name].value - true).mean())
        figures.report(f"{name}_error_if_nothing_had_changed", unchanged)
        held = [
            e[name].low <= t[name].value <= e[name].high for e, t in zip(found, truth, strict=True)
        ]
        figures.report(f"{name}_share_of_chunks_within_interval", float(np.mean(held)))

    for feature in ("SEX", "RAC1P"):
        names, cells = np.unique(later[feature].astype(str), return_inverse=True)
        by_group = estimated(calibration, cells, predicted, score)
        rows = np.bincount(cells)
        errors = np.abs(
            values(by_group, "accuracy")
            - values(realised(cells, predicted, score, label), "accuracy")
        )
        for name, count, error in zip(names, rows.tolist(), errors.tolist(), strict=True):
            if count > GROUP_ROWS:
                figures.report(f"{feature}={name}_accuracy_error", error, most=GROUP_BAR)

    def timed() -> dict[str, float]:
        return {
            how: nanoseconds(calibration, chunks, predicted, score, size, found)
            for how, size in (("at_once", len(score)), (f"in_batches_of_{BATCH}", BATCH))
        }

    ours, rival = timed(), None if options.no_rivals else nannyml(folder)
    if rival:
        # Before and after: other work on the machine slows either.
        ours = {how: min(taken, ours[how]) for how, taken in timed().items()}
    for how, taken in ours.items():
        figures.report(f"ns_per_row_{how}", taken)
    if rival:
        for name, theirs in rival["estimates"].items():
            off = np.array(theirs) - values(truth, name)
            figures.report(f"nannyml_{name}_error", np.abs(off).mean())
        figures.report("nannyml_ns_per_row", rival["ns_per_row"])
        for how, taken in ours.items():
            figures.report(f"nannyml_over_tocsin_{how}", rival["ns_per_row"] / taken, least=TIMES)
        report_losses(figures, rival["losses"])
    figures.exit()


def report_losses(figures: Figures, rival: dict[str, Any]) -> None:
    """Report the estimated errors of a regression beside those of NannyML's DLE; the data come with it."""
    for way in WAYS:
        found, theirs = losses(Path(rival["folder"]), CHUNK, way), rival["ways"][way]
        for name, came in found.came.items():
            of = found.estimates[name]
            ours = float(np.abs(np.array([one.value for one in of]) - came).mean())
            unchanged = float(np.abs(found.before[name] - came).mean())
            off = float(np.abs(np.array(theirs["estimates"][name]) - came).mean())
            what = f"regression_{way}_{name}_error"
            figures.report(what, ours)
            figures.report(f"nannyml_{what}", off)
            figures.report(f"{what}_if_nothing_had_changed", unchanged)
            bar = LOSS_BARS.get(name) if way == "forward" else None
            figures.report(f"{what}_over_that", ours / unchanged, most=bar)
            held = [
                one.low <= true <= one.high for one, true in zip(of, came.tolist(), strict=True)
            ]
            figures.report(f"{what}_share_of_chunks_within_interval", float(np.mean(held)))
        figures.report(f"regression_{way}_ns_per_row", found.nanoseconds)
        figures.report(f"nannyml_regression_{way}_ns_per_row", theirs["ns_per_row"])


if __name__ == "__main__":
    main()
