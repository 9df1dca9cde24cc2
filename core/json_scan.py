"""A walk over JSON text that names the path of every scalar.

Used to learn the shape of an event and to say where a refused one went wrong; never to decode.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(rb'\s*(?:([{}\[\],:])|("(?:[^"\\]|\\.)*")|([^\s{}\[\],:"]+))', re.DOTALL)
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")

_NON_FINITE = frozenset(
    sign + name for sign in (b"", b"-", b"+") for name in (b"nan", b"inf", b"infinity")
)

_MAX_DEPTH = 8  # events are 3 deep; a path costs its depth, and nesting is cheap to send

Path = tuple[str | int, ...]


class Scalar(NamedTuple):
    """A scalar in JSON text: where it stands and what it is called."""

    path: Path
    start: int  # first byte of the value, quotes included
    end: int  # one past the last byte
    valid: bool  # a string, a number of JSON's grammar, true, false or null
    finite: bool  # not NaN, not Infinity, not a number beyond 64-bit floats


def scalars(text: bytes) -> Iterator[Scalar]:
    """Yield the scalars of `text` in order; stop where it is no JSON, or deeper than any event.

    Parameters
    ----------
    text
        JSON, or something that was meant to be.
    """
    stack: list[str | int | None] = []  # per open container: the current key or index
    arrays: list[bool] = []
    expect_key = False
    position = 0
    while match := _TOKEN.match(text, position):
        position = match.end()
        punctuation, string, other = match.groups()
        if punctuation:
            if punctuation in b"{[":
                if len(stack) == _MAX_DEPTH:
                    return
                stack.append(0 if punctuation == b"[" else None)
                arrays.append(punctuation == b"[")
                expect_key = punctuation == b"{"
            elif punctuation in b"}]":
                if not stack:
                    return
                stack.pop()
                arrays.pop()
                expect_key = False
            elif punctuation == b",":
                if not stack:
                    return
                if arrays[-1]:
                    stack[-1] = int(stack[-1] or 0) + 1
                expect_key = not arrays[-1]
            continue
        if string and expect_key and stack:
            stack[-1] = string[1:-1].decode("utf-8", "replace")
            expect_key = False
            continue
        raw = string or other
        number = not string and bool(_NUMBER.fullmatch(raw))
        valid = bool(string) or number or raw in (b"true", b"false", b"null")
        finite = math.isfinite(float(raw)) if number else raw.lower() not in _NON_FINITE
        path = tuple(part for part in stack if part is not None)
        yield Scalar(path, position - len(raw), position, valid, finite)


def dotted(path: Path) -> str:
    """Return `path` as people write it: `$.features.amount`, `$.logits[3]`."""
    parts = ["$"]
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        else:
            name = part if len(part) <= 80 else part[:77] + "..."
            parts.append(f".{name}" if name.isidentifier() else f"[{name!r}]")
    return "".join(parts)
