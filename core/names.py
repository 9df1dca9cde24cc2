"""The rules that names keep to, in one place: for who publishes them, who reads them and who sets them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from .events import ENVIRONMENTS

LENGTHS: Final = {
    "prediction_id": (1, 256),
    "model": (1, 200),
    "version": (0, 200),
    "client": (0, 256),
}
"""The fewest and the most characters of each; as the types in `events.py` have it, which a test compares."""
MODEL: Final = re.compile(r"[^\s\x00-\x1f\x7f]{1,200}")
CROSS: Final = "*"
"""Between the names of segments that are crossed, and so in none of them."""
LONGEST_SEGMENT: Final = 100  # characters of a name, bytes of a value
LONGEST_ID: Final = LENGTHS["prediction_id"][1]
_LONGEST_CLIENT: Final = LENGTHS["client"][1]
_QUOTED: Final = 60  # characters of a name that a message shows
_REMEMBERED: Final = 4096


def is_segment(name: str) -> bool:
    """Whether groups can be told apart by a segment of this name."""
    return CROSS not in name and 0 < len(name) <= LONGEST_SEGMENT


def check_crossings(names: Sequence[str]) -> None:
    """Check names of segments, and names with `*` between them for their crossing.

    Raises
    ------
    ValueError
        One crosses nothing, or a segment with itself, or is there twice.

    Examples
    --------
    >>> check_crossings(["sex", "race", "sex*race"])
    >>> check_crossings(["sex**race"])
    Traceback (most recent call last):
    ValueError: 'sex**race' has no name on one side of a *: write sex*race
    """
    seen: dict[frozenset[str], str] = {}
    for name in names:
        parts = name.split(CROSS)
        of = [part.strip() for part in parts]
        fix = CROSS.join(dict.fromkeys(part for part in of if part))
        instead = f"write {fix}" if fix else "name a segment, or leave it out"
        if "" in of:
            where = f"has no name on one side of a {CROSS}" if len(of) > 1 else "is no name"
            raise ValueError(f"{name!r} {where}: {instead}")
        if of != parts:
            raise ValueError(f"{name!r} has blanks around a name: {instead}")
        twice = next((part for k, part in enumerate(of) if part in of[:k]), None)
        if twice is not None:
            raise ValueError(f"{name!r} crosses {twice} with itself: {instead}")
        if (before := seen.get(frozenset(of))) is not None:
            same = "is there twice" if before == name else f"is the same as {before!r}"
            raise ValueError(f"{name!r} {same}: leave one of them out")
        seen[frozenset(of)] = name


class CheckedNames:
    """Refuses what workers would refuse of an event's names; what was checked before costs a look-up.

    Notes
    -----
    Messages hold no id, client or segment's value: these may be personal data. Bounded: a few thousand names are remembered.
    """

    def __init__(self) -> None:
        self._sources: set[object] = set()
        self._segments: set[object] = set()

    def check(
        self,
        identity: str,
        model: str,
        version: str | None,
        environment: str,
        client: object = None,
        segments: Mapping[str, object] | None = None,
    ) -> None:
        """Check what is said of an event.

        Raises
        ------
        TypeError, ValueError
            What was found, what was expected.
        """
        if not 0 < len(identity) <= LONGEST_ID:
            raise ValueError(f"an id must have {_range('prediction_id')}, got {len(identity)}")
        if (model, version, environment) not in self._sources:
            check_source(model, version, environment)
            _remember(self._sources, (model, version, environment))
        if client is not None:
            if not isinstance(client, str):
                raise TypeError(f"the client must be text, got {type(client).__name__}")
            if len(client) > _LONGEST_CLIENT:
                raise ValueError(f"a client must have {_range('client')}, got {len(client)}")
        if segments:
            for name, value in segments.items():
                if name not in self._segments:
                    check_segment(name)
                    _remember(self._segments, name)
                if not isinstance(value, str):
                    raise TypeError(
                        f"segments[{name!r}] must be text, got {type(value).__name__}: leave it out where there is none, else "
                        "make it text"
                    )


def check_source(model: object, version: object, environment: object) -> None:
    """Check whose events they are.

    Raises
    ------
    TypeError, ValueError
        What was found, what was expected.

    Examples
    --------
    >>> check_source("fraud detector", "7", "production")
    Traceback (most recent call last):
    ValueError: a model's name must have 1 to 200 characters and no blanks, got 'fraud detector'
    """
    if not isinstance(model, str):
        raise TypeError(f"the model must be text, got {type(model).__name__}")
    if not MODEL.fullmatch(model):
        raise ValueError(
            f"a model's name must have {_range('model')} and no blanks, got {model[:_QUOTED]!r}"
        )
    if version is not None and not isinstance(version, str):
        raise TypeError(f"the version must be text, got {type(version).__name__}")
    if version is not None and len(version) > LENGTHS["version"][1]:
        raise ValueError(f"a version must have {_range('version')}, got {len(version)}")
    if environment not in ENVIRONMENTS:
        raise ValueError(
            f"environment must be one of {', '.join(ENVIRONMENTS)}, got {environment!r}"
        )


def check_segment(name: object) -> None:
    """Check the name of a segment.

    Raises
    ------
    TypeError, ValueError
        What was found, what was expected.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a segment must be text, got {type(name).__name__}")
    if not is_segment(name):
        raise ValueError(
            f"the name of a segment must have 1 to {LONGEST_SEGMENT} characters and no {CROSS}, which crosses segments, got "
            f"{name[:_QUOTED]!r}"
        )


def _range(of: str) -> str:
    low, high = LENGTHS[of]
    return f"{low} to {high:,} characters"


def _remember(known: set[object], name: object) -> None:
    if len(known) >= _REMEMBERED:  # made up without end: begin anew
        known.clear()
    known.add(name)
