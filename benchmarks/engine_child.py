"""Times one rival on a matrix, in the rival's own virtual environment: RIVAL MATRIX.npy; prints ns a value, by detector.

Nothing of tocsin can be imported here.
"""

# None of these is installed where types are checked:
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np

_ROWS: Final = {"frouros": 2_000, "alibi": 200, "evidently": 10_000}  # a few seconds each
_REFERENCE: Final = 1_000  # rows a batch test compares with
_ERT: Final = 100  # alibi's expected run time: higher ones take longer to calibrate, not to run


def nanoseconds(run: Callable[[], Any], values: int) -> float:
    """Return processor time per value."""
    began = time.process_time()
    run()
    return (time.process_time() - began) / values * 1e9


def frouros(matrix: Any) -> dict[str, float]:
    """One detector a column. Its ADWIN refuses a negative sum of values, so they are moved up."""
    from frouros.detectors.concept_drift import ADWIN, PageHinkley

    columns = (matrix + 10.0).T.tolist()

    def run(make: Callable[[], Any]) -> None:
        for column in columns:
            detector = make()
            for value in column:
                detector.update(value=value)
                if detector.status["drift"]:
                    detector.reset()

    return {
        "ADWIN": nanoseconds(lambda: run(ADWIN), matrix.size),
        "PageHinkley": nanoseconds(lambda: run(PageHinkley), matrix.size),
    }


def alibi(matrix: Any) -> dict[str, float]:
    """Its online Cramer-von Mises test of each column, rows one by one, as it takes them."""
    from alibi_detect.cd import CVMDriftOnline

    features = matrix.shape[1]
    detector = CVMDriftOnline(
        matrix[:_REFERENCE], ert=_ERT, window_sizes=[20, 50], n_features=features,
        n_bootstraps=int(1.1 * features * _ERT), verbose=False,
    )  # fmt: skip
    rows = matrix[_REFERENCE : _REFERENCE + _ROWS["alibi"]]
    detector.predict(rows[0])  # compiles

    def run() -> None:
        for row in rows:
            detector.predict(row)

    return {"CVMDriftOnline": nanoseconds(run, rows.size)}


def evidently(matrix: Any) -> dict[str, float]:
    """A report of its drift preset on one batch against a reference."""
    import pandas as pd
    from evidently import Report
    from evidently.presets import DataDriftPreset

    names = [f"f{k}" for k in range(matrix.shape[1])]
    reference = pd.DataFrame(matrix[:_REFERENCE], columns=names)
    current = pd.DataFrame(matrix[-_ROWS["evidently"] :], columns=names)
    report = Report([DataDriftPreset()])
    report.run(current[:_REFERENCE], reference)  # imports what it needs
    return {"DataDriftPreset": nanoseconds(lambda: report.run(current, reference), current.size)}


def main() -> None:
    warnings.simplefilter("ignore")
    rival, path = sys.argv[1:]
    matrix = np.load(path)
    run = {"frouros": frouros, "alibi": alibi, "evidently": evidently}[rival]
    print(json.dumps(run(matrix[: _ROWS[rival]] if rival == "frouros" else matrix)))


if __name__ == "__main__":
    main()
