"""Performance of one model: what is kept of each prediction until its label comes, and the cohorts of each environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..core.batch import EventBatch
from ..core.columns import Floats, Ints, groups, stack, take
from ..core.metric_row import Value
from ..core.snapshot import pack, reading, unpack
from .class_numbers import numbers_only
from .cohorts import Cohorts
from .estimators import LOSSES, Seen
from .groups import Groups
from .join import Correction, Pairs, Predictions
from .metric_rows import MetricRows, Name, Tell
from .model_settings import BiasSettings, PerformanceSettings
from .pending import widened
from .score_columns import ScoreColumns
from .trained_estimates import Given
from .training_rows import SERVED, TrainingRows

_WAITING: Final = 16_384
"""Events that wait to be counted at most: some 2 MB."""
T = TypeVar("T", Seen, Pairs)


class Performance:
    """The cohorts of one model in one partition, by environment, as series for whoever looks.

    Parameters
    ----------
    settings
        The model's.
    window
        Seconds for which labels are joined.
    bias
        Which groups are compared; see `MetricRows`.
    training
        What is known of the rows of training, where it is known.
    given
        Estimates that were learned with training.
    expected
        Performance in training, by group.
    """

    def __init__(
        self,
        settings: PerformanceSettings,
        window: float = 14 * 86_400.0,
        bias: BiasSettings | None = None,
        training: TrainingRows | None = None,
        given: Given | None = None,
        expected: Mapping[str, dict[str, Value]] | None = None,
    ) -> None:
        self.settings = settings
        self._window = window
        self._training = training
        self._given = given
        self._of_features = given if given and given.is_regression and given.names else None
        self.score_columns = ScoreColumns(settings.positive)
        self.groups = Groups(settings.segments)
        self._cohorts: dict[int, Cohorts] = {}
        bias = bias or BiasSettings()
        self._rows = MetricRows(settings, bias, self.groups, self._cohorts, expected)
        told_by = {
            "segments": settings.segments, "cohort": settings.cohort, "within": bias.within, "between": bias.between,
        }  # fmt: skip
        self._told_by = pack("told_by", 1, told_by, {})
        self._told_by_stored = b""
        self._stored = (-1, -1)
        self._stale: set[str] = set()  # fields of what could not be read
        self._from = self._from_stored = (
            0  # row of the join's table, of the first prediction that is counted
        )
        self._seen: list[Seen] = []
        self._codes: list[NDArray[np.integer[Any]]] = []  # the environment of each, -1 for none
        self._pairs_of: list[Pairs] = []
        self._corrections: list[Correction] = []
        self._waiting = 0  # events of these

    @property
    def _width(self) -> int:
        """How many scores a prediction has."""
        return LOSSES if self._of_features else len(self.score_columns)

    def columns(
        self, batches: Sequence[EventBatch], classes: Sequence[Floats]
    ) -> tuple[list[Ints], list[Floats]]:
        """Return the (n,) segments and (n, k) scores of each batch, as pairs will bring them back.

        `classes` are the (n,) predictions. Of a regression whose losses follow from features these losses stand for scores:
        the features themselves are not kept until the label comes.
        """
        segments = [self.groups.codes(batch.segments, batch.version) for batch in batches]
        if (of := self._of_features) is not None:
            return segments, [
                of.losses(batch, numbers_only(predicted))
                for batch, predicted in zip(batches, classes, strict=True)
            ]
        scores = [self.score_columns.of(batch) for batch in batches]
        width = self._width
        for k, found in enumerate(scores):
            if found.shape[1] < width:  # of before it was known what scores are like
                scores[k] = np.full((len(found), width), np.nan)
        return segments, scores

    def add(
        self,
        predictions: Predictions,
        fresh: NDArray[np.bool_],
        pairs: Sequence[Pairs],
        corrections: Sequence[Correction],
        paired: Sequence[Ints],
    ) -> None:
        """Take events in, to be counted by `flush`: many at once, since a few cost nearly as much as many.

        `paired` are the rows of the join's table that pairs have.
        """
        if self._from:  # of predictions that are not counted here
            kept = [rows >= self._from for rows in paired]
            pairs = [take(pair, of) for pair, of in zip(pairs, kept, strict=True) if of.any()]
            corrections = [one for one in corrections if one.row >= self._from]
        p, codes = predictions, predictions.environment
        self._seen.append(
            Seen(p.offsets, p.rows, p.times, p.segments, p.predicted, p.scores, p.met)
        )
        is_whole = np.count_nonzero(fresh) == len(fresh)
        self._codes.append(codes if is_whole else np.where(fresh, codes, np.int64(-1)))
        self._pairs_of += pairs
        self._corrections += corrections
        self._waiting += len(fresh) + sum(len(pair.label) for pair in pairs)

    def differences(self, environment: int, pairs: Pairs, *, is_regression: bool | None) -> Floats:
        """Return (n,) what was estimated of each prediction less what came, NaN where that is not known; see `Estimates`."""
        return self._of(environment).estimates.learn(pairs, is_regression=is_regression)

    @property
    def is_full(self) -> bool:
        """Whether so much waits that it should be counted now."""
        return self._waiting >= _WAITING

    def flush(self, regressions: Mapping[int, bool | None]) -> None:
        """Count what waits; `regressions` says of each environment whether its model is a regression."""
        if not self._waiting and not self._corrections:
            return
        seen = self._by_environment(self._seen, self._codes)
        pairs = self._by_environment(self._pairs_of, [pair.environment for pair in self._pairs_of])
        corrections: dict[int, list[Correction]] = {}
        for correction in self._corrections:
            one = correction._replace(pair=self._wide(correction.pair))
            corrections.setdefault(int(one.pair.environment[0]), []).append(one)
        for code in {**seen, **pairs, **corrections}:
            cohorts = self._of(code)
            cohorts.is_regression = regressions[code]
            cohorts.update(seen.get(code), pairs.get(code), corrections.get(code, ()))
        self._seen, self._codes, self._pairs_of, self._corrections = [], [], [], []
        self._waiting = 0

    def _by_environment(
        self, events: list[T], codes: list[NDArray[np.integer[Any]]]
    ) -> dict[int, T]:
        if not events:
            return {}
        whole, every = stack([self._wide(one) for one in events]), np.concatenate(codes)
        return {
            code: whole if len(rows) == len(every) else take(whole, rows)
            for code, rows in groups(every)
        }

    def _wide(self, events: T) -> T:
        """Return events with all columns of scores: what came before these were known has fewer."""
        scores = widened(events.scores, self._width)
        return events if scores is events.scores else events._replace(scores=scores)

    def _of(self, environment: int) -> Cohorts:
        if environment not in self._cohorts:
            training = self._training if environment in SERVED else None
            self._cohorts[environment] = Cohorts(
                self.settings, self.score_columns, self.groups, self._window, training, self._given
            )
        return self._cohorts[environment]

    @property
    def is_behind(self) -> bool:
        """Whether there is more to write than was written."""
        return self._rows.is_behind

    def dirty(self) -> dict[str, bytes | None]:
        """Return the fields to store since the last call, None for those to delete; to be called after `flush`."""
        fields: dict[str, bytes | None] = dict.fromkeys(self._stale)
        self._stale = set()
        if self._told_by != self._told_by_stored:
            fields["told_by"] = self._told_by_stored = self._told_by
        if self._from != self._from_stored:
            self._from_stored = self._from
            fields["counted"] = pack("counted", 1, {"from": self._from}, {})
        changes = self.score_columns.changes, self.groups.changes
        if changes != self._stored:
            self._stored = changes
            fields["score_columns"] = self.score_columns.snapshot()
            fields["groups"] = self.groups.snapshot()
        for code, cohorts in self._cohorts.items():
            changed, gone = cohorts.table.changed()
            fields.update((f"{code}/{name}", f) for name, f in cohorts.dirty(changed, gone).items())
            self._rows.note(code, changed, gone, self.score_columns.changes)
        return fields

    def series(self, name: Name, now: int, beside: Tell | None = None) -> dict[str, bytes | None]:
        """Return what is to be written of the series; see `MetricRows.take`. To be called after `dirty`."""
        return self._rows.take(name, now, beside)

    def forget(self, written: Iterable[str]) -> None:
        """Delete with the next rows those of what was written that are none of these settings."""
        self._rows.forget(written)

    def is_told_by(self, fields: Mapping[str, bytes]) -> bool:
        """Whether stored fields were written by settings that tell of the same cohorts and groups; nothing is, too."""
        return fields.get("told_by", self._told_by if not fields else b"") == self._told_by

    def restore(self, fields: dict[str, bytes], own: dict[int, dict[str, bytes]]) -> None:
        """Go on from the model's stored fields and those of each environment, of an object that is new.

        Raises
        ------
        StateError
            A field is damaged or missing; this object is to be thrown away then.
        """
        if not {"groups", "score_columns"} & set(fields) and not any(own.values()):
            return
        self._told_by_stored = fields.get("told_by", b"")
        with reading("performance"):
            if "counted" in fields:
                meta, _ = unpack("counted", 1, fields["counted"])
                self._from = self._from_stored = int(meta["from"])
            self.score_columns.restore(fields["score_columns"])
            self.groups.restore(fields["groups"])
            for code, of in own.items():
                if of:
                    self._of(code).restore(of)
        if self._told_by_stored == self._told_by:  # else what is wanted has changed
            self._stored = self.score_columns.changes, self.groups.changes
        self._rows.begin()

    def begin_at(self, row: int) -> None:
        """Count predictions from this row of the join's table on: those before were counted by what is lost, or never."""
        self._from = row

    def replace(self, own: dict[int, dict[str, bytes]]) -> None:
        """Delete the stored fields of each environment with the next ones: they could not be read."""
        self._stale = {f"{code}/{name}" for code, of in own.items() for name in of}
