"""Detectors by name, with their parameters as text: `adwin`, `adwin:delta=0.01,clock=1`, `package.module:Class`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

from .base import Detector

_OWN: Final = {
    "adwin": "adwin:Adwin",
    "dummy": "dummy:Dummy",
    "e_detector": "e_detector:EDetector",
    "natural_size": "natural_size:NaturalSize",
    "page_hinkley": "page_hinkley:PageHinkley",
    "stream_monitor": "stream_monitor:StreamMonitor",
}
"""Module and class of each; imported when it is asked for, so that one needs what it needs only."""


def known() -> list[str]:
    """Return all names, sorted: this package's detectors, and River's by way of `river_bank`."""
    from .river_bank import RIVER_NAMES

    return sorted({*_OWN, *RIVER_NAMES})


def make_detector(text: str) -> Detector:
    """Return a fresh detector.

    Parameters
    ----------
    text
        A name of `known`, or `package.module:Class` for a class of one's own; then, after a colon,
        parameters as `name=value`, separated by commas.

    Raises
    ------
    ValueError
        The name, a parameter or a value is not known; the message names the nearest that is.

    Examples
    --------
    >>> from tocsin.detectors.registry import make_detector
    >>> make_detector("adwin:delta=0.01,clock=1").delta
    0.01
    """
    name, _, rest = (piece.strip() for piece in text.partition(":"))
    make: Callable[..., Any]
    if name in _OWN:
        module, _, member = _OWN[name].partition(":")
        make = getattr(import_module(f".{module}", __package__), member)
        hints = _parameters(make)
    elif name in known():
        from .river_bank import river_detector
        from .river_kinds import KINDS

        make = partial(river_detector, name)
        kind = KINDS[name]
        hints = {k: v for k, v in _parameters(kind.make).items() if k in kind.ranges}
    elif rest and "=" not in rest.partition(":")[0]:
        member, _, rest = rest.partition(":")
        make = _class(name, member)
        name = f"{name}:{member}"
        hints = _parameters(make)
    else:
        raise ValueError(
            f"no detector is called {name!r}{_nearest(name, known())}known: {', '.join(known())}; "
            "a class of your own is package.module:Class"
        )
    values = _values(name, rest, hints)
    missing = [key for key in _required(make) if key not in values]
    if missing:
        raise ValueError(f"{name} needs a value for {missing[0]}: {name}:{missing[0]}=VALUE")
    detector = make(**values)
    if not isinstance(detector, Detector):
        raise ValueError(f"{name} is no detector: it needs update, snapshot and restore")  # noqa: TRY004
    return detector


def _class(module: str, member: str) -> Callable[..., Any]:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # last, so that it shadows nothing
    try:
        found = getattr(import_module(module), member, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"no module {error.name!r}; package.module:Class is looked for in the current folder and "
            "where Python is installed"
        ) from None
    if not isinstance(found, type):
        raise ValueError(f"the module {module} has no class {member!r}")  # noqa: TRY004
    return found


def _integer(text: str) -> int:
    if (value := float(text)).is_integer():  # 1e5 as well as 100000
        return int(value)
    raise ValueError(text)


_READERS: Final[dict[type, Callable[[str], Any]]] = {
    NoneType: lambda text: {"none": None}[text.lower()],
    bool: lambda text: {"true": True, "false": False}[text.lower()],
    int: _integer,
    float: float,
    str: str,
}
"""How text becomes a value, by type; where a type is not known, the first that can."""
_WORDS: Final = {
    NoneType: "none", bool: "true or false", int: "an integer", float: "a number", str: "text",
}  # fmt: skip


def _parameters(make: Callable[..., Any]) -> dict[str, tuple[type, ...]]:
    """Return the parameters that text can be given for, and the types that each may have."""
    try:
        signature = inspect.signature(make, eval_str=True)
    except NameError:  # a type that is imported for type checkers only
        signature = inspect.signature(make)
    found: dict[str, tuple[type, ...]] = {}
    for name, parameter in signature.parameters.items():
        hint = parameter.annotation
        either = get_args(hint) if get_origin(hint) in (Union, UnionType, Literal) else ()
        kinds = {hint, *either} | {type(word) for word in either if isinstance(word, str)}
        if hint in (parameter.empty, Any) or isinstance(hint, str):
            kinds = set(_READERS)
        readable = tuple(kind for kind in _READERS if kind in kinds)
        is_named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if is_named and readable and readable != (NoneType,):
            found[name] = readable
    return found


def _required(make: Callable[..., Any]) -> list[str]:
    """Return the parameters that have no default."""
    return [
        name
        for name, parameter in inspect.signature(make).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def _values(name: str, text: str, hints: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in text.split(",") if text else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(f"{name}: {part!r} is no parameter, expected NAME=VALUE")
        if key not in hints:
            raise ValueError(
                f"{name} has no parameter {key!r}{_nearest(key, hints)}"
                f"it has {', '.join(hints) or 'none'}"
            )
        values[key] = _value(name, key, value, hints[key])
    return values


def _value(name: str, key: str, text: str, kinds: tuple[type, ...]) -> Any:
    for kind in kinds:
        try:
            return _READERS[kind](text)
        except (KeyError, ValueError, OverflowError):
            continue
    expected = " or ".join(_WORDS[kind] for kind in kinds)
    raise ValueError(f"{name}: {key} must be {expected}, got {text!r}")


def _nearest(name: str, names: Iterable[str]) -> str:
    close = get_close_matches(name, list(names), n=1)
    return f", did you mean {close[0]}? " if close else "; "
