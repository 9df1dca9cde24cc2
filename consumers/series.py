"""One model in one environment: its detectors, from event batches and joined pairs to claims."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from typing import Any, Final, Literal

import msgspec
import numpy as np

from .. import __version__
from ..core.batch import EventBatch
from ..core.columns import Floats, Ints, take
from ..core.errors import StateError
from ..core.snapshot import pack, reading, unpack
from ..core.verdict import Verdict
from ..detectors.base import Observations
from ..detectors.performance import PerformanceWindow
from ..detectors.reference import Reference
from ..detectors.stream_monitor import StreamMonitor
from . import trained_vectors, training_reference
from .attack import AttackMonitor
from .bias import SHARE, Bias, budget_of
from .class_names import ClassNames, feature_column
from .class_numbers import ClassNumbers, numbers_only
from .estimates import ESTIMATE, ESTIMATED_ERROR
from .estimators import Seen
from .groups import Groups
from .incidents import LINE, Incidents, Timeline
from .join import Correction, Pairs
from .label_watch import OF_LABELS, Looked
from .leakage import ServedStreams
from .model_settings import ModelSettings
from .rates import OF_ERRORS, RATES, Rates
from .score_columns import ScoreColumns, is_regression, score
from .set_aside import updated
from .settled import Settled
from .stream_monitors import stream_monitor
from .vectors import VectorMonitor, Vectors
from .watched import pieces

_MAX_STREAMS: Final = 10_000
"""As many as one event may bring; beyond, names that are made up would fill memory."""

_MONITORS: Final[tuple[tuple[Literal["inputs", "errors"], str], ...]] = (
    ("inputs", "drift"), ("errors", "errors"),
)  # fmt: skip
_SHARES: Final = {"inputs": 0.5, "errors": 0.3, "embedding": 0.1, "logits": 0.1}
"""Of the budget; each has its own events."""

_META: Final[dict[str, Any]] = {
    "is_regression": bool | None, "events": LINE, "pairs": LINE, "broken": dict[str, str],
    "version": str, "versions": Any, "rates": tuple[bool, int], "settled": tuple[bool, int, float, int],
}  # fmt: skip
"""What is stored beside the parts, since the first version."""

Fields = dict[str, bytes | None]
"""State by the name of the field that stores it; None where the field is to be deleted."""


class Series:
    """The detectors of one model in one environment and partition.

    Parameters
    ----------
    model, environment, partition
        What is watched.
    settings
        How.
    names
        Where names of categories are remembered.
    columns, groups
        What scores and segments are about.
    """

    def __init__(
        self,
        model: str,
        environment: str,
        partition: int,
        settings: ModelSettings,
        names: ClassNames | None = None,
        columns: ScoreColumns | None = None,
        groups: Groups | None = None,
    ) -> None:
        self.settings = settings
        self.is_regression = settings.is_regression
        drift = settings.drift
        self._trained = (
            None if drift.reference is None else training_reference.read(drift.reference)
        )
        self._served = ServedStreams(drift.reference)
        self._vectors = None if drift.reference is None else trained_vectors.read(drift.reference)
        if self.is_regression is None and self._trained is not None:
            self.is_regression = self._trained.is_regression
        self.inputs = self._monitor("inputs")
        self.errors = self._monitor("errors")
        self.embedding = self._vector_monitor("embedding")
        self.logits = self._vector_monitor("logits")
        self.attack = AttackMonitor(model, settings.attack, self._vectors)
        self.performance = PerformanceWindow(settings.performance_window)
        self.events = Timeline()
        self.pairs = Timeline()
        self.incidents = Incidents(
            model,
            environment,
            partition,
            merge_events=settings.incidents.merge_events,
            resolve_events=settings.incidents.resolve_events,
            keeps=drift.policy == "keep" or self._trained is not None,
            runbook=settings.runbook,
        )
        self.broken: dict[str, str] = {}
        """Detectors that were set aside, and why; another version of tocsin begins them anew."""
        self._stored: dict[str, int] = {}
        self._watched: dict[str, int] = {}
        self.latest: tuple[tuple[str, ...], Floats] = ((), np.empty((0, 0)))
        """What `columns` returned of the predictions that were observed last."""
        self._classes = ClassNumbers()
        self._names = names or ClassNames()
        columns = ScoreColumns() if columns is None else columns
        self._rates = Rates(columns)
        self._settled = Settled()
        self._new_bias = partial(
            Bias, settings.bias, settings.bias.within, groups or Groups(), columns, budget_of(settings),
        )  # fmt: skip
        self.bias = self._new_bias()
        self.environment = environment
        if self._trained is not None:
            for stream, known in self._trained.names.items():
                self._names.begin(feature_column("training", stream), known)
            self._watched = {n: k for k, n in enumerate(self.inputs.unusable()) if self._watches(n)}

    def _monitor(self, name: Literal["inputs", "errors"]) -> StreamMonitor:
        """Return what watches inputs or errors, against training where there is a reference of it."""
        reference = Reference(self.settings.drift.warmup_values)
        if self._trained is not None:
            samples = self._trained.of(OF_ERRORS, others=name == "inputs")
            if name == "inputs":
                samples |= self._served.samples
            if self.settings.drift.learning:
                samples.pop("error", None)
            known = {} if name == "errors" else self._trained.missing
            reference.train(
                samples, self._trained.population, known, self._trained.categories, self._of_trained
            )
        share = _SHARES[name]
        if name == "errors" and self.settings.bias.segments:
            share -= SHARE
        of_errors = (*RATES, ESTIMATE, ESTIMATED_ERROR, *OF_LABELS)
        sparse = frozenset(of_errors if name == "errors" else self._served.samples)
        return stream_monitor(self.settings.drift, share, reference, sparse)

    def _vector_monitor(self, name: Literal["embedding", "logits"]) -> VectorMonitor:
        drift = self.settings.drift
        return VectorMonitor(
            name, drift, _SHARES[name], partial(stream_monitor, drift), self._vectors, self._of_trained
        )  # fmt: skip

    @property
    def _of_trained(self) -> int:
        """How many streams are compared with training."""
        if self._trained is None:
            return 0
        of_vectors = () if self._vectors is None else self._vectors.streams.values()
        vectors = sum(len(of.samples) for of in of_vectors)
        return len(self._trained.samples) + len(self._served.samples) + vectors

    @property
    def _of_vectors(self) -> list[Any] | None:
        """The checksum and the version of embeddings and logits in training; None where they are not known."""
        return self._vectors and [self._vectors.checksum, self._vectors.version]

    def observe(
        self, batch: EventBatch, predicted: Floats, met: Ints | None = None
    ) -> list[Verdict]:
        """Run the detectors of inputs, scores, embeddings and logits over predictions.

        Their classes are the (n,) `predicted`, as `ClassNumbers` has them; `met` is what each has met of training.
        """
        self.decide(batch)
        self.events.add(batch.times, batch.offsets)
        found: list[Verdict] = []
        for rows in self._streams(batch, predicted, met):
            found += self._run("drift", self.inputs, rows)
        before = self.events.count - len(batch)
        if self.settings.drift.embeddings and batch.embedding is not None:
            classes = None if self.is_regression else predicted
            vectors = Vectors.of(batch, batch.embedding, classes, before)
            found += self._run("embedding", self.embedding, vectors)
        if self.settings.drift.logits and batch.logits is not None:
            vectors = Vectors.of(batch, batch.logits, None, before)
            found += self._run("logits", self.logits, vectors)
        if self.settings.attack.enabled and batch.logits is not None:
            found += self._run("adversarial", self.attack, batch)
        return found

    @property
    def watched(self) -> Mapping[str, int]:
        """The streams of predictions, in the order of their first values."""
        return self._watched

    def decide(self, batch: EventBatch) -> None:
        """Decide by the first prediction whether this is a regression, where nobody has said so."""
        if self.is_regression is None:
            self.is_regression = is_regression(batch)

    def _streams(
        self, batch: EventBatch, predicted: Floats, met: Ints | None
    ) -> Iterator[Observations]:
        """Yield the streams of a batch, cut where one has its first value.

        From there on the stream is watched: a row without a value misses it. What else came in the same
        batch does not matter.
        """
        names, values = self.latest = self.columns(batch, predicted)
        names, values = self._served.beside(names, values, met)
        missed: dict[int, list[str]] = {}
        for piece in pieces(names, values, self._watched, _MAX_STREAMS, missed):
            yield self._observations(batch, piece.names, piece.values, piece.rows)
        if "drift" not in self.broken:
            for rows, streams in missed.items():
                self.inputs.miss(streams, rows)

    def columns(self, batch: EventBatch, predicted: Floats) -> tuple[tuple[str, ...], Floats]:
        """Return the names and (n, k) values of what is watched of predictions.

        Numeric features, text features as `category:...`, the score, and the prediction.
        """
        columns = [c for c, name in enumerate(batch.feature_names) if self.settings.wants(name)]
        names = [f"feature:{batch.feature_names[column]}" for column in columns]
        parts = [
            batch.features[:, columns] if len(columns) < batch.features.shape[1] else batch.features
        ]
        if len(batch.score_names):
            parts.append(score(batch.scores, batch.score_names))
            names.append("score")
        for feature, texts in batch.texts.items():
            if self.settings.wants(feature):
                codes, name = self._classes.of_text(texts), f"category:{feature}"
                self._names.add(feature_column(self.environment, name), codes, texts)
                parts.append(codes)
                names.append(name)
        if self.is_regression:
            parts.append(batch.prediction.numbers)
            names.append("prediction")
        elif batch.prediction.present.any():
            parts.append(predicted)
            names.append("prediction")
        return tuple(names), np.column_stack(parts)

    def _observations(
        self, batch: EventBatch, names: tuple[str, ...], values: Floats, rows: slice
    ) -> Observations:
        # In one order, however they came: what a stream's change does to others within a row depends on it.
        order = sorted(range(len(names)), key=names.__getitem__)
        names = tuple(names[j] for j in order)
        return Observations(
            names=names,
            values=np.take(values, order, axis=1),
            offsets=batch.offsets[rows],
            rows=batch.rows[rows],
            categories=self.categories(names),
            times=batch.times[rows],
        )

    def categories(self, names: Iterable[str]) -> frozenset[str]:
        """Return which of these streams are of categories: texts, and classes."""
        return frozenset(
            name
            for name in names
            if name.startswith("category:")
            or (name in ("prediction", "label") and not self.is_regression)
        )

    def _watches(self, stream: str) -> bool:
        kind, _, feature = stream.partition(":")
        return kind not in ("feature", "category") or self.settings.wants(feature)

    def judge(self, pairs: Pairs, differences: Floats) -> list[Verdict]:
        """Run the detector of errors over joined pairs, with (n,) what estimates are off by, and count them in the window."""
        predicted, label = self._on_one_scale(pairs.predicted, pairs.label)
        self.performance.add(pairs.place, predicted, label, pairs.lag)
        self.pairs.add(pairs.times, pairs.offsets)
        begin = self._settled.first(pairs.times, pairs.lag)
        if begin:
            pairs, differences = take(pairs, slice(begin, None)), differences[begin:]
        found: list[Verdict] = []
        for rows, names, values in self._rates.pieces(
            pairs, differences, is_regression=self.is_regression
        ):
            watched = Observations(
                names=names,
                values=values,
                offsets=pairs.offsets[rows],
                rows=pairs.rows[rows],
                categories=self.categories(OF_ERRORS),
                times=pairs.times[rows],
            )
            found += self._run("errors", self.errors, watched)
        return found

    def follow(self, looked: Looked) -> list[Verdict]:
        """Run the detector of errors over what has become of predictions of one age, all of this environment."""
        found = self._run("errors", self.errors, looked.observations())
        return [msgspec.structs.replace(verdict, row=looked.row) for verdict in found]

    def compare(self, events: Seen | Pairs) -> list[Verdict]:
        """Run the tests of gaps between groups over predictions, or over pairs."""
        if self.is_regression or not self.settings.bias.within:
            return []
        if isinstance(events, Pairs):
            return self._run("gaps of labels", self.bias.pairs, events)
        return self._run("gaps of predictions", self.bias.predictions, events)

    def _on_one_scale(self, predicted: Floats, label: Floats) -> tuple[Floats, Floats]:
        if not self.is_regression:
            return predicted, label
        return numbers_only(predicted), numbers_only(label)

    def correct(self, correction: Correction) -> None:
        """Let a corrected label replace the earlier one in the window."""
        label = np.array([correction.label])
        if self.is_regression:
            label = numbers_only(label)
        self.performance.correct(int(correction.pair.place[0]), float(label[0]))

    def _run(self, name: str, detector: Any, batch: Any) -> list[Verdict]:
        return updated(name, detector, batch, self.broken)

    def metrics(self) -> dict[str, float]:
        """Return the latest figures, for the store."""
        kind = (
            self.performance.regression if self.is_regression else self.performance.classification
        )
        found = kind()
        found["predictions"] = float(self.events.count)
        found["labels_joined"] = float(self.pairs.count)
        found["open_incidents"] = float(self.incidents.open)
        if self.attack.checked:
            found["suspicious_ratio"] = self.attack.flagged / self.attack.checked
        unusable = sum(self.inputs.unusable().values())
        found["unusable_values"] = float(unusable)
        found |= self._budget() | self.bias.figures()
        found["detectors_set_aside"] += len(self.broken)
        vectors = (self.embedding, self.logits)
        unusable_vectors = sum(monitor.figures()["unusable_vectors"] for monitor in vectors)
        if unusable_vectors:
            found["unusable_vectors"] = unusable_vectors
        return found

    def _budget(self) -> dict[str, float]:
        """Return the false-alarm budget: in events, how it is shared, what was allowed and what was raised."""
        inputs = self.inputs.figures()
        others = [m.figures() for m in (self.errors, self.embedding, self.logits)]
        found = {
            name: value + sum(figures.get(name, 0.0) for figures in others)
            for name, value in inputs.items()
        }
        found["false_alarm_budget_events"] = _SHARES["inputs"] * inputs["false_alarm_budget_events"]
        return found

    def _parts(self) -> dict[str, tuple[int, Callable[[], bytes]]]:
        """Return how often each part of the state has changed, and what packs it."""
        inputs, errors = self.inputs, self.errors
        return {
            "inputs": (inputs.changes, inputs.volatile),
            "inputs_reference": (inputs.reference.changes, inputs.reference.snapshot),
            "errors": (errors.changes, errors.volatile),
            "errors_reference": (errors.reference.changes, errors.reference.snapshot),
            "performance": (self.performance.changes, self.performance.snapshot),
            "incidents": (self.incidents.changes, self.incidents.snapshot),
        } | {
            f"gaps_of_{name}": (monitor.changes, monitor.snapshot)
            for name, monitor in self.bias.monitors().items()
        }

    def dirty(self) -> Fields:
        """Return the fields that changed since the last call."""
        meta = {
            "is_regression": self.is_regression,
            "events": self.events.state(),
            "pairs": self.pairs.state(),
            "rates": (self._rates.is_binary, self._rates.has_begun),
            "settled": self._settled.state,
            "broken": self.broken,
            "version": __version__,
            "versions": self.attack.versions,
            "trained": self._trained and self._trained.checksum ^ self._served.checksum,
            "vectors": self._of_vectors,
            "embedding": self.embedding.state(),
            "logits": self.logits.state(),
        }
        fields: Fields = {"series": pack("series", 1, meta, {})}
        for name, (changes, snapshot) in self._parts().items():
            if self._stored.get(name) != changes:
                self._stored[name] = changes
                fields[name] = snapshot()
        return fields | self.embedding.dirty() | self.logits.dirty() | self.attack.dirty()

    def restore(self, fields: dict[str, bytes]) -> list[str]:
        """Go on from stored fields; return what could not be read and starts clean."""
        mended: set[str] = set()
        try:
            with reading("series"):
                meta, _ = unpack("series", 1, fields["series"])
                for key, kind in _META.items():
                    meta[key] = msgspec.convert(meta[key], kind)
        except StateError as error:
            return [f"series: {error}"]  # with its clocks all that is told by them
        self.is_regression = meta["is_regression"]
        self.events.load(meta["events"])
        self.pairs.load(meta["pairs"])
        self._rates.is_binary, self._rates.has_begun = meta["rates"]
        self._settled.state = meta["settled"]
        if meta["version"] == __version__:
            self.broken = meta["broken"]
        else:
            mended = set(meta["broken"])
        lost = [f"{n}: it failed in tocsin {meta['version']}" for n in sorted(mended)]
        for name in ("performance", "incidents"):
            part = deepcopy(getattr(self, name))
            try:
                with reading(name):
                    part.restore(fields[name])
            except StateError as error:
                lost.append(f"{name}: {error}")
            else:
                setattr(self, name, part)
        bias = self._new_bias()
        try:
            with reading("gaps"):
                for of, tests in bias.monitors().items():
                    if f"gaps_of_{of}" in fields:
                        tests.restore(fields[f"gaps_of_{of}"])
            self.bias = bias
        except StateError as error:
            lost.append(f"gaps: {error}")
        trained = self._trained and self._trained.checksum ^ self._served.checksum
        if meta.get("trained") != trained:
            lost.append("inputs and errors: drift.reference is another one than before")
        before, now = meta.get("vectors"), self._of_vectors
        renewed = {str(of[1]) for of in (before, now) if of and before != now}
        begins_anew = bool(renewed)
        for name, detector in _MONITORS:
            if detector in mended or meta.get("trained") != trained:
                begins_anew = True
                continue
            monitor = self._monitor(name)
            try:
                with reading(name):
                    monitor.reference.restore(fields[f"{name}_reference"])
                    monitor.restore_volatile(fields[name])
                    monitor.figures()  # no detector is set aside where these fail
            except StateError as error:
                lost.append(f"{name}: {error}")
                monitor, begins_anew = self._monitor(name), True
            setattr(self, name, monitor)
        if begins_anew:
            self.incidents.let_go()
        self._watched = {
            name: number
            for number, name in enumerate(self.inputs.unusable())
            if self._watches(name)
        }
        if not lost:  # else everything is written again, so that what was lost is whole
            self._stored = {name: changes for name, (changes, _) in self._parts().items()}
        for vectors in (self.embedding, self.logits):
            if vectors.name not in mended:
                lost += vectors.restore(meta.get(vectors.name), fields, renewed)
        if "adversarial" not in mended:
            lost += self.attack.restore(meta["versions"], fields, renewed)
        return lost
