"""The rows that a model was trained on, as far as a training reference tells: keys of rows, signatures, losses; no row."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..core.batch import EventBatch
from ..core.columns import Floats, Ints, Strings
from ..core.errors import ConfigError, StateError
from ..core.events import ENVIRONMENTS
from ..core.snapshot import pack, reading, unpack
from ..detectors.coincidence import Law
from ..detectors.fingerprints import Fingerprints
from ..detectors.membership import losses
from ..detectors.served_counts import NONE, UNKNOWN
from ..detectors.signatures import Signatures
from . import training_reference
from .class_numbers import difference
from .images import Images, vectors_of
from .model_settings import DriftSettings
from .score_columns import ScoreColumns

ROWS: Final = "rows"
EMBEDDINGS: Final = "embeddings"
IMAGES: Final = "images"
LOSSES: Final = "losses"
"""The parts of a training reference."""
SERVED: Final = tuple(ENVIRONMENTS.index(name) for name in ("production", "shadow"))
"""The environments whose predictions are served; rows of others may well be those of training."""


class MemberLosses(NamedTuple):
    """The losses of rows that were trained on.

    Parameters
    ----------
    kind
        `log` for the log loss of the score of the true class, `zero_one` where rows have no scores, `square` for numbers.
    rows
        How many have one.
    mean
        Their mean.
    below
        How many are the mean at most.
    """

    kind: str
    rows: int
    mean: float
    below: int

    @classmethod
    def of(cls, kind: str, loss: Floats) -> MemberLosses | None:
        """Return it for some losses, NaN for rows that have none; None where no row has one."""
        known = loss[np.isfinite(loss)]
        if not len(known):
            return None
        mean = float(known.mean())
        return cls(kind, len(known), mean, int((known <= mean).sum()))


class RowsOfTables(NamedTuple):
    """Keys of rows, and the features that every row had: a row that lacks one of these is of another kind."""

    fingerprints: Fingerprints
    required: frozenset[str]


class TrainingRows:
    """What is known of the rows of training.

    Parameters
    ----------
    tables
        The keys of their features.
    embeddings
        The signatures of their embeddings.
    images
        Those of their inputs that are images.
    losses
        Their losses.
    checksum
        Of all that.
    """

    def __init__(
        self,
        tables: RowsOfTables | None = None,
        embeddings: Signatures | None = None,
        images: Images | None = None,
        losses: MemberLosses | None = None,
        checksum: int = 0,
    ) -> None:
        self.losses = losses
        self.checksum = checksum
        self._tables = tables
        self._embeddings = embeddings
        self._images = images
        self.laws: dict[str, tuple[Law, int]] = {}
        """By what is looked up, `exact`, `near`, `embedding` and `image`: what is known of chance, and rows for one that is kept."""
        if tables is not None:
            self.laws["exact"] = tables.fingerprints.exact.law, 1
            self.laws["near"] = tables.fingerprints.near.law, 1
        if embeddings is not None:
            self.laws["embedding"] = embeddings.law, embeddings.every
        if images is not None:
            self.laws["image"] = images.signatures.law, images.signatures.every
        self._column = {kind: k for k, kind in enumerate(self.laws)}
        self._asked: tuple[str, ...] | None = None
        self._places: list[int] = []

    def codes(self, batch: EventBatch) -> Ints:
        """Return (n, k) what served rows have met, a column for each of `laws`, as `served_counts` takes it."""
        found = np.full((len(batch), len(self.laws)), UNKNOWN)
        served = batch.environment <= SERVED[-1]
        if self._tables is not None:
            self._look_up(self._tables, batch, served, found)
        if self._embeddings is not None and batch.embedding is not None:
            column = found[:, self._column["embedding"]]
            self._compare(self._embeddings, batch.embedding, served, column)
        if self._images is not None and batch.inputs is not None:
            known, places = self._images.signatures, np.flatnonzero(served)
            places, vectors = vectors_of(batch.inputs, places, self._images.sizes)
            found[places, self._column["image"]] = _coded(known.find(vectors), known.unique)
        return found

    def _look_up(
        self, tables: RowsOfTables, batch: EventBatch, served: NDArray[np.bool_], found: Ints
    ) -> None:
        prints = tables.fingerprints
        values, texts = self._columns(prints, batch)
        whole = served
        for k, name in enumerate(prints.scheme.numbers):
            if name in tables.required:
                there = ~np.isnan(values[:, k])
                if name in prints.scheme.texts:
                    there |= texts[prints.scheme.texts.index(name)].present
                whole = whole & there
        for name, text in zip(prints.scheme.texts, texts, strict=True):
            if name in tables.required and name not in prints.scheme.numbers:
                whole = whole & text.present
        if not whole.any():
            return
        keys = prints.scheme.keys(values, texts)
        for column, index, wanted, places in (
            (0, prints.exact, keys.exact, prints.exact.find(keys.exact)),
            (1, prints.near, keys.near, prints.near.find_near(keys)),
        ):
            looked_up = whole & index.keeps(wanted)
            found[looked_up, column] = _coded(places, index.unique)[looked_up]

    def _columns(self, prints: Fingerprints, batch: EventBatch) -> tuple[Floats, list[Strings]]:
        """Return the (n, k) numbers and the texts that keys are made of."""
        names = prints.scheme.numbers
        if batch.feature_names != self._asked:
            self._asked = batch.feature_names
            at = {name: k for k, name in enumerate(batch.feature_names)}
            self._places = [at.get(name, -1) for name in names]
        if batch.feature_names == names:
            values = batch.features
        elif -1 in self._places:
            values = np.full((len(batch), len(names)), np.nan)
            there = [k for k, place in enumerate(self._places) if place >= 0]
            values[:, there] = batch.features[:, [self._places[k] for k in there]]
        else:
            values = batch.features[:, self._places]
        nothing = Strings.missing(len(batch))
        return values, [batch.texts.get(name, nothing) for name in prints.scheme.texts]

    @staticmethod
    def _compare(
        known: Signatures, vectors: Floats, served: NDArray[np.bool_], found: Ints
    ) -> None:
        if vectors.shape[1] != known.width:
            return
        looked_up = served & np.isfinite(vectors).all(axis=1)
        places = known.find(vectors[looked_up])
        found[looked_up] = _coded(places, known.unique)

    def parts(self) -> dict[str, bytes]:
        """Return the parts of a training reference."""
        found: dict[str, bytes] = {}
        if self._tables is not None:
            meta = {
                "required": sorted(self._tables.required),
                "fingerprints": self._tables.fingerprints.snapshot(),
            }
            found[ROWS] = pack("training rows", 1, meta, {})
        if self._embeddings is not None:
            found[EMBEDDINGS] = self._embeddings.snapshot()
        if self._images is not None:
            found[IMAGES] = self._images.snapshot()
        if self.losses is not None:
            found[LOSSES] = pack("training losses", 1, self.losses._asdict(), {})
        return found

    @classmethod
    def of(cls, parts: Mapping[str, bytes]) -> TrainingRows | None:
        """Return what the parts of a training reference tell; None where they tell nothing of rows.

        Raises
        ------
        StateError
            A part is damaged.
        """
        tables = embeddings = images = members = None
        checksum = 0
        for name in (ROWS, EMBEDDINGS, LOSSES, IMAGES):
            checksum = zlib.crc32(parts.get(name, b""), checksum)
        if ROWS in parts:
            meta, _ = unpack("training rows", 1, parts[ROWS])
            with reading("training rows"):
                required = frozenset(msgspec.convert(meta["required"], list[str]))
                tables = RowsOfTables(Fingerprints.restore(meta["fingerprints"]), required)
        if EMBEDDINGS in parts:
            embeddings = Signatures.restore(parts[EMBEDDINGS])
        if IMAGES in parts:
            images = Images.restore(parts[IMAGES])
        if LOSSES in parts:
            meta, _ = unpack("training losses", 1, parts[LOSSES])
            with reading("training losses"):
                members = msgspec.convert(
                    [meta[field] for field in MemberLosses._fields], MemberLosses
                )
                if not 0 <= members.below <= members.rows or members.rows < 1:
                    raise StateError(
                        f"training losses: {members.below} of {members.rows} rows are below the mean"
                    )
        if tables is None and embeddings is None and images is None and members is None:
            return None
        return cls(tables, embeddings, images, members, checksum)


@training_reference.remembered
def read(file: Path) -> TrainingRows | None:
    """Return what a training reference tells of rows; None where it tells nothing.

    Raises
    ------
    ConfigError
        The file cannot be read, or a part of it is damaged.
    """
    try:
        return TrainingRows.of(training_reference.read(file).parts)
    except StateError as error:
        raise ConfigError(
            f"drift.reference {file}: what it holds of training rows is damaged ({error}): write it anew with `tocsin reference`"
        ) from None


def check(settings: Iterable[DriftSettings]) -> None:
    """Read what every reference that is named tells of rows; raises ConfigError as `read` does."""
    for of in settings:
        if of.reference is not None:
            read(of.reference)


def loss_of(
    kind: str, predicted: Floats, label: Floats, scores: Floats, columns: ScoreColumns
) -> Floats:
    """Return the (n,) losses of one kind, NaN where a row has none.

    Parameters
    ----------
    predicted, label
        (n,) classes or numbers.
    scores
        (n, k) as `columns` has them.
    """
    if kind == "square":
        return difference(predicted, label) ** 2
    unknown = np.isnan(label)
    if kind == "zero_one":
        return np.where(unknown | np.isnan(predicted), np.nan, predicted != label)
    if not len(columns) or scores.shape[1] != len(columns):
        return np.full(len(label), np.nan)
    if len(columns) == 1:
        score = scores[:, 0]
        return losses(
            np.where(unknown, np.nan, np.where(label == columns.classes[0], score, 1 - score))
        )
    own = columns.numbers(label)
    return losses(np.where(own < 0, np.nan, scores[np.arange(len(label)), own]))


def _coded(places: Ints, unique: NDArray[np.bool_]) -> Ints:
    if not len(unique):
        return np.full(len(places), NONE)
    return np.where(places < 0, NONE, 2 * places + unique[places])
