"""What a training reference holds, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..core.errors import ConfigError, StateError
from ..detectors.leak_verdicts import plain
from . import (
    trained_estimates,
    trained_model,
    trained_performance,
    trained_vectors,
    training_labels,
    training_reference,
    training_rows,
)

_FIRST: Final = ("accuracy", "f1", "f1:macro", "mae", "rmse")  # of the metrics, as far as there are
_GROUPS: Final = 10  # groups that are named


def described(file: Path) -> list[str]:
    """Return the lines that say what a reference file holds.

    Raises
    ------
    ConfigError
        It cannot be read.
    """
    found = training_reference.read(file)
    model = trained_model.read(file)
    rows = found.population if model is None else model.rows
    said = [
        f"{file}: {rows:,} rows, {len(found.samples)} streams:",
        f"  {', '.join(found.samples)}",
    ]
    if model is not None and (model.version or model.weights):
        said.append(f"  version {model.version or 'unknown'}, weights {model.weights or 'unknown'}")
    if "error" not in found.samples:
        said.append("  no errors: they follow from labels and predictions")
    said += _of_vectors(file)
    if training_labels.PART in found.parts:
        try:
            labels = training_labels.read(found.parts[training_labels.PART])
        except StateError as error:
            raise ConfigError(
                f"drift.reference {file}: what it says of labels cannot be read ({error}): write it anew"
            ) from None
        for name in sorted(labels.copies):
            said.append(
                f"  {plain(name)} is the label or a copy of it in these rows: a leak, unless it is known before the "
                "label; workers will name it"
            )
    trained_on = training_rows.read(file)
    if trained_on is not None and trained_on.laws:
        said.append(
            "  fingerprints of rows that were trained on, by which who holds the file can test whether a row was"
        )
    if trained_on is not None and trained_on.losses is not None:
        losses = trained_on.losses
        said.append(f"  losses of {losses.rows:,} rows, {losses.mean:.4g} on average")
    if trained_estimates.read(file) is not None:
        said.append(
            "  estimates of performance without labels: as good as these rows are new to the model; of rows "
            "that it was fitted on they promise too much"
        )
    return said + _of_performance(file)


def _of_vectors(file: Path) -> list[str]:
    vectors = trained_vectors.read(file)
    if vectors is None:
        return []
    of = f"version {vectors.version}" if vectors.version else "events without a version"
    said = [
        f"  {kind} of {one.width} numbers, {of}: {len(one.samples)} streams of {one.population:,} rows"
        for kind, one in vectors.streams.items()
    ]
    if vectors.scores is not None:
        said.append("  thresholds of adversarial inputs, from these logits")
    return said


def _of_performance(file: Path) -> list[str]:
    performance = trained_performance.read(file)
    said = []
    for name in [name for name in _FIRST if name in performance.get("", {})]:
        value, low, high, _ = performance[""][name]
        said.append(
            f"  {name} {value:.4g}"
            + ("" if low is None or high is None else f" ({low:.4g} to {high:.4g})")
        )
    groups = [group for group in performance if group]
    if groups:
        more = len(groups) - _GROUPS
        said.append(
            f"  performance by group: {', '.join(map(plain, groups[:_GROUPS]))}"
            + (f" and {more} more" if more > 0 else "")
        )
    return said
