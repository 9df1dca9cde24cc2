"""A data loader that passes its batches through, tells of each which samples it is made of, and looks at them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, Subset

from ..core.columns import Floats, Ints
from .answers import Reader
from .audit import Model, audit
from .batch import BatchInfo, attribute_of, marked
from .duplicates import Read, across
from .finding import KINDS, QUARANTINED, Finding, report
from .inspection import Inspection
from .label_doubt import LabelDoubt
from .loop import logits_of
from .parts import Part, part_of, parts, rows_of_item
from .pictures import page
from .recording import Recorder, Tasks, recording
from .splits import Unreadable, can_be_read, page_reader, reader, rows_of
from .targets import Targets

_log = logging.getLogger(__name__)

_ASKS: Final = "_check_dataloader_iterable"
"""The function by which Lightning sees whether there is an iterator, which it then drops; it does not ask a `DataLoader`."""
_DEEPEST: Final = 4  # parts of parts of a batch, of which an object may be its own; chosen
_UNKNOWN: Final = 0.5
"""Of the samples of an iterable data set that were observed in an epoch, above which a warning says that they are not known again (chosen)."""


class WatchedLoader:
    """Wraps a data loader: the same batches, in the same order, of the same random numbers, and each knows its samples.

    A batch has two attributes more, `index`, its number in the epoch, and `samples`, the (n,) int64 indices of its
    samples in the data set (of an iterable one their numbers in the order of arrival). It unpacks, is indexed and is a
    list, tuple, named tuple, dict or tensor as before. What can carry no attributes is passed through, and `last` tells of it.

    Parameters
    ----------
    loader
        Any `DataLoader`: of a map or an iterable data set, with workers that persist or not, with a sampler, batch
        sampler or collate function of one's own, without batches (`batch_size=None`), with pinned memory, `in_order` or not.
    inputs, labels
        How they are found in a batch: a key, a place, or a function of the batch; None for the usual ones, see `parts`.
    value_range
        (low, high), the range of inputs; None to take it from the bulk of what comes.
    references
        Other splits by name, `{"validation": data_set}`, that should have no sample in common with this one: data sets
        whose samples come with their inputs first (or under the usual names), (n, ...) tensors of inputs, or loaders, of which the
        data set and the collate function are taken; samples of a data set that torch's default cannot join are joined as this loader's
        are. They are read when findings are asked for.
    watch
        Whether batches are looked at, or only numbered.

    Raises
    ------
    TypeError
        Something that is no `DataLoader`.
    ValueError
        A range whose low end is not below its high one; a part that batches do not have.

    Notes
    -----
    What the sampler gives is written down on its way to the workers; data set, collate function and workers are the
    loader's own. All other attributes are the loader's: `watched.sampler.set_epoch(3)` works.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from tocsin.training import WatchedLoader
    >>> inputs, labels = torch.arange(6.0).view(6, 1), torch.tensor([0, 1, 0, 1, 0, 1])
    >>> for batch in WatchedLoader(DataLoader(TensorDataset(inputs, labels), batch_size=4)):
    ...     x, y = batch
    ...     print(batch.index, batch.samples, tuple(x.shape))
    0 [0 1 2 3] (4, 1)
    1 [4 5] (2, 1)
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        *,
        inputs: Part = None,
        labels: Part = None,
        value_range: tuple[float, float] | None = None,
        references: Mapping[str, Any] | None = None,
        watch: bool = True,
    ) -> None:
        if not isinstance(loader, DataLoader):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"expected a torch.utils.data.DataLoader, got {type(loader).__name__}; wrap the data in one"
            )
        if value_range is not None and not value_range[0] < value_range[1]:
            raise ValueError(f"value_range must be (low, high) with low < high, got {value_range}")
        self.loader = loader
        self.epoch = -1
        """The epoch that is going on, counted from 0; -1 before the first."""
        self.last: BatchInfo | None = None
        """Where the latest batch comes from."""
        self._recording, self._log = recording(loader)
        self._next_epoch = 0
        self._references = dict(references or {})
        self._parts = inputs, labels
        is_iterable = isinstance(loader.dataset, IterableDataset)
        self._inspection: Inspection | None = None
        if watch:
            self._inspection = Inspection(inputs, labels, value_range, is_iterable=is_iterable)
        self._is_open = False
        self._is_said = False  # that nothing is known of samples
        self._are_doubts_said = False  # that samples of an iterable data set are not known again
        inspection = self._inspection
        self._doubt = LabelDoubt(inspection.first_numbers if inspection and is_iterable else None)
        self._audited: list[Finding] = []
        self._leaks: dict[str, tuple[int, list[Finding]]] = {}

    def __iter__(self) -> Iterator[Any]:
        if sys._getframe(1).f_code.co_name == _ASKS:
            return iter(())  # nothing is drawn, and no epoch begun, as where it has a DataLoader
        kept = self.loader._iterator  # of persistent workers, begun before the loader was wrapped
        if kept is not None and not isinstance(kept._index_sampler, Recorder):
            kept._index_sampler = Recorder(kept._index_sampler, self._log)
        batches = iter(self._recording)
        self._close()
        self._doubt.flush()
        self.epoch, self._next_epoch = self._next_epoch, self._next_epoch + 1
        return _Epoch(self, batches, self.epoch)

    def __len__(self) -> int:
        return len(self._recording)

    def __getstate__(self) -> dict[str, Any]:
        # A class that is made as it is needed cannot be named in a file, and is made anew.
        return {k: v for k, v in vars(self).items() if k not in {"_recording", "_log"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._recording, self._log = recording(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # while it is copied
            raise AttributeError(name)
        return getattr(self.loader, name)

    def look(self) -> None:
        """Go through the data once without training: what findings need, before the first epoch.

        The loader draws its random numbers, as in an epoch.
        """
        for _ in self:
            pass

    def observe(
        self, outputs: Any, batch: Any, criterion: Callable[..., Any] | None = None
    ) -> None:
        """Take what a model made of a batch, which tells of doubtful labels; call it where the loss is known.

        Parameters
        ----------
        outputs
            (n, k) logits, of two classes also (n,) or (n, 1), or what has them as `logits` or first.
        batch
            A batch of this loader. One that carries no samples is taken to be the latest.
        criterion
            Where labels are 0 and 1 as floating numbers: `nn.BCEWithLogitsLoss()` says that they are classes, `nn.BCELoss()` that outputs are probabilities.

        Raises
        ------
        ValueError
            No logits or labels, not one for each sample, or labels that are no classes.
        """
        look = self._watching()
        samples = attribute_of(batch, "samples")
        if not isinstance(samples, np.ndarray):
            samples = np.empty(0, np.int64) if self.last is None else self.last.samples
        _, labels = parts(batch, look.inputs, look.labels)
        is_sample = labels is None and self.loader.batch_sampler is None and len(samples) == 1
        if is_sample:
            _, labels = parts(batch, look.inputs, look.labels, is_sample=True)
        if labels is None:  # of two classes they may be floating numbers
            labels = Targets().of(batch) if look.labels is None else part_of(batch, look.labels)
        if is_sample:
            logits = logits_of(outputs)
            outputs = logits if logits is None or logits.ndim > 1 else logits.reshape(1, -1)
            labels = labels if labels is None or labels.ndim else labels.reshape(1)
        with torch.no_grad():
            answers = None
            if labels is not None:
                answers = Reader(criterion, Targets()).read(outputs, [None, labels])
            if answers is None:
                shapes = [
                    None if of is None else tuple(of.shape) for of in (logits_of(outputs), labels)
                ]
                raise ValueError(
                    f"expected (n, k) logits and (n,) labels, whole numbers each, found {shapes[0]} and {shapes[1]}; say where labels are with "
                    "labels=, or do without observe"
                )
            self._doubt.take(answers, samples)

    def suspicion(self) -> Floats:
        """Return the (n,) mean loss of each sample of the data set over the times that it was observed, NaN for never; in nats.

        The higher, the more likely its label is wrong. Of an iterable data set samples have the numbers of the epoch in which they came first,
        and there are as many as came; those that are not known again by their inputs in a later epoch count no more than once.
        """
        data: Any = self.loader.dataset
        is_iterable = isinstance(data, IterableDataset)
        return self._doubt.suspicion(None if is_iterable else len(data))

    def audit(self, model: Model, *, most: int | None = None) -> list[Finding]:
        """Look at the data set with a model that has learnt it: for backdoor triggers, and for inputs unusual to the model.

        Read are the data set and the first of `references`, as they are without training: nothing is drawn from the
        generators, and the model is left as it is, a copy of it is used. What is found stays among the findings until the next audit.

        Parameters
        ----------
        model
            A classifier of inputs as the loader gives them; or a function of (n, ...) inputs that returns (n, k) logits.
        most
            So many samples, drawn at random, are looked at; None for all.

        Raises
        ------
        TypeError
            An iterable data set, or one without batches, whose samples cannot be read again; a module that cannot be copied, or that takes more than the inputs.
        ValueError
            No inputs or labels, no logits, or of pictures logits without a gradient; `most` below 1; the loader was made with `watch=False`.

        Notes
        -----
        Triggers are looked for in pictures, (n, channels, height, width) of 16 x 16 or more, see `triggers.py`: about seven forward passes a
        sample. Adversarial inputs and ones out of distribution, see `unusual.py`, need a reference of 600 samples that the model was not
        trained on, and are best looked for before it has learnt them by heart.
        """
        look = self._watching()
        if not can_be_read(self.loader):
            raise TypeError(
                "samples of an iterable data set, or of a loader without batches, cannot be read again; "
                "give audit a loader of a map data set"
            )
        if most is not None and most < 1:
            raise ValueError(f"most must be 1 sample or more, got {most}")
        reference = next(iter(self._references.items()), None)
        self._audited = audit(model, self.loader, look, reference, most)
        return list(self._audited)

    def findings(self) -> list[Finding]:
        """Return what was found in the samples that have come up to now.

        Raises
        ------
        ValueError
            The loader was made with `watch=False`.
        """
        look = self._watching()
        try:
            return self._found(look, reader(self.loader, look))
        except Unreadable:
            return self._found(look, None)

    def _found(self, look: Inspection, read: Read | None) -> list[Finding]:
        """Return what was found, where samples are read once more or not."""
        found = look.findings(read)
        for name, split in self._references.items():
            seen, leaks = self._leaks.get(name, (-1, []))
            if (
                seen != look.contents.count
            ):  # a reference is read again only if samples are new since
                rows = rows_of(split, look, read, self.loader.collate_fn)
                leaks = across(look.contents, name, *rows)
                self._leaks[name] = look.contents.count, leaks
            found += leaks
        self._doubt.end(
            self.epoch
        )  # trainers fetch as many batches as there are, and never the end
        return [*found, *self._doubt.findings(), *self._audited]

    def report(self, path: str | Path | None = None) -> str:
        """Return the findings as text: a sentence for each, and the first of its samples.

        Parameters
        ----------
        path
            Where to write them as a page of HTML too, which shows the samples: as pictures, or as numbers.

        Raises
        ------
        ImportError
            A page is asked for, and Pillow is not installed.
        """
        look = self._watching()
        found = self.findings()
        if path is not None:
            read = page_reader(self.loader, look, self._references)
            Path(path).write_text(page(found, read), "utf-8", errors="replace")
        text = report(found)
        if look.unread:
            text += (
                f"\n{look.unread:,} batches were not looked at: no inputs, or not one row for each sample; "
                "say where they are with inputs="
            )
        return text

    def quarantine(self, *kinds: str) -> Subset[Any]:
        """Return the data set without the samples that findings name.

        Parameters
        ----------
        kinds
            Of findings; none for those of `finding.QUARANTINED`, which leaves out doubtful labels: many are right, and of
            the samples that teach most.

        Raises
        ------
        TypeError
            An iterable data set, whose samples cannot be chosen.
        ValueError
            A kind that there is not.
        """
        unknown = set(kinds) - set(KINDS)
        if unknown:
            raise ValueError(
                f"no kinds of findings {sorted(unknown)}; there are {', '.join(KINDS)}"
            )
        if isinstance(self.loader.dataset, IterableDataset):
            raise TypeError(
                "samples of an iterable data set cannot be left out by number; leave them out in the data set"
            )
        chosen = kinds or QUARANTINED
        bad = [one.samples for one in self.findings() if one.kind in chosen]
        data: Any = self.loader.dataset
        kept = np.setdiff1d(np.arange(len(data)), np.concatenate([np.empty(0, np.int64), *bad]))
        return Subset(data, kept.tolist())

    def _watching(self) -> Inspection:
        if self._inspection is None:
            raise ValueError("nothing was looked at: the loader was made with watch=False")
        return self._inspection

    def _close(self) -> None:
        """Take note of the end of the epoch that was going on."""
        if self._is_open and self._inspection is not None:
            self._inspection.end(self.epoch)
            self._doubt.end(self.epoch)
            self._say_doubts_are_few()
        self._is_open = False

    def _say_doubts_are_few(self) -> None:
        doubt = self._doubt
        if not self._are_doubts_said and doubt.unknown > _UNKNOWN * doubt.observed:
            self._are_doubts_said = True
            _log.warning(
                "%s of %s samples observed cannot be told by their inputs to be ones of the iterable data set's first epoch, and their numbers mean "
                "others in each, so their labels are not doubted; use a map data set, or do without augmentation, and have inputs on the CPU",
                f"{doubt.unknown:,}", f"{doubt.observed:,}",
            )  # fmt: skip
        doubt.observed = doubt.unknown = 0

    def _say_unknown(self) -> None:
        if not self._is_said:
            self._is_said = True
            _log.warning(
                "a %s does not ask its sampler itself, so nothing is known of samples; wrap a DataLoader",
                type(self.loader).__name__,
            )

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, to whatever of loader, samplers and data set has a `set_epoch`."""
        self._next_epoch = epoch
        inner: Any = self.loader
        sampler, batch_sampler = inner.sampler, inner.batch_sampler
        own: Any = getattr(batch_sampler, "sampler", None)
        told: list[Any] = []
        for part in (inner, batch_sampler, sampler, own, inner.dataset):
            if hasattr(part, "set_epoch") and not any(part is one for one in told):
                part.set_epoch(epoch)
                told.append(part)


class _Epoch(Iterator[Any]):
    """One pass over a watched loader."""

    def __init__(self, watched: WatchedLoader, batches: Any, epoch: int) -> None:
        self._watched = watched
        self._batches = batches
        self._epoch = epoch
        self._count = 0
        self._arrived = 0
        self._is_iterable = isinstance(watched.loader.dataset, IterableDataset)
        self._is_batched = watched.loader.batch_sampler is not None
        own = getattr(batches, "_index_sampler", None)
        self._recorder = own if isinstance(own, Recorder) else None
        self._tasks: Tasks | None = None
        if self._recorder is not None and hasattr(batches, "_task_info"):
            self._tasks = batches._task_info = Tasks(batches._task_info)

    def __len__(self) -> int:
        return len(self._batches)

    def __next__(self) -> Any:
        watched = self._watched
        try:
            batch = next(self._batches)
        except StopIteration:
            if watched.epoch == self._epoch:
                watched._close()
            raise
        number, worker = self._which()
        is_sample = False
        if self._is_iterable:
            size = size_of(batch) or 0 if self._is_batched else rows_of_item(batch, *watched._parts)
            is_sample, size = size is None, 1 if size is None else size
            samples: Ints = np.arange(self._arrived, self._arrived + size)
            self._arrived += size
        else:
            recorder = self._recorder or next(iter(watched._log), None)
            if recorder is None:
                watched._say_unknown()
            found = None if recorder is None else recorder.take(number)
            samples = np.empty(0, np.int64) if found is None else np.atleast_1d(found)
            is_sample = not self._is_batched and found is not None and not found.ndim
        info = BatchInfo(self._epoch, self._count, samples, worker)
        self._count += 1
        watched.last = info
        if watched._inspection is not None:
            watched._is_open = True
            watched._inspection.take(batch, info, is_sample=is_sample)
        return marked(batch, info)

    def _which(self) -> tuple[int, int | None]:
        """Return the number of the batch among those asked for, and its worker."""
        if self._tasks is not None and self._tasks.last is not None:
            return self._tasks.last
        if self._recorder is not None and getattr(self._batches, "_num_workers", 1) == 0:
            return self._recorder.count - 1, None
        return self._count, None  # an iterator of the loader's own: in order, as far as is known


def size_of(batch: Any, depth: int = _DEEPEST) -> int | None:
    """Return the number of samples of a batch: the length of the first tensor or array in it, no deeper than so many of its parts' parts, else of the first list."""
    if isinstance(batch, torch.Tensor | np.ndarray):
        return batch.shape[0] if batch.ndim else None
    if isinstance(batch, dict):
        parts = list(batch.values())
    elif isinstance(batch, list | tuple):
        parts = list(batch)
    else:
        parts = list(getattr(batch, "__dict__", {}).values())
    sizes = (size_of(part, depth - 1) for part in parts if depth)
    found = next((size for size in sizes if size is not None), None)
    if found is not None:
        return found
    return len(batch) if isinstance(batch, list | tuple) else None
