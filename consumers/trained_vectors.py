"""Embeddings and logits as they were in training: the part of a training reference that those of its version are compared with."""

from __future__ import annotations

import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.batch import EventBatch
from ..core.columns import Floats
from ..core.errors import StateError
from ..core.snapshot import check, pack, reading, unpack
from ..detectors.base import usable
from ..detectors.categories import counted_categories
from ..detectors.embedding import EmbeddingStreams, check_learnt
from ..detectors.logit_streams import LogitStreams
from ..detectors.reference import order_statistics
from ..detectors.vector_warm_up import WIDEST
from . import training_reference
from .model_settings import AttackSettings, ModelSettings
from .training_reference import FEWEST

PART: Final = "vectors"
"""The part's name in the file."""
MOST_CLASSES: Final = 1024
"""Logits of more classes are not checked for attacks: their covariance is a matter of seconds and megabytes."""
_KINDS: Final[tuple[Literal["embedding", "logits"], ...]] = ("embedding", "logits")
_BLOCKS: Final = "embedding:mmd"  # one value in 50 rows: too few to be compared with training
_FIT: Final = (
    1000  # rows that the map to streams is learnt from, as in a worker; the others are mapped
)
_FEWEST_FIT: Final = 500  # chosen: half of them
_MOST, _BYTES = 20_000, 1 << 28
"""Rows that are kept while they are collected, a random sample of all, and bytes of them."""
_SEED: Final = 0x70C51  # of the sample and of its order; any constant
_VERSION: Final = 1
_FLOATS: Final = np.dtype(np.float64)


class TrainedStreams(NamedTuple):
    """The vectors of one kind.

    Parameters
    ----------
    width
        Their coordinates.
    transform
        Their map to streams, as `restore_steady` of `EmbeddingStreams` or `LogitStreams` takes it.
    samples
        Stream to its (n,) values in their order, of rows that the map was not learnt from.
    categories
        Of streams of categories the counts, see `detectors.categories.counted_categories`.
    population
        How many values each was drawn from, at least.
    """

    width: int
    transform: bytes
    samples: dict[str, Floats]
    categories: dict[str, Floats]
    population: int


class TrainedVectors(NamedTuple):
    """The embeddings and logits of one version of a model.

    Parameters
    ----------
    version
        Whose they are; empty for that of events without one.
    streams
        By kind, `embedding` and `logits`, where there are any.
    scores
        What tells adversarial inputs, fitted and calibrated, as `restore_steady` of `AdversarialInputs` takes it; None where that
        is not known.
    checksum
        Of the part: others have another one.
    """

    version: str
    streams: dict[str, TrainedStreams]
    scores: bytes | None
    checksum: int

    def of(self, kind: str, version: str, width: int) -> TrainedStreams | None:
        """Return the streams of vectors of a version and width; None where they are not known."""
        found = self.streams.get(kind)
        is_it = found is not None and (version, width) == (self.version, found.width)
        return found if is_it else None

    def scores_of(self, version: str, classes: int) -> bytes | None:
        """Return what tells adversarial inputs from logits of a version and so many classes; None where that is not known."""
        return self.scores if self.of("logits", version, classes) is not None else None


class VectorCollector:
    """Collects embeddings and logits of rows that the model was not fitted on.

    Parameters
    ----------
    settings
        The model's.

    Notes
    -----
    Memory is bounded: 20,000 rows of each at most, or 256 MB, a random sample where more come, and as many before it is drawn. They may come in any order,
    sorted by class as well.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._samples = {kind: _Sample() for kind in _KINDS}
        self._versions: set[str] = set()

    def add(self, batch: EventBatch, predicted: Floats, *, is_regression: bool | None) -> None:
        """Take rows in, with their (n,) predictions as `ClassNumbers` has them."""
        for kind, vectors in zip(_KINDS, (batch.embedding, batch.logits), strict=True):
            if vectors is not None:
                classes = np.full(len(batch), np.nan) if is_regression else predicted
                self._samples[kind].add(vectors, classes)
                self._versions |= {version or "" for version in batch.version.to_list()}

    def part(self) -> tuple[dict[str, bytes], list[str]]:
        """Return the part by its name, none where there is nothing to tell, and in words what is missing."""
        if len(self._versions) > 1:
            named = ", ".join(sorted(version or "none" for version in self._versions))
            return {}, [f"no embeddings or logits: rows are of versions {named}, and one is needed"]
        found: dict[str, Any] = {}
        why_not: list[str] = []
        for kind, sample in self._samples.items():
            if not len(sample):
                continue
            if len(sample) < FEWEST + _FEWEST_FIT:
                why_not.append(
                    f"no {kind} streams: {len(sample):,} rows with usable vectors, {FEWEST + _FEWEST_FIT:,} are needed"
                )
                continue
            found[kind] = _packed(_streams(kind, sample))
        scores = None
        if "logits" in found and find_spec("torch") is not None:
            try:
                scores = _scores(self._samples["logits"].vectors(), self._settings.attack)
            except ValueError as error:
                why_not.append(f"no thresholds for adversarial inputs: {error}")
        if not found:
            return {}, why_not
        (version,) = self._versions
        meta = {"version": version, "streams": found, "scores": scores}
        return {PART: pack("trained_vectors", _VERSION, meta, {})}, why_not


class _Rows(NamedTuple):
    keys: Floats
    classes: Floats
    vectors: NDArray[np.float32]


class _Sample:
    """Vectors of one width, the first usable one's, in random order."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(_SEED)
        self._parts: list[_Rows] = []
        self._width = 0

    def __len__(self) -> int:
        return len(self._cut().keys) if self._parts else 0

    def add(self, vectors: Floats, classes: Floats) -> None:
        width = vectors.shape[1]
        if not 1 <= width <= WIDEST or self._width not in (0, width):
            return
        self._width = width
        with np.errstate(over="ignore"):  # beyond a 32-bit float is left out below
            narrow = vectors.astype(np.float32)
        good = np.isfinite(narrow).all(axis=1)
        keys = self._rng.random(len(vectors))  # one each, so that it does not matter how rows come
        self._parts.append(_Rows(keys[good], classes[good], narrow[good]))
        if sum(len(part.keys) for part in self._parts) >= 2 * self._most:
            self._cut()

    @property
    def _most(self) -> int:
        return min(_MOST, _BYTES // (4 * self._width))

    def _cut(self) -> _Rows:
        """Keep the rows with the smallest keys, in the order of these."""
        keys = np.concatenate([part.keys for part in self._parts])
        classes = np.concatenate([part.classes for part in self._parts])
        vectors = np.concatenate([part.vectors for part in self._parts])
        order = np.argsort(keys, kind="stable")[: self._most]
        found = _Rows(keys[order], classes[order], vectors[order])
        self._parts = [found]
        return found

    def vectors(self) -> Floats:
        """Return the (n, d) vectors."""
        return self._cut().vectors.astype(np.float64)

    def classes(self) -> Floats:
        """Return the (n,) classes."""
        return self._cut().classes


def _streams(kind: str, sample: _Sample) -> TrainedStreams:
    """Learn the map from some rows, and return what the others are like."""
    vectors = sample.vectors()
    count, width = vectors.shape
    fit = min(_FIT, count - FEWEST)
    place, none = np.arange(count), np.zeros(count, np.int64)
    transform: EmbeddingStreams | LogitStreams
    if kind == "embedding":
        transform = EmbeddingStreams(fit)
        found = transform.update(vectors, sample.classes(), place, none)
    else:
        transform = LogitStreams(fit)
        found = transform.update(vectors, place, none)
    values = {name: found.values[fit:, k] for k, name in enumerate(found.names) if name != _BLOCKS}
    samples = {name: of[usable(of)] for name, of in values.items()}
    samples = {name: of for name, of in samples.items() if len(of) >= FEWEST}
    return TrainedStreams(
        width,
        transform.steady(),
        {name: order_statistics(of) for name, of in samples.items()},
        {name: counted_categories(samples[name]) for name in found.categories if name in samples},
        count - fit,
    )


def _scores(logits: Floats, settings: AttackSettings) -> bytes | None:
    """Return what tells adversarial inputs; None where logits are too wide or too narrow."""
    from ..detectors.adversarial import AdversarialInputs, Fitted

    if not 2 <= logits.shape[1] <= MOST_CLASSES:
        return None
    fit = min(settings.fit_events, len(logits) // 2)
    fitted = Fitted.fit(logits, fit, settings.alpha)
    return AdversarialInputs(alpha=settings.alpha, reference=fitted).steady()


def _packed(of: TrainedStreams) -> bytes:
    arrays = {f"sample:{name}": values for name, values in of.samples.items()}
    arrays |= {f"counts:{name}": counts for name, counts in of.categories.items()}
    meta = {"width": of.width, "transform": of.transform, "population": of.population}
    return pack("trained_streams", _VERSION, meta, arrays)


def _unpacked(kind: str, state: bytes) -> TrainedStreams:
    meta, arrays = unpack("trained_streams", _VERSION, state)
    samples: dict[str, Floats] = {}
    categories: dict[str, Floats] = {}
    for name, array in arrays.items():
        of, _, stream = name.partition(":")
        if of == "counts":
            categories[stream] = array
            continue
        samples[stream] = array
        check(array, stream, (len(array),), _FLOATS)
        if len(array) < FEWEST or not usable(array).all():
            raise StateError(f"{stream}: expected {FEWEST} usable values or more")
    found = TrainedStreams(
        int(meta["width"]), bytes(meta["transform"]), samples, categories, int(meta["population"])
    )
    if found.population < FEWEST or not set(categories) <= set(samples):
        raise StateError(f"{kind}: {found.population} rows, categories {sorted(categories)}")
    for stream, counts in categories.items():
        if not training_reference.is_counted(counts):
            raise StateError(f"{stream}: counts of shape {counts.shape} or of other values")
    transform = EmbeddingStreams() if kind == "embedding" else LogitStreams()
    transform.restore_steady(found.transform)
    check_learnt(transform.warm_up)
    if transform.warm_up.width != found.width or transform.warm_up.reference is None:
        raise StateError(f"{kind}: a map of {transform.warm_up.width} coordinates")
    return found


def _check_scores(state: bytes, classes: int) -> bytes:
    _, arrays = unpack("adversarial_steady", 1, state)
    for name, shape in (("mean", (classes, classes)), ("whitening", (classes, classes))):
        check(arrays[name], name, shape, _FLOATS)
    check(arrays["seen"], "seen", (classes,), np.dtype(np.int64))
    for name in ("margin", "logit_gaussian"):
        check(arrays[name], name, (len(arrays[name]),), _FLOATS)
    return state


@training_reference.remembered
def read(file: Path) -> TrainedVectors | None:
    """Return what a reference file has of embeddings and logits; None if it has nothing.

    Raises
    ------
    ConfigError
        The file, or its part, cannot be read.
    """
    part = training_reference.read(file).parts.get(PART)
    if part is None:
        return None
    what = "embeddings and logits"
    with training_reference.reading_part(file, what), reading("trained_vectors"):
        meta, _ = unpack("trained_vectors", _VERSION, part)
        streams: dict[str, TrainedStreams] = {
            kind: _unpacked(kind, meta["streams"][kind])
            for kind in _KINDS
            if kind in meta["streams"]
        }
        scores = meta["scores"]
        if scores is not None:
            scores = _check_scores(scores, streams["logits"].width)
        return TrainedVectors(str(meta["version"]), streams, scores, zlib.crc32(part))
