"""Leaks of one model while it serves: features that tell the label, are it, or are of a time after the event."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.batch import EventBatch
from ..core.columns import Floats, Ints, groups, take
from ..core.errors import ConfigError, StateError
from ..core.metric_row import Value
from ..core.snapshot import pack, reading, unpack
from ..core.verdict import Verdict
from ..detectors.feature_times import FeatureTimes, Rows
from ..detectors.label_windows import Trained
from ..detectors.leak_verdicts import plain
from ..detectors.leak_watch import LeakWatch
from . import training_reference
from .claims import position_of
from .feature_sample import COLUMNS, FeatureSample, Part
from .join import Join, Pairs
from .merged_leakage import TELLS, Beside
from .model_settings import ModelSettings
from .series import Fields, Series
from .time_kernel import times_of
from .training_labels import PART, read

FIELDS: Final = "leakage"
"""What the names of fields begin with."""
_OF_LABELS: Final = 2 / 3  # of the error; the rest is that of times
_NONE: Final = np.empty(0, np.int64)


class _Seen(NamedTuple):
    """A part of an update's predictions, all of one environment: (n, k) values of streams, and which they are."""

    batch: EventBatch
    names: tuple[str, ...]
    values: Floats
    places: Ints


class _Environment:
    """What is kept of an environment."""

    def __init__(self, model: str, settings: ModelSettings, trained: Trained | None) -> None:
        own, labels, spans = settings.leakage, settings.labels, settings.performance.cohorts
        self.sample = FeatureSample(own.rows, labels.max_pending, int(labels.window * 1e9), model)
        self.labels = LeakWatch(_OF_LABELS * own.error, own.reference_labels, trained, spans)
        names = None if own.times == "auto" else own.times
        self.times = FeatureTimes(names, own.clock_skew, (1 - _OF_LABELS) * own.error, spans)
        self.changes = 0
        self.stored: tuple[int, int, int] = (-1, -1, -1)
        self._streams = -1
        self._columns: tuple[tuple[str, ...], Ints, Ints] = (), _NONE, _NONE
        self.kept: list[str] = []
        """Streams of the columns that are kept."""

    def columns(self, seen: _Seen, series: Series) -> tuple[Ints, Ints]:
        """Return which columns of the values are kept, and as which features; new ones in the order of their first values."""
        if len(series.watched) != self._streams:
            self._streams = len(series.watched)
            known = set(self.labels.names)
            new = [
                n
                for n in series.watched
                if n.startswith(("feature:", "category:")) and n not in known
            ]
            if room := COLUMNS - len(known):
                self.labels.see(new[:room])
                self.changes += 1
            self._columns, self.kept = ((), _NONE, _NONE), []
        if self._columns[0] != seen.names:
            place = {name: k for k, name in enumerate(self.labels.names)}
            source = [column for column, name in enumerate(seen.names) if name in place]
            target = [place[seen.names[column]] for column in source]
            self._columns = seen.names, np.array(source, np.int64), np.array(target, np.int64)
            self.kept = [seen.names[column] for column in source]
        return self._columns[1:]


class FeatureLeaks:
    """Watches for leaks in one model in one partition.

    Parameters
    ----------
    model
        Whose they are.
    settings
        Of the model.

    Raises
    ------
    ConfigError
        The training reference has a part about labels that cannot be read.
    """

    def __init__(self, model: str, settings: ModelSettings) -> None:
        self._model, self._settings = model, settings
        self.is_enabled = settings.leakage.enabled and settings.features != "none"
        self._span = int(settings.performance.cohort * 1e9)
        self._environments: dict[int, _Environment] = {}
        self._seen: dict[int, list[_Seen]] = {}
        self._stale: set[str] = set()
        self._trained: bytes | None = None
        if self.is_enabled and settings.drift.reference is not None:
            self._trained = training_reference.read(settings.drift.reference).parts.get(PART)
        self._of_training()

    def _of_training(self) -> Trained | None:
        """Return what was counted in training; each environment adds classes of its own."""
        if self._trained is None:
            return None
        try:
            return read(self._trained)
        except StateError as error:
            raise ConfigError(
                f"drift.reference {self._settings.drift.reference}: write it anew with `tocsin reference`: {error}"
            ) from None

    def _of(self, code: int) -> _Environment:
        if code not in self._environments:
            self._environments[code] = _Environment(
                self._model, self._settings, self._of_training()
            )
        return self._environments[code]

    def observe(self, code: int, batch: EventBatch, series: Series, places: Ints) -> None:
        """Take predictions of one environment, of the rows `places` of an update, until it is known what the join makes of them."""
        if self.is_enabled:
            self._seen.setdefault(code, []).append(_Seen(batch, *series.latest, places))

    def update(
        self, join: Join, pairs: Sequence[Pairs], series: Callable[[int], Series]
    ) -> Iterator[tuple[int, list[Verdict]]]:
        """Take in what the join has made of the predictions; yield what is claimed by environment."""
        if not self.is_enabled:
            return
        seen, self._seen = self._seen, {}
        pending = join.begins + np.cumsum(join.fresh) - 1
        found: dict[int, tuple[Pairs, Ints]] = {}
        for pair, rows in zip(pairs, join.paired, strict=True):
            for code, of in groups(pair.environment):
                found[code] = (pair, rows) if len(of) == len(rows) else (take(pair, of), rows[of])
        for code in sorted({*seen, *found}):
            verdicts = self._update(
                self._of(code), seen.get(code, []), join.fresh, pending, found.get(code), series(code)
            )  # fmt: skip
            if verdicts:
                yield code, verdicts

    def _update(
        self,
        own: _Environment,
        seen: list[_Seen],
        fresh: NDArray[np.bool_],
        pending: Ints,
        found: tuple[Pairs, Ints] | None,
        series: Series,
    ) -> list[Verdict]:
        parts: list[Part] = []
        verdicts: list[Verdict] = []
        for one in seen:
            source, target = own.columns(one, series)
            is_new = fresh[one.places]
            rows = slice(None) if is_new.all() else np.flatnonzero(is_new)
            at = position_of(one.batch.offsets[rows], one.batch.rows[rows])
            times, numbers = one.batch.times[rows], pending[one.places[rows]]
            parts.append(Part(numbers, at, times, one.values[rows], source, target))
            verdicts += self._compare_times(own, one, source, rows)
        if found is None:
            own.sample.update(parts, _NONE, _NONE)
            return verdicts
        pairs, taken = found
        features, kept = own.sample.update(parts, taken, position_of(pairs.offsets, pairs.rows))
        if not features.shape[1]:
            return verdicts
        own.changes += 1
        if not kept.all():
            pairs = take(pairs, kept)
        spans = (pairs.times - pairs.lag) // self._span
        return verdicts + own.labels.add(
            features, pairs.label, pairs.offsets, pairs.rows, spans, is_regression=bool(series.is_regression)
        )  # fmt: skip

    def _compare_times(
        self, own: _Environment, seen: _Seen, source: Ints, rows: slice | Ints
    ) -> list[Verdict]:
        """Compare features that are times with those of the events."""
        wanted = own.times.wanted(own.kept)
        if not wanted:
            return []
        batch = seen.batch
        numbers: dict[str, Floats] = {}
        texts: dict[str, Ints] = {}
        for column in source[wanted].tolist():
            name = seen.names[column]
            if name.startswith("feature:"):
                numbers[name] = seen.values[rows, column]
            else:
                text = batch.texts[plain(name)].take(rows)
                texts[name] = np.where(text.present, times_of(text.data, text.start, text.end), -1)
        times = batch.times[rows]
        events = Rows(batch.offsets[rows], batch.rows[rows], times, times // self._span)
        return own.times.update(events, numbers, texts)

    def told(self, code: int, span: int) -> Beside:
        """Return what is told of an environment's cohort."""
        own = self._environments.get(code)
        if own is None:
            return Beside({}, {})
        tells: dict[str, Value] = {}
        for name, metric in own.labels.told(
            span
        ).items():  # the best first, of a number and a text of one name too
            tells.setdefault(f"{TELLS}:{plain(name)}", metric)
        return Beside(tells, own.times.counts(span))

    def dirty(self) -> Fields:
        """Return the fields to store since the last call, None for those to delete."""
        fields: Fields = dict.fromkeys(self._stale)
        self._stale = set()
        for code, own in self._environments.items():
            own.labels.flush()
            changes = (own.changes + own.sample.changes, own.labels.changes, own.times.changes)
            found: Fields = dict(own.sample.dirty())
            if changes[0] != own.stored[0]:
                checksum = None if self._trained is None else zlib.crc32(self._trained)
                meta: dict[str, Any] = {
                    "trained": checksum, "labels": own.labels.snapshot(), "cohort": self._span,
                }  # fmt: skip
                meta["times"] = self._settings.leakage.times
                found[FIELDS] = pack(FIELDS, 1, meta, {})
            if changes[1] != own.stored[1]:
                found[f"{FIELDS}_windows"] = own.labels.snapshot_windows()
            if changes[2] != own.stored[2]:
                found[f"{FIELDS}_times"] = own.times.state()
            own.stored = changes
            fields.update((f"{code}/{name}", state) for name, state in found.items())
        return fields

    def restore(self, code: int, fields: dict[str, bytes], *, is_joined: bool) -> list[str]:
        """Go on from an environment's stored fields; return what could not be read and starts clean.

        Without the join that the waiting rows belong to these are forgotten.
        """
        own = {name: state for name, state in fields.items() if name.startswith(FIELDS)}
        if not own:
            return []
        waiting = {name for name in own if name.startswith(f"{FIELDS}_waiting")}
        if not self.is_enabled:
            self._stale |= {f"{code}/{name}" for name in own}
            return []
        try:
            with reading(FIELDS):
                self._environments[code] = self._restored(own, is_joined=is_joined)
        except StateError as error:
            self._environments.pop(code, None)
            self._stale |= {f"{code}/{name}" for name in own}
            return [f"{FIELDS}: {error}"]
        if not is_joined:
            self._stale |= {f"{code}/{name}" for name in waiting}
        return []

    def _restored(self, fields: dict[str, bytes], *, is_joined: bool) -> _Environment:
        own = _Environment(self._model, self._settings, self._of_training())
        meta, _ = unpack(FIELDS, 1, fields[FIELDS])
        if meta["trained"] != (None if self._trained is None else zlib.crc32(self._trained)):
            raise StateError("drift.reference is another one than before")
        if (meta["cohort"], meta["times"]) != (self._span, self._settings.leakage.times):
            raise StateError("performance.cohort or leakage.times is another one than before")
        own.labels.restore(meta["labels"], fields[f"{FIELDS}_windows"])
        own.times.restore(fields[f"{FIELDS}_times"])
        if is_joined:
            own.sample.restore(fields)
        else:
            own.sample.changes += 1  # so that it is written anew
        own.stored = (0, own.labels.changes, 0)
        return own
