"""What is wrong with settings, a line each, in the words of who wrote them and without their secrets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..core.limits import Limits

_Path = tuple[str | int, ...]
_GROUP: Final = "a dictionary, keys with their values"
_ASKED: Final = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dataclass_type": _GROUP,
    "dict_type": _GROUP,
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "int_type": "an integer",
    "list_type": "a list of names",
    "model_type": _GROUP,
    "path_type": "a path",
    "string_pattern_mismatch": "letters, digits, dots, dashes and underscores, one at least",
    "string_type": "text",
    "tuple_type": "a list",
}
"""What pydantic asks for, by its type of error, where its own words are not a user's."""


def explained(error: ValidationError, settings: type[BaseModel]) -> Iterator[str]:
    """Yield a line for each wrong setting, under the name that it has in the file.

    Parameters
    ----------
    error
        What pydantic found.
    settings
        In which group of settings.
    """
    found: dict[_Path, list[ErrorDetails]] = {}
    for problem in error.errors(include_url=False):
        found.setdefault(_path(problem["loc"], settings), []).append(problem)
    for path in [path for path in found if isinstance(path[-1], int)]:
        found.pop(
            path[:-1], None
        )  # it was taken for a list: what else it may be is beside the point
    said = {path: _said(path, problems, settings) for path, problems in found.items()}
    for path, what in said.items():
        if path[0] == "models" and said.get(("defaults", *path[2:])) == what:
            continue  # inherited, and said already
        name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
        variable = "TOCSIN_" + "__".join(map(str, path)).upper()
        yield f"{name[1:]}: {what}" + (f" ({variable})" if variable in os.environ else "")


def _path(place: Sequence[str | int], kind: Any) -> _Path:
    """Return the keys, and places in lists, of pydantic's `place`, which also names the alternatives it tried."""
    path: list[str | int] = []
    for part in place:
        keys = _keys(kind)
        if part == "[key]":
            continue
        if keys or get_origin(kind) is dict:
            path.append(str(part))
            kind = keys.get(str(part)) if keys else get_args(kind)[1]
        elif isinstance(part, int):
            path.append(part)
    return tuple(path)


def _keys(kind: Any) -> dict[str, Any]:
    """Return the keys of a group with their types; none where it is no group."""
    if kind is Limits:
        return dict.fromkeys(Limits.__dataclass_fields__)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return {}


def _said(path: _Path, problems: list[ErrorDetails], settings: type[BaseModel]) -> str:
    """Return what is wrong with a setting: what it may be, by all alternatives, and what it is."""
    first = problems[0]
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _known(path[:-1], settings)
        near = get_close_matches(str(path[-1]), known, 1)
        return "unknown key; " + (
            f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        )
    if first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ")
    asked = dict.fromkeys(
        _ASKED.get(problem["type"]) or problem["msg"].removeprefix("Input should be ")
        for problem in problems
    )
    said = f"must be {' or '.join(asked)}"
    is_secret = _is_secret(".".join(map(str, path)), first["input"])
    return said if is_secret else f"{said}, got {first['input']!r}"


def _known(path: _Path, kind: Any) -> list[str]:
    """Return the keys of the group at `path`."""
    for part in path:
        kind = _keys(kind).get(str(part)) or get_args(kind)[1]
    return list(_keys(kind))


def _is_secret(key: str, value: object) -> bool:
    """Whether a value may be one, or hold one: what stands in a group's place may be meant for its secret."""
    return (
        any(word in key for word in ("password", "url", "client"))
        or key in ("kafka", "redis")
        or not isinstance(value, (str, int, float))
    )
