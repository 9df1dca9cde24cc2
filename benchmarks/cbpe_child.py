"""Runs NannyML's CBPE in its own virtual environment: FOLDER CHUNK; prints its estimates by chunk and ns a row.

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
from typing import Final

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
    print(json.dumps({"ns_per_row": min(seconds) / len(analysis) * 1e9, "estimates": found}))


if __name__ == "__main__":
    main()
