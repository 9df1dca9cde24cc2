"""Names the uses of modules that are used several times in a pass: after other layers, or again after the same one."""

from __future__ import annotations

from threading import get_ident
from typing import Final, NamedTuple

from .hooks import in_backward

_MOST: Final = 64
"""Uses of a module after one layer that have names of their own, those of a loop without layers are together from there on (chosen)."""


class Use(NamedTuple):
    """One use of a module in a pass."""

    name: str
    last: bool  # whether units are the last dimension of what the layer before it gave, else dimension 1


class _Latest(NamedTuple):
    """The layer that was seen last, and how often each module was used since."""

    layer: str
    last: bool
    since: dict[str, int]


class Uses:
    """Names uses by the order in which they were seen first in the run: `relu`, `relu#2`, `relu#3`.

    Notes
    -----
    A use is known by the layer that was seen last before it, and by how often the module was used since. So what follows one layer in each step of a
    sequence, for each of two inputs, or in some passes only, has one name; and nothing grows with the passes of a batch.

    Examples
    --------
    >>> uses = Uses()
    >>> for layer in ("conv1", "conv2", "conv1", "conv2"):
    ...     uses.come_to(layer, last=False)
    ...     print(uses.of("relu").name)
    relu
    relu#2
    relu
    relu#2
    """

    def __init__(self) -> None:
        self._named: dict[tuple[str, str, int], Use] = {}
        self._names: dict[str, int] = {}  # how many a module has
        self._latest: dict[int, _Latest] = {}  # by thread: `DataParallel` has one for each device
        self._forward: set[str] = set()  # what ran in a forward pass of this batch

    def come_to(self, layer: str, *, last: bool) -> None:
        """Take note that a layer has run, or, of the model's inputs, that a pass begins."""
        self._latest[get_ident()] = _Latest(layer, last, {})

    def of(self, module: str) -> Use:
        """Return which use this is, and count it."""
        latest = self._latest.setdefault(get_ident(), _Latest("", False, {}))
        again = latest.since[module] = min(latest.since.get(module, 0) + 1, _MOST)
        key = module, latest.layer, again
        if key not in self._named:
            number = self._names[module] = self._names.get(module, 0) + 1
            self._named[key] = Use(f"{module}#{number}" if number > 1 else module, latest.last)
        return self._named[key]

    def is_again(self, module: str) -> bool:
        """Return whether the backward pass runs a module once more that has run in the forward pass: it has been looked at there.

        Reentrant checkpoints of activations run the forward pass without gradients, in which nothing is seen, and then it is not again.
        """
        if in_backward():
            return module in self._forward
        self._forward.add(module)
        return False

    def end_batch(self) -> None:
        """Begin a batch: of a model that is not called itself, but only its parts, no pass begins."""
        self._latest, self._forward = {}, set()
