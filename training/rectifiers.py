"""Which rectifiers gave what goes into a layer, those too that are functions: the graph that gradients go back through says what made a tensor."""

from __future__ import annotations

import re
from math import prod
from typing import Any, Final

import torch
from torch.autograd.graph import Node

_DEEP: Final = 10
"""Steps back from what goes into a layer: pooling, dropout and changes of shape are five (chosen)."""
_LOOKED_AT: Final = "tocsin looked at it"
"""What a node's metadata has where somebody has told of its units: it is kept as long as the graph, and keeps nothing itself."""

_RECTIFIERS: Final = frozenset(["ReluBackward0", "ThresholdBackward0"])
_LEAST: Final = {"HardtanhBackward0": "_saved_min_val", "ClampBackward1": "_saved_min", "ClampMinBackward0": "_saved_min"}  # fmt: skip
"""Functions that are rectifiers where the number that they keep is 0: ReLU6 is a Hardtanh, and what keeps a tensor has another number at its end."""

# What a function gives is zero where what it is given is: of the only input, or the first; of all of them; of any of them.
_ALONG: Final = re.compile(
    r"(View|UnsafeView|ReshapeAlias|Squeeze|Unsqueeze|Transpose|T|Permute|Expand|Clone|ToCopy|Slice|Select|Index|IndexSelect|Split|SplitWithSizes|Unbind"
    r"|Alias|Repeat|Roll|Flip|Unfold|Im2Col|PixelShuffle|PixelUnshuffle|ConstantPadNd|(Reflection|Replication)Pad[123]D|(Adaptive)?(Avg|Max)Pool[23]D"
    r"(WithIndices)?|Upsample\w+|Mean|Sum|Amax|Max|Pow|Neg|Div|NativeDropout|BackwardHookFunction)Backward\d*"
)
_ALL: Final = re.compile(r"(Add|Cat|Stack)Backward\d*")
_ANY: Final = re.compile(r"MulBackward\d*")  # dropout on a CPU, and gates
_FLAT: Final = re.compile(r"(View|UnsafeView|ReshapeAlias)Backward\d*")
_SHAPED: Final = re.compile(r"(Mul|NativeDropout|ToCopy|Clone|BackwardHookFunction)Backward\d*")
"""Functions that give what is shaped as their first input: dropout, most of all."""


def look_at(output: torch.Tensor) -> None:
    """Take note that somebody tells of the units of what a rectifier gave."""
    if output.grad_fn is not None:
        _notes_of(output.grad_fn)[_LOOKED_AT] = True


def is_rectified(tensor: torch.Tensor) -> bool:
    """Return whether units of a tensor are zero where those of rectifiers are of which nobody has told; from now on somebody has.

    Nothing is read from the device. False of what needs no gradients, as inputs do not, and of what part came from elsewhere.

    Examples
    --------
    >>> layer, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    >>> rectified = torch.relu(layer(x)).reshape(-1)
    >>> is_rectified(torch.relu(x)), is_rectified(layer(x)), is_rectified(rectified), is_rectified(rectified)
    (False, False, True, False)
    """
    found = _behind(tensor.grad_fn, 0, {})
    if not found or any(_LOOKED_AT in _notes_of(node) for node in found):
        return False
    for node in found:
        _notes_of(node)[_LOOKED_AT] = True
    return True


def by_channel(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return (rows, channels, pixels) values of (rows, columns) that were pictures before they were flattened; None of all else.

    A column of a flattened picture is no unit: at its border there may be nothing in any picture.

    Examples
    --------
    >>> flat = torch.flatten(torch.ones(2, 3, 4, 4, requires_grad=True), 1)
    >>> by_channel(2 * flat).shape, by_channel(flat[:, 1:])
    (torch.Size([2, 3, 16]), None)
    """
    node: Any = tensor.grad_fn
    for _ in range(_DEEP if tensor.ndim == 2 else 0):
        if node is None:
            break
        if _FLAT.fullmatch(node.name()):
            sizes: tuple[int, ...] = getattr(node, "_saved_self_sym_sizes", ())
            if len(sizes) > 2 and tensor.shape == (sizes[0], prod(sizes[1:])):
                return tensor.detach().reshape(sizes[0], sizes[1], -1)
            break
        if not _SHAPED.fullmatch(node.name()):
            break
        node = node.next_functions[0][0]
    return None


def _behind(node: Node | None, steps: int, known: dict[Node, list[Node]]) -> list[Node]:
    """Return the rectifiers by which what a node gave is zero; empty where it need not be zero with any."""
    if node is None or steps > _DEEP:
        return []
    if node not in known:
        known[node] = []
        known[node] = _through(node, steps, known)
    return known[node]


def _through(node: Node, steps: int, known: dict[Node, list[Node]]) -> list[Node]:
    name = node.name()
    if _rectifies(node, name):  # of one after another each counts: they have the same dead units
        return [node, *_first(node, steps, known)]
    if _ALONG.fullmatch(name):
        return _first(node, steps, known)
    is_any, found = _ANY.fullmatch(name) is not None, list[Node]()
    if is_any or _ALL.fullmatch(name):
        for before, _ in node.next_functions:
            more = _behind(before, steps + 1, known)
            if not more and not is_any:
                return []
            found += more
    return list(dict.fromkeys(found))


def _first(node: Node, steps: int, known: dict[Node, list[Node]]) -> list[Node]:
    before = node.next_functions
    return _behind(before[0][0], steps + 1, known) if before else []


def _rectifies(node: Any, name: str) -> bool:
    return name in _RECTIFIERS or (name in _LEAST and getattr(node, _LEAST[name], None) == 0)


def _notes_of(node: Any) -> dict[str, Any]:
    notes: dict[str, Any] = node.metadata  # an attribute, though torch's types say a method
    return notes
