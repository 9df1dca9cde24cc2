"""Leakage of one model in one environment by the time of its predictions and by group: rows of training, and losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from ..core.columns import Floats, Ints
from ..core.errors import StateError
from ..core.snapshot import pack, unpack
from ..detectors import served_counts
from ..detectors.binary_metrics import Metric
from ..detectors.coincidence import Law
from ..detectors.membership import advantage
from .cohort_table import Cohort, CohortTable
from .groups import Groups
from .join import Pairs
from .model_settings import PerformanceSettings
from .row_counts import ServedCounts
from .score_columns import ScoreColumns
from .training_rows import TrainingRows, loss_of, read

STREAM: Final = "served_from_training"
"""The metric of served rows that are rows of training, and the streams of whether each meets one."""
EXPOSURE: Final = "data_leakage_rate"
"""The metric of membership exposure."""
_MOST_CHANCE: Final = 0.05
"""Where more rows than so coincide by chance, how many do changes with the data, by more than a leak would matter."""
_SAMPLE: Final = 2000
FIELD: Final = "served"
"""What the names of fields begin with."""


class Leakage:
    """Counts what predictions have met of training, and how many losses are as small as those of training.

    Parameters
    ----------
    training
        What is known of the rows of training.
    settings
        How long cohorts are, and how many are kept.
    columns, groups
        What `scores` and `segments` of pairs mean; the model's.

    Notes
    -----
    All is whole numbers, so that order, repeats, cuts and corrections leave what is true in the end. Bounded:
    `settings.cohorts` times 64 groups times 1.1 kB: 35 numbers for each of exact, near, embedding and image, 2 of losses.
    """

    def __init__(
        self,
        training: TrainingRows,
        settings: PerformanceSettings,
        columns: ScoreColumns,
        groups: Groups,
    ) -> None:
        self._training = training
        self._columns = columns
        self._groups = groups
        self._losses = served_counts.WIDTH * len(training.laws)  # where these begin
        self._table = CohortTable(self._losses + 2, settings.cohort, settings.cohorts)
        self._stored = b""
        self._stale: set[str] = set()

    def observe(self, times: Ints, groups: Ints, codes: Ints) -> None:
        """Count predictions: (n,) times, (n, g) groups, and (n, k) what each has met."""
        rows = self._table.rows(self._table.open(times), groups, make=True)
        for k in range(codes.shape[1]):
            begin = k * served_counts.WIDTH
            counts = self._table.counts[:, begin : begin + served_counts.WIDTH]
            served_counts.count(counts, rows, np.ascontiguousarray(codes[:, k]))

    def judge(self, pairs: Pairs, sign: int) -> None:
        """Count the losses of pairs, or take them away with a sign of -1."""
        members = self._training.losses
        if members is None:
            return
        loss = loss_of(members.kind, pairs.predicted, pairs.label, pairs.scores, self._columns)
        known = np.isfinite(loss)
        places = np.where(known, self._table.place(pairs.times - pairs.lag), -1)
        rows = self._table.rows(places, self._groups.of(pairs.segments), make=False)
        for k, counted in enumerate((known, loss <= members.mean)):
            of = rows[counted]
            np.add.at(self._table.counts[:, self._losses + k], of[of >= 0], sign)

    def counts(self, cohorts: Sequence[Cohort]) -> tuple[dict[str, ServedCounts], list[int]]:
        """Return what the metrics of some cohorts of one group follow from, as `RowCounts` has it."""
        rows = [row for cohort in cohorts if (row := self._table.get(cohort)) is not None]
        if not rows:
            return {}, []
        row, width = np.sum(rows, axis=0).tolist(), served_counts.WIDTH
        served = {
            kind: ServedCounts(list(law), every, row[k * width : (k + 1) * width])
            for k, (kind, (law, every)) in enumerate(self._training.laws.items())
        }
        members = self._training.losses
        losses = [] if members is None else [members.rows, members.below, *row[self._losses :]]
        return served, losses

    def dirty(self) -> dict[str, bytes | None]:
        """Return the fields to store of what has changed, and None for those of what is gone."""
        changed, gone = self._table.changed()
        fields: dict[str, bytes | None] = dict.fromkeys(self._stale)
        self._stale = set()
        fields.update((_field(cohort), None) for cohort in gone)
        fields.update((_field(cohort), self._table.snapshot(cohort)) for cohort in changed)
        meta = {
            "training": self._training.checksum, "rows": len(self._table), "table": self._table.state(),
        }  # fmt: skip
        state = pack("served", 1, meta, {})
        if fields or state != self._stored:
            fields[FIELD] = self._stored = state
        return fields

    def restore(self, fields: dict[str, bytes]) -> None:
        """Go on from stored fields, of an object that is new; from none if they are of another training.

        Raises
        ------
        StateError
            A field is damaged or missing, or cohorts were of another length.
        """
        if FIELD not in fields:
            return
        meta, _ = unpack("served", 1, fields[FIELD])
        if meta["training"] != self._training.checksum:
            self._stale = stored(fields)
            return
        rows = [row for name, row in fields.items() if name.startswith(f"{FIELD}:")]
        if len(rows) != meta["rows"]:
            raise StateError(f"{meta['rows']} rows of leakage were stored, {len(rows)} are there")
        self._table.restore(meta["table"], rows)
        self._table.drop_groups(self._groups.is_wanted)
        self._stored = fields[FIELD]


def figures(served: Mapping[str, ServedCounts], losses: Sequence[int]) -> dict[str, Metric]:
    """Return the metrics that follow from counts, see `Leakage.counts`; what is not known has no entry."""
    found: dict[str, Metric] = {}
    for kind, of in served.items():
        leak = served_counts.leak(np.array(of.row), Law(*of.law), of.every)
        if leak is not None:
            found[f"{STREAM}:{kind}"] = leak.rate
    if losses:
        members, small, others, below = losses
        # Labels that are corrected may have been counted with another reference.
        if 0 <= below <= others and others > 0:
            found[EXPOSURE] = advantage(np.array([small, below]), np.array([members, others]))
    return found


class ServedStreams:
    """The streams of whether a prediction meets a unique row of training: `served_from_training:near`, `...:embedding`, `...:image`.

    Nearly, which exact ones do too. Where very many coincide by chance there is no stream.

    Parameters
    ----------
    reference
        A training reference; None for no streams.
    """

    def __init__(self, reference: Path | None) -> None:
        training = None if reference is None else read(reference)
        laws = {} if training is None else training.laws
        ones = np.arange(_SAMPLE) / _SAMPLE
        self.samples = {
            f"{STREAM}:{kind}": (ones >= 1 - law.by_chance).astype(np.float64)
            for kind, (law, _) in laws.items()
            if kind != "exact" and law.by_chance <= _MOST_CHANCE < law.unique / max(law.rows, 1) / 2
        }
        """Stream to (2000,) values as they are by chance."""
        self.checksum = 0 if training is None or not self.samples else training.checksum
        """Of what they are looked up in."""
        self._columns = [list(laws).index(name.partition(":")[2]) for name in self.samples]

    def beside(
        self, names: tuple[str, ...], values: Floats, met: Ints | None
    ) -> tuple[tuple[str, ...], Floats]:
        """Return names and (n, k) values with those of the streams, for what (n, ...) rows have met; NaN where that is not known."""
        if met is None or not self._columns:
            return names, values
        codes = met[:, self._columns]
        is_unique = (codes >= 0) & (codes % 2 == 1)
        bits = np.where(codes == served_counts.UNKNOWN, np.nan, is_unique)
        return (*names, *self.samples), np.column_stack([values, bits])


def stored(fields: dict[str, bytes]) -> set[str]:
    """Return the names of those of some fields that are of leakage."""
    return {name for name in fields if name == FIELD or name.startswith(f"{FIELD}:")}


def _field(cohort: Cohort) -> str:
    return f"{FIELD}:{cohort.span}:{cohort.group}"
