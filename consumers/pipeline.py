"""One partition: records in, alerts and refusals out, state as fields. No I/O, no clock."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from ..core.alert import Alert
from ..core.batch import EventBatch, LabelBatch
from ..core.errors import DecodeError, EventError, SizeError, StateError
from ..core.limits import Limits
from .decode import Decoded, Decoder, Refused
from .model_monitor import ModelMonitor
from .model_settings import ModelSettings
from .records import Partition, Poison, Records
from .refusals import FIELD, UNKNOWN, Refusals
from .series import Fields

_log = logging.getLogger(__name__)

_LETTERS: Final = 1000  # of one record; a million lines of garbage fit into 2 KB
_SEPARATOR: Final = "|"
"""Between a field's name and the model that it is of; a model's name may hold one, a field's not."""


class DeadLetter(NamedTuple):
    """What could not be processed, on its way to the dead letters.

    Parameters
    ----------
    partition, offset, row
        Where it lies; `row` is -1 for a whole record.
    next_offset
        One past the last offset that it covers; more than `offset` + 1 for a broken batch.
    key, value, headers
        As received.
    error
        Why.
    events
        How many events it is about, as far as that is known; of a broken batch its offsets.
    """

    partition: Partition
    offset: int
    row: int
    next_offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    error: EventError
    events: int = 1


class Output(NamedTuple):
    """What some records led to."""

    alerts: list[Alert]
    dead_letters: list[DeadLetter]


class PartitionPipeline:
    """The state of one partition and the step that takes records in.

    Parameters
    ----------
    partition
        Which one.
    settings
        Returns the settings of a model by its name.
    limits
        Bounds on events and on the number of models.
    decoder
        May be shared by partitions: it holds nothing that matters.

    Notes
    -----
    Guarantees: state, alerts and refusals depend on the settings and on the records in their order,
    not on how they were cut into calls. Events are counted once each: records below `position` are
    passed over.
    """

    def __init__(
        self,
        partition: Partition,
        settings: Callable[[str], ModelSettings],
        limits: Limits | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        self.partition = partition
        self.position = 0
        """The offset to go on from."""
        self._settings = settings
        self._limits = limits or Limits()
        self._decoder = decoder or Decoder(self._limits)
        self._models: dict[str, ModelMonitor] = {}
        self._touched: set[str] = set()
        self._refusals = Refusals()
        self._behind: set[str] = set()
        """Models whose series have more to write than one commit takes."""

    def process(self, records: Records | Poison) -> Output:
        """Take records in; return the alerts and refusals."""
        if records.next_offset <= self.position:
            return Output([], [])
        if isinstance(records, Poison):
            self.position = records.next_offset
            letter = _of_poison(records)
            self._refusals.add(UNKNOWN, letter.events)
            return Output([], [letter])
        records = records.since(self.position)
        decoded = self._decoder.decode(records, lambda name: self._settings(name).reads_features)
        letters = [
            DeadLetter(
                self.partition,
                int(records.offsets[refused.record]),
                refused.row,
                int(records.offsets[refused.record]) + 1,
                records.key(refused.record),
                refused.raw,
                records.headers(refused.record),
                refused.error,
                refused.events,
            )
            for refused in _together(records, decoded.refused)
        ]
        known = dict.fromkeys(self._models, (-1, -1))
        alerts, crowded, begun = self._update(records, decoded)
        letters = sorted(letters + crowded, key=lambda letter: (letter.offset, letter.row))
        self._count(letters, known | begun)
        self.position = records.next_offset
        return Output(alerts, letters)

    def _count(self, letters: list[DeadLetter], begun: dict[str, tuple[int, int]]) -> None:
        """Count refused events under their record's key, where a model of that name has begun before them."""
        for letter in letters:
            key = (letter.key or b"").decode(errors="replace")
            is_known = key in begun and begun[key] < (letter.offset, letter.row)
            self._refusals.add(key if is_known else UNKNOWN, letter.events)

    def _update(
        self, records: Records, decoded: Decoded
    ) -> tuple[list[Alert], list[DeadLetter], dict[str, tuple[int, int]]]:
        """Update the models; return alerts, refusals, and the first event of each new model."""
        batches: dict[str, list[EventBatch]] = {}
        labels: dict[str, list[LabelBatch]] = {}
        for batch in decoded.predictions:
            batches.setdefault(batch.model, []).append(batch)
        for label in decoded.labels:
            labels.setdefault(label.model, []).append(label)
        alerts: list[Alert] = []
        crowded: dict[int, DeadLetter] = {}
        begun: dict[str, tuple[int, int]] = {}
        # By the first event, so that which models are one too many does not depend on the cut.
        models = {**batches, **labels}
        for model in sorted(models, key=lambda name: _first(batches, labels, name)):
            found = [*batches.get(model, ()), *labels.get(model, ())]
            if model not in self._models and len(self._models) >= self._limits.models:
                crowded.update(self._crowded(records, found))
                continue
            if model not in self._models:
                begun[model] = _first(batches, labels, model)
                self._models[model] = ModelMonitor(
                    model, self.partition.number, self._settings(model)
                )
            self._touched.add(model)
            alerts += self._models[model].update(batches.get(model, ()), labels.get(model, ()))
        alerts.sort(key=lambda alert: (alert.offset, alert.row, alert.id))
        return alerts, list(crowded.values()), begun

    def _crowded(
        self, records: Records, found: list[EventBatch | LabelBatch]
    ) -> dict[int, DeadLetter]:
        """Return a letter for each record, by its offset: the value is the whole record's."""
        error = SizeError(
            f"the partition already has {len(self._models)} models, limits.models allows no more"
        )
        rows: dict[int, list[int]] = {}
        for batch in found:
            for offset, row in zip(batch.offsets.tolist(), batch.rows.tolist(), strict=True):
                rows.setdefault(offset, []).append(row)
        letters = {}
        for offset, refused in rows.items():
            record = int(records.offsets.searchsorted(offset))
            letters[offset] = DeadLetter(
                self.partition, offset, min(refused), offset + 1, records.key(record),
                records.value(record), records.headers(record), error, len(refused),
            )  # fmt: skip
        return letters

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return the latest figures of models touched since the last `dirty`, `model@environment`; of none those refused, by model."""
        refused = self._refusals.figures()
        found = {} if refused is None else {UNKNOWN: dict(refused)}
        return found | {
            model if environment == "production" else f"{model}@{environment}": figures
            for model in self._touched
            for environment, figures in self._models[model].metrics().items()
        }

    def dirty(self) -> Fields:
        """Return the fields of models touched since the last call, None for those to delete."""
        fields: Fields = {}
        for model in sorted(self._touched):
            fields.update(
                (f"{name}{_SEPARATOR}{model}", state)
                for name, state in self._models[model].dirty().items()
            )
        if (refused := self._refusals.dirty()) is not None:
            fields[f"{FIELD}{_SEPARATOR}"] = refused
        self._behind |= self._touched
        self._touched.clear()
        return fields

    @property
    def is_behind(self) -> bool:
        """Whether a commit would write something although no event has come."""
        return bool(self._behind)

    def series(self) -> dict[str, Fields]:
        """Return what changed of the series of models, as far as one commit takes it; to be called after `dirty`."""
        found = {model: self._models[model].series() for model in sorted(self._behind)}
        self._behind = {name for name in found if self._models[name].performance.is_behind}
        return {model: fields for model, fields in found.items() if fields}

    def restore(self, position: int, fields: dict[str, bytes]) -> list[str]:
        """Go on from stored fields at `position`; return what could not be read and starts clean."""
        self.position = position
        groups: dict[str, dict[str, bytes]] = {}
        for name, state in fields.items():
            field, _, model = name.partition(_SEPARATOR)
            groups.setdefault(model, {})[field] = state
        self._models = {}
        self._touched.clear()
        self._behind.clear()
        self._refusals = Refusals()
        lost = []
        try:
            if (refused := groups.pop(UNKNOWN, {}).get(FIELD)) is not None:
                self._refusals.restore(refused)
        except StateError as error:
            lost.append(str(error))
        for model, of_model in sorted(groups.items()):
            monitor = ModelMonitor(model, self.partition.number, self._settings(model))
            lost += [f"{model}: {problem}" for problem in monitor.restore(of_model)]
            self._models[model] = monitor
        self._behind = set(self._models)
        self._touched |= set(self.told_otherwise)
        return lost

    @property
    def told_otherwise(self) -> list[str]:
        """Models whose series may have rows of other settings than those of now; see `forget`."""
        return [name for name, model in self._models.items() if model.is_told_otherwise]

    def forget(self, model: str, written: Iterable[str]) -> None:
        """Delete, of the rows of a model's series that this partition has written, those that no settings of now tell of.

        With the next commit, which is the first one after `restore`.
        """
        self._models[model].performance.forget(written)
        self._models[model].is_told_otherwise = False


def _first(
    batches: dict[str, list[EventBatch]], labels: dict[str, list[LabelBatch]], model: str
) -> tuple[int, int]:
    return min(
        (int(batch.offsets[0]), int(batch.rows[0]))
        for batch in (*batches.get(model, ()), *labels.get(model, ()))
    )


def _together(records: Records, refused: Sequence[Refused]) -> list[Refused]:
    """Put the refusals of a record that has very many into one, of the whole record."""
    counts = Counter(one.record for one in refused)
    found: list[Refused] = []
    told: set[int] = set()
    for one in refused:
        if counts[one.record] <= _LETTERS:
            found.append(one)
        elif one.record not in told:
            told.add(one.record)
            error = DecodeError(
                f"{counts[one.record]} events of this record were refused, the first because: "
                f"{one.error}"
            )
            events = counts[one.record]
            found.append(Refused(one.record, -1, records.value(one.record), error, events))
    return found


def _of_poison(poison: Poison) -> DeadLetter:
    return DeadLetter(
        poison.partition, poison.first_offset, -1, poison.next_offset, None, poison.raw, [],
        poison.error, poison.next_offset - poison.first_offset,
    )  # fmt: skip
