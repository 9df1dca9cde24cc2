"""Runs NannyML's CBPE and DLE in its own virtual environment: FOLDER CHUNK; prints estimates by chunk and ns a row.

Nothing of tocsin can be imported here.
"""

# None of these is installed where types are checked:
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Final

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"  # it would phone home

_METRICS: Final = (
    "accuracy", "roc_auc", "f1", "precision", "recall", "specificity", "average_precision",
)  # fmt: skip
"""All that both have."""
_ROUNDS: Final = 5


def main() -> None:
    warnings.simplefilter("ignore")
    import nannyml
    import pandas as pd

    folder, chunk = Path(sys.argv[1]), int(sys.argv[2])
    reference = pd.read_parquet(folder / "employment_MA_reference.pq")
    analysis = pd.read_parquet(folder / "employment_MA_analysis.pq")
    estimator = nannyml.CBPE(
        y_pred_proba="predicted_probability", y_pred="prediction", y_true="employed",
        problem_type="classification_binary", metrics=list(_METRICS), chunk_size=chunk,
    )  # fmt: skip
    estimator.fit(reference)
    seconds, result = [], None
    for _ in range(_ROUNDS):
        began = time.process_time()
        result = estimator.estimate(analysis)
        seconds.append(time.process_time() - began)
    assert result is not None
    table = result.filter(period="analysis").to_df()
    found = {name: table[name, "value"].tolist() for name in _METRICS}
    losses = regression(chunk)
    of_two = {"ns_per_row": min(seconds) / len(analysis) * 1e9, "estimates": found}
    print(json.dumps({**of_two, "losses": losses}))


def regression(chunk: int) -> dict[str, Any]:
    """Return what DLE says of the synthetic car prices, learned from either part, and where they are."""
    import nannyml

    reference, analysis, targets = nannyml.load_synthetic_car_price_dataset()
    later = analysis.assign(y_true=targets["y_true"].to_numpy())
    half = later.iloc[len(later) // 2 :].reset_index(drop=True)
    found = {}
    for name, learned, estimated in (
        ("forward", reference, later), ("backward", later, reference), ("from_shifted", half, reference),
    ):  # fmt: skip
        estimator = nannyml.DLE(
            feature_column_names=[
                "car_age", "km_driven", "price_new", "accident_count", "door_count", "fuel", "transmission",
            ],
            y_pred="y_pred", y_true="y_true", metrics=["mae", "mse", "rmse"], chunk_size=chunk,
        )  # fmt: skip
        estimator.fit(learned)
        began = time.process_time()
        result = estimator.estimate(estimated.drop(columns="y_true"))
        taken = time.process_time() - began
        table = result.filter(period="analysis").to_df()
        estimates = {of: table[of, "value"].tolist() for of in ("mae", "mse", "rmse")}
        found[name] = {"ns_per_row": taken / len(estimated) * 1e9, "estimates": estimates}
    return {"folder": str(Path(nannyml.__path__[0]) / "datasets" / "data"), "ways": found}


if __name__ == "__main__":
    main()
