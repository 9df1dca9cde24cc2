"""Looking at a data set with a model that was trained on it: backdoor triggers, adversarial inputs, and ones out of distribution."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from ..core.columns import Floats, Ints
from .finding import TRIGGER, Finding, counted
from .inspection import Inspection
from .layers import bare
from .loop import logits_of
from .splits import Collate, batches_of, samples_of
from .triggers import POOL, TriggerSearch, can_be_searched
from .untouched import same_randomness, untouched
from .unusual import LEAST, MOST, unusual

Model = nn.Module | Callable[[torch.Tensor], Any]
_NUMBERS: Final = 1 << 22  # of inputs that the model is given at once, at the most
_ROWS: Final = 250


class Pass:
    """A model as it is now, which says what it makes of inputs; the model itself is not touched.

    Parameters
    ----------
    model
        A module, of which a copy in eval mode is made; or a function of inputs.

    Raises
    ------
    TypeError
        A module that cannot be copied, or that takes more than the inputs.
    """

    def __init__(self, model: Model) -> None:
        self.device: torch.device | None = None
        self._model = model
        self._embedding: torch.Tensor | None = None
        if not isinstance(model, nn.Module):
            return
        inner = bare(model)
        try:
            self._model = copy.deepcopy(inner).eval().requires_grad_(False)
        except Exception as error:
            raise TypeError(
                f"{type(inner).__name__} cannot be copied ({error}); give a function of inputs that calls it in eval mode"
            ) from error
        first = next(iter([*self._model.parameters(), *self._model.buffers()]), None)
        self.device = None if first is None else first.device
        layers = [layer for layer in self._model.modules() if isinstance(layer, nn.Linear)]
        if layers:
            layers[-1].register_forward_pre_hook(self._see)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the (n, k) logits of inputs.

        Raises
        ------
        ValueError
            The model gives something else.
        """
        self._embedding = None
        try:
            logits = logits_of(self._model(inputs))
        except TypeError as error:
            raise TypeError(
                f"the model cannot be called with the inputs alone ({error}); give a function of (n, ...) inputs that returns its logits"
            ) from error
        if logits is None or logits.ndim != 2 or logits.shape[1] < 2 or len(logits) != len(inputs):
            found = None if logits is None else tuple(logits.shape)
            raise ValueError(
                f"expected (n, k) logits of {len(inputs)} inputs, k > 1, got {found}; give a function that returns them"
            )
        return logits

    @torch.no_grad()
    def outputs(self, inputs: torch.Tensor) -> tuple[Floats, Floats | None]:
        """Return the (n, k) logits, and the (n, d) input of the last linear layer; None if there is none."""
        logits = self(inputs).double().cpu().numpy()
        seen = self._embedding
        if seen is None or seen.ndim != 2 or len(seen) != len(logits):
            return logits, None
        return logits, seen.double().cpu().numpy()

    def _see(self, _layer: nn.Module, given: tuple[Any, ...]) -> None:
        self._embedding = given[0].detach()


def audit(
    model: Model,
    loader: DataLoader[Any],
    look: Inspection,
    reference: tuple[str, Any] | None,
    most: int | None,
) -> list[Finding]:
    """Return what a model finds in the data set that a loader reads.

    Parameters
    ----------
    reference
        The name of a split that the model was not trained on, and the split; None for none.
    most
        So many samples, drawn at random, are looked at; None for all.

    Raises
    ------
    ValueError
        No inputs or labels, no logits, or logits without a gradient.
    """
    data: Any = loader.dataset
    if not len(data):
        return []
    if not isinstance(model, nn.Module):
        return _found(model, loader, look, reference, most)
    # What was put around the forward pass of a module may call the module itself, in its copy too.
    with untouched(model, ()):
        return _found(model, loader, look, reference, most)


def _found(
    model: Model,
    loader: DataLoader[Any],
    look: Inspection,
    reference: tuple[str, Any] | None,
    most: int | None,
) -> list[Finding]:
    apply = Pass(model)
    data: Any = loader.dataset
    rng = np.random.default_rng(0)
    order = rng.permutation(len(data))
    samples = np.sort(order if most is None else order[:most])
    with same_randomness(data, reference, model):
        first, labels = _read(loader, look, rng.permutation(samples)[:POOL], apply.device)
        first = _real(first)
        search = TriggerSearch(apply, first, labels) if can_be_searched(first) else None
        rows = max(1, min(_ROWS, _NUMBERS // max(1, first[0].numel())))
        made: list[tuple[Floats, Floats | None]] = []
        for part in np.array_split(samples, -(-len(samples) // rows)):
            x, y = _read(loader, look, part, apply.device)
            made.append(apply.outputs(x))
            if search is not None:
                search.take(part, _real(x), y)
        found: list[Finding] = []
        if search is not None:
            found = _triggers(
                search, lambda part: _real(_read(loader, look, part, apply.device)[0])
            )
        if reference is not None:
            name, split = reference
            others = _joined(list(_outputs_of(apply, split, look, rows, loader.collate_fn)))
            own = _joined(made)
            known, fine = _finite(others), _finite(own)
            if len(known) >= LEAST and len(fine):
                kept = rng.permutation(known)[:MOST]
                found += unusual(name, _rows(others, kept), samples[fine], *_rows(own, fine))
        return found


def _triggers(search: TriggerSearch, read: Callable[[Ints], torch.Tensor]) -> list[Finding]:
    found: list[Finding] = []
    for one in search.triggers(read):
        text = (
            f"{counted(len(one.samples))} of class {one.label} with a part of {one.side} x {one.side} that makes the model take "
            f"{one.success:.0%} of other samples for class {one.label}, mostly at row {int(np.median(one.rows))}, "
            f"column {int(np.median(one.columns))}"
        )
        side = np.full(len(one.samples), one.side)
        part = np.stack([one.rows, one.columns, side], 1)
        found.append(Finding(TRIGGER, text, one.samples, part=part))
    return found


def _read(
    loader: DataLoader[Any], look: Inspection, samples: Ints, device: torch.device | None
) -> tuple[torch.Tensor, Ints]:
    x, y = samples_of(loader, look, samples)
    if x is None or y is None or len(x) != len(samples):
        raise ValueError(
            "found no inputs and label for each sample; say where they are with inputs= and labels="
        )
    return x.to(device), y.cpu().numpy().astype(np.int64)


def _outputs_of(
    apply: Pass, split: Any, look: Inspection, rows: int, collate: Collate
) -> Iterator[tuple[Floats, Floats | None]]:
    for x in batches_of(split, look, collate):
        for part in torch.split(x, rows):
            yield apply.outputs(part.to(apply.device))


def _real(x: torch.Tensor) -> torch.Tensor:
    """Return inputs as numbers that have a gradient, where they are bytes."""
    return x if x.is_floating_point() else x.float()


def _joined(made: list[tuple[Floats, Floats | None]]) -> tuple[Floats, Floats | None]:
    if not made:
        return np.empty((0, 0)), None
    logits, embedding = zip(*made, strict=True)
    known = [one for one in embedding if one is not None]
    return np.concatenate(logits), np.concatenate(known) if len(known) == len(made) else None


def _finite(made: tuple[Floats, Floats | None]) -> Ints:
    """Return the rows whose numbers are all finite: what is made of NaN is a finding already, and no reference."""
    fine = np.ones(len(made[0]), np.bool_)
    for values in made:
        if values is not None:
            fine &= np.isfinite(values).all(axis=1)
    return np.flatnonzero(fine)


def _rows(made: tuple[Floats, Floats | None], kept: Ints) -> tuple[Floats, Floats | None]:
    logits, embedding = made
    return logits[kept], None if embedding is None else embedding[kept]
