"""Rows with what a model said of them to a training reference: what `tocsin reference` and a training loop write."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..core.batch import EventBatch
from ..core.errors import ConfigError
from . import trained_estimates, trained_model, training_reference
from .model_settings import ModelSettings
from .reference_sentences import described
from .row_collector import RowCollector
from .trained_model import TrainedModel
from .training_streams import TrainingStreams


class Written(NamedTuple):
    """What was written.

    Parameters
    ----------
    file
        Where to.
    left_out
        Streams that have too few values for a reference, and how many they have.
    why_not
        What else the rows do not tell, in words.
    """

    file: Path
    left_out: dict[str, int]
    why_not: list[str]

    def __str__(self) -> str:
        missing = [
            f"  left out: {name}, which has {count:,} values; a tenth of the rows and 1,000 are needed"
            for name, count in self.left_out.items()
        ]
        missing += [f"  {why}" for why in self.why_not]
        return "\n".join(
            [
                *described(self.file),
                *missing,
                f"name it as drift.reference: {self.file} in tocsin.yaml",
            ]
        )


class ReferenceWriter:
    """Collects rows, and writes what they are like.

    Parameters
    ----------
    settings
        The model's: its task, its features, its segments.
    weights
        The hash of its weights, where that is known.
    """

    def __init__(self, settings: ModelSettings, weights: str | None = None) -> None:
        self._weights = weights
        self._streams = TrainingStreams(settings)
        self._trained_on = RowCollector(settings)
        self._versions: set[str | None] = set()

    @property
    def rows(self) -> int:
        """How many rows were taken in."""
        return self._streams.rows

    def add(self, batch: EventBatch) -> None:
        """Take in rows that the model was not fitted on."""
        self._versions.update(batch.version.to_list())
        self._streams.add(batch)

    def add_trained(self, batch: EventBatch) -> None:
        """Take in rows that it was fitted on, by which such rows are told where they are served."""
        self._trained_on.add(batch)

    def write(self, out: Path, *, fingerprints: bool = True) -> Written:
        """Write the file.

        Parameters
        ----------
        out
            Where to; its name ends in .npz.
        fingerprints
            Whether it holds what tells rows that the model was fitted on, and not their losses alone.

        Raises
        ------
        ConfigError
            There are too few rows, or the file cannot be written.
        """
        check_name(out)
        parts, why_not = self._streams.parts()
        parts |= self._trained_on.rows(fingerprints=fingerprints).parts()
        try:
            parts |= {trained_estimates.PART: self._streams.estimates()}
        except ValueError as error:
            why_not.append(f"no estimates of performance without labels: {error}")
        version = next(iter(self._versions)) if len(self._versions) == 1 else None
        model = TrainedModel(version=version, weights=self._weights, rows=self.rows)
        left_out = training_reference.write(
            out, self._streams.values(), self.rows, self._streams.categories(), self._streams.names(),
            parts | {trained_model.PART: trained_model.encode(model)},
        )  # fmt: skip
        return Written(out, left_out, why_not)


def check_name(out: Path) -> None:
    """Raise ConfigError for a name that no reference may have."""
    if out.suffix != ".npz":
        raise ConfigError(f"{out}: the reference's name must end in .npz")
