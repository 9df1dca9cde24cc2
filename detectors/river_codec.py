"""The state of River's objects as plain values and back, exactly, without pickle; knows no detector."""

from __future__ import annotations

import copyreg
import inspect
from collections import deque
from collections.abc import Callable
from random import Random
from types import MethodType
from typing import Any, Final

import numpy as np
from river._river_rust import drift as rust_drift
from river._river_rust import stats as rust_stats

from ..core.errors import DetectorError, StateError

_RUST: Final = (rust_drift.AdaptiveWindowing, rust_stats.RsEWMean)
"""What River keeps in Rust. The state these give is complete and exact, but private, unversioned, and
cut bytes end the process: it is only ever read from a checksummed snapshot of the same River version."""

_SCALARS: Final = (type(None), bool, int, float, str, np.float64)
_LISTS: Final[dict[str, Callable[..., Any]]] = {"list": list, "tuple": tuple}


def dump(value: Any) -> Any:
    """Return an object and all it holds as numbers, text, bytes, lists and maps.

    Raises
    ------
    DetectorError
        It holds something that cannot be kept exactly; the message says where and what.

    Notes
    -----
    Kept are numbers, text, None, lists, tuples and deques of them, numpy arrays, `random.Random`,
    the parts that River has in Rust, methods of the object itself, and objects whose whole state is in
    their attributes, as long as none is held in two places.
    """
    return _dump(value, type(value).__name__, value, set())


def _dump(value: Any, path: str, owner: Any, seen: set[int]) -> Any:
    kind = type(value)
    if value is None or kind in (bool, float, str):
        return value
    if kind is int:
        if not -(2**63) <= value < 2**63:
            raise DetectorError(f"{path} cannot be kept: {value} has more than 64 bits")
        return value
    if kind is np.float64:
        return ["float64", float(value)]
    if kind is MethodType and value.__self__ is owner:
        return ["method", value.__name__]
    if id(value) in seen:
        raise DetectorError(f"{path} cannot be kept: it is held in another place too")
    seen.add(id(value))
    if kind in _RUST:
        return ["rust", kind.__name__, bytes(value.__getstate__())]
    if kind is Random:
        version, words, gauss = value.getstate()
        return ["random", version, np.array(words, "<u4").tobytes(), gauss]
    if kind is np.ndarray and value.dtype.kind in "biuf":
        return ["array", value.dtype.str, list(value.shape), value.tobytes()]
    if kind in (list, tuple):
        return [kind.__name__, [_dump_item(item, path) for item in value]]
    if kind is deque:
        return ["deque", value.maxlen, [_dump_item(item, path) for item in value]]
    if not _is_plain(value):
        raise DetectorError(f"{path} cannot be kept: it is a {kind.__module__}.{kind.__qualname__}")
    parts = {k: _dump(part, f"{path}.{k}", value, seen) for k, part in vars(value).items()}
    return ["object", _name(kind), parts]


def _dump_item(item: Any, path: str) -> Any:
    if not isinstance(item, _SCALARS):
        raise DetectorError(f"{path} cannot be kept: it holds a {type(item).__name__}")
    return _dump(item, path, None, set())


def _is_plain(value: Any) -> bool:
    """Return whether an object's attributes are its whole state."""
    kind = type(value)
    ordinary = getattr(kind, "__getstate__", None) is object.__getstate__
    if not ordinary or not hasattr(value, "__dict__"):
        return False
    try:  # how Python itself would take it apart
        make, made_of, state, *items = value.__reduce_ex__(2)
    except (TypeError, ValueError):
        return False
    return (
        make is copyreg.__newobj__  # type: ignore[attr-defined]
        and made_of == (kind,)
        and (state is None or isinstance(state, dict))
        and not any(items)
    )


def load(target: Any, saved: Any) -> None:
    """Put what `dump` gave into a fresh object of the same class, made with the same parameters.

    Raises
    ------
    StateError
        It is of another class, other parameters or another layout; the target is then of no use.
    """
    kind = type(target)
    match saved:
        case ["object", str(name), dict(parts)] if name == _name(kind):
            pass
        case _:
            raise StateError(f"expected the state of {_name(kind)}, found {_told(saved)}")
    attributes = vars(target)
    if parts.keys() != attributes.keys():
        names = ", ".join(sorted(parts.keys() ^ attributes.keys()))
        raise StateError(f"the state of {_name(kind)} was kept with other attributes: {names}")
    for key in inspect.signature(kind).parameters.keys() & parts.keys():
        if isinstance(attributes[key], _SCALARS) and parts[key] != attributes[key]:
            raise StateError(
                f"the snapshot was taken with {key}={parts[key]}, this has {attributes[key]}"
            )
    for key, part in parts.items():
        attributes[key] = _load(attributes[key], part, f"{_name(kind)}.{key}")


def _load(old: Any, saved: Any, path: str) -> Any:
    """Return what takes the place of `old`: itself, brought to the saved state, or a new value."""
    kind = type(old)
    match saved:
        case None | bool() | int() | float() | str() if isinstance(old, _SCALARS):
            return saved
        case ["float64", float(number)] if isinstance(old, _SCALARS):
            return np.float64(number)
        case ["method", str(name)] if kind is MethodType and old.__name__ == name:
            return old
        case ["rust", str(name), bytes(state)] if kind in _RUST and kind.__name__ == name:
            old.__setstate__(state)
            return old
        case ["random", 3, bytes(words), float() | None as gauss] if kind is Random:
            return _random(old, words, gauss, path)
        case ["array", str(dtype), list(shape), bytes(state)] if kind is np.ndarray:
            return np.frombuffer(state, dtype).reshape(shape).copy()
        case [str(name), list(items)] if _LISTS.get(name) is kind:
            return _LISTS[name](_load(None, item, path) for item in items)
        case ["deque", int() | None as room, list(items)] if kind is deque and old.maxlen == room:
            return deque((_load(None, item, path) for item in items), room)
        case ["object", *_]:
            load(old, saved)
            return old
        case _:
            raise StateError(f"{path} is a {kind.__name__}, the snapshot has {_told(saved)}")


def _random(old: Random, words: bytes, gauss: float | None, path: str) -> Random:
    try:
        old.setstate((3, tuple(np.frombuffer(words, "<u4").tolist()), gauss))
    except ValueError as error:
        raise StateError(f"{path} cannot go on from the snapshot: {error}") from None
    return old


def _name(kind: type[Any]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _told(saved: Any) -> str:
    """Return what a saved part is, in words, without its values."""
    match saved:
        case ["object", str(name), *_]:
            return name
        case [str(tag), *_]:
            return f"a {tag}"
        case _:
            return f"a {type(saved).__name__}"
