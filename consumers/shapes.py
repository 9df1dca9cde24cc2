"""The shapes of JSON events seen so far: learned from one decoded event, used by `json_kernel`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..core.columns import FLOAT, INTEGER, NULL, TAGS, TEXT, Floats, Ints
from ..core.events import Event, Label
from ..core.json_scan import Path, scalars
from ..core.names import LENGTHS
from ..core.wire import Kind
from .column_kernel import FIELDS, Layout
from .json_kernel import HINTS, SLOTS, Shapes

_MAX_SHAPES: Final = 256  # chosen: a shape is some kB, and trying one that does not fit some 20 ns
_MAX_BYTES: Final = 1 << 16  # larger events are rare, and their cost is not that of the envelope
_MAPS: Final = ("features", "scores", "segments")
_LISTS: Final = ("logits", "embedding")
_FIELD_TAGS: Final[dict[str, tuple[int, ...]]] = {
    "prediction_id": (TEXT,), "model": (TEXT,), "environment": (TEXT,),
    "version": (TEXT, NULL), "client": (TEXT, NULL), "time": (TEXT, NULL),
    "observed_at": (TEXT, NULL), "prediction": TAGS, "label": TAGS,
    "sample_rate": (INTEGER, FLOAT), "revision": (INTEGER,),
    "scores": (NULL,), "logits": (NULL,), "embedding": (NULL,), "segments": (NULL,),
    "input": (NULL,),
}  # fmt: skip
"""What a plain field may hold; the containers here stand for `"logits": null` and the like."""
_ENTRY_TAGS: Final = {
    "scores": (INTEGER, FLOAT), "segments": (TEXT,), "logits": (INTEGER, FLOAT),
    "embedding": (INTEGER, FLOAT),
}  # fmt: skip
"""What the entries of containers may hold; features anything."""
_BOUNDS: Final[dict[str, tuple[float, float]]] = {
    # In characters: within them in bytes is within them in characters.
    **LENGTHS, "sample_rate": (float(np.nextafter(0, 1)), 1.0), "revision": (0.0, 2.0**31 - 1),
}  # fmt: skip
_NO_RULES: Final = np.empty((4, 0))


@dataclass(frozen=True, slots=True)
class Shape:
    """What the scalars of a shape are.

    Parameters
    ----------
    kind
        The kind of record that it was learned from.
    is_label
        Whether its events are labels.
    fields
        Scalar's index by the name of a plain field.
    maps
        Scalars' indices by the entry's name, for each of features, scores and segments.
    lists
        (width,) scalars' indices, for each of logits and embedding that is present.
    """

    kind: Kind
    is_label: bool
    fields: dict[str, int]
    maps: dict[str, dict[str, int]]
    lists: dict[str, Ints]


class ShapeBook:
    """Known shapes and, for each Kafka key, those to try first.

    Nothing that is decoded depends on what this holds; only how fast.
    """

    def __init__(self) -> None:
        self.shapes: list[Shape] = []
        self._literals: list[list[bytes]] = []
        self._known: dict[tuple[Kind, bytes], int] = {}
        self._rules: list[Floats] = []
        self.packed = _pack([], [])
        self.layout = _layout([], [])
        self.hints: Ints = np.full((SLOTS, HINTS), -1, np.int64)

    @property
    def is_label(self) -> NDArray[np.bool_]:
        """(shapes,) whether a shape's events are labels."""
        return np.array([shape.is_label for shape in self.shapes], np.bool_)

    def learn(self, raw: bytes, kind: Kind, event: Event) -> bool:
        """Remember the shape of `raw`, which decoded to `event`; False if that is nothing new."""
        found = _shape_of(raw, kind, event) if len(raw) <= _MAX_BYTES else None
        if found is None:
            return False
        shape, literals = found
        signature = (kind, b"\0".join(literals))
        if signature in self._known:
            return False
        if len(self.shapes) == _MAX_SHAPES:
            self.shapes, self._literals, self._rules, self._known = [], [], [], {}
            self.hints[:] = -1
        self._known[signature] = len(self.shapes)
        self.shapes.append(shape)
        self._literals.append(literals)
        self._rules.append(_rules(shape))
        self.packed = _pack(self.shapes, self._literals)
        self.layout = _layout(self.shapes, self._rules)
        return True


def _pack(shapes: list[Shape], literals: list[list[bytes]]) -> Shapes:
    flat = [literal for of_shape in literals for literal in of_shape]
    end = np.cumsum([len(literal) for literal in flat], dtype=np.int64)
    counts = np.array([len(of_shape) for of_shape in literals], np.int64)
    return Shapes(
        text=np.frombuffer(b"".join(flat) + bytes(8), np.uint8),
        literal_start=end - np.array([len(literal) for literal in flat], np.int64),
        literal_end=end,
        first_literal=np.cumsum(counts) - counts,
        scalars=counts - 1,
        kind=np.array([shape.kind for shape in shapes], np.int64),
    )


def _rules(shape: Shape) -> Floats:
    """Return (4, rules) what the scalars of a shape may be: which one, the bits of its tags, its bounds."""
    rules: list[tuple[int, int, float, float]] = []

    def add(scalar: int, tags: tuple[int, ...], bounds: tuple[float, float]) -> None:
        rules.append((scalar, sum(1 << tag for tag in tags), *bounds))

    for name, scalar in shape.fields.items():
        tags = _FIELD_TAGS[name]
        if name == "label" and shape.is_label:
            tags = tuple(tag for tag in tags if tag != NULL)
        add(scalar, tags, _BOUNDS.get(name, (-np.inf, np.inf)))
    for name, tags in _ENTRY_TAGS.items():
        entries = shape.maps[name].values() if name in _MAPS else shape.lists.get(name, ())
        for scalar in entries:
            add(int(scalar), tags, (-np.inf, np.inf))
    return np.array(rules).reshape(-1, 4).T


def _layout(shapes: list[Shape], rules: list[Floats]) -> Layout:
    fields = []
    for shape in shapes:
        time = shape.fields.get("observed_at" if shape.is_label else "time", -1)
        of = {**shape.fields, "time": time}
        fields.append([of.get(name, -1) for name in FIELDS])
    scalar, tags, low, high = np.concatenate([_NO_RULES, *rules], axis=1)
    return Layout(
        np.array(fields, np.int64).reshape(-1, len(FIELDS)),
        np.cumsum([0] + [of.shape[1] for of in rules]),
        scalar.astype(np.int64), tags.astype(np.int64), low, high,
    )  # fmt: skip


def _shape_of(raw: bytes, kind: Kind, event: Event) -> tuple[Shape, list[bytes]] | None:
    """Return the shape and literals of an event, or None for one whose shape would not be exact."""
    fields: dict[str, int] = {}
    maps: dict[str, dict[str, int]] = {name: {} for name in _MAPS}
    lists: dict[str, list[int]] = {}
    literals: list[bytes] = []
    at = 0
    seen: set[Path] = set()
    for scalar in scalars(raw):
        path = scalar.path
        if path in seen:  # a key twice: the last one counts, which columns cannot tell
            return None
        seen.add(path)
        if path == ("type",):
            continue  # part of the literal: it says what the event is
        index = len(literals)
        literals.append(raw[at : scalar.start])
        at = scalar.end
        if len(path) == 1:
            fields[str(path[0])] = index
        elif path[0] in _MAPS and len(path) == 2:
            maps[str(path[0])][str(path[1])] = index
        elif path[0] in _LISTS and len(path) == 2:
            lists.setdefault(str(path[0]), []).append(index)
        else:  # raw inputs: their bytes are checked by the reference
            return None
    literals.append(raw[at:])
    if not _is_complete(event, fields, maps, lists):
        return None
    arrays = {name: np.array(indices, np.int64) for name, indices in lists.items()}
    return Shape(kind, isinstance(event, Label), fields, maps, arrays), literals


def _is_complete(
    event: Event,
    fields: dict[str, int],
    maps: dict[str, dict[str, int]],
    lists: dict[str, list[int]],
) -> bool:
    """Whether the walk found exactly what the decoder found; escaped names, say, it would not."""
    if not set(fields) <= set(event.__struct_fields__):
        return False
    if isinstance(event, Label):
        return not any(maps.values()) and not lists
    return (
        list(event.features) == list(maps["features"])
        and list(event.scores or ()) == list(maps["scores"])
        and list(event.segments or ()) == list(maps["segments"])
        and len(event.logits or ()) == len(lists.get("logits", ()))
        and len(event.embedding or ()) == len(lists.get("embedding", ()))
    )
