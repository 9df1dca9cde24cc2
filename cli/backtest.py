"""`tocsin backtest FILE`: what detectors would have said about a file, and how right they were."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from ..core.errors import ConfigError
from ..detectors.matching import Change, judge
from ..producers.files import Columns
from .blocks import Blocks, is_of_text
from .contestant import Contestant, Result, kind_of
from .scoreboard import Scoreboard

_DEFAULTS: Final = ("stream_monitor", "e_detector", "adwin", "page_hinkley")


def run(
    file: Path,
    detectors: Sequence[str],
    columns: Columns,
    watched: Sequence[str],
    drifts: Sequence[str] | None,
    annotations: Path | None,
    tolerance: int,
    merge: int,
    *,
    as_json: bool,
    show_all: bool,
) -> int:
    """Run the detectors over the file, all over the same blocks, and print what they found."""
    if tolerance < 0 or merge < 0:
        raise ConfigError(f"--tolerance and --merge must be 0 or more, got {tolerance} and {merge}")
    changes = _changes(drifts, annotations)
    contestants = _contestants(detectors, changes is not None, max(tolerance, merge, 1))
    blocks = Blocks(file, columns, watched)
    for block in blocks:
        if not detectors and all(map(is_of_text, blocks.streams)):
            contestants = [c for c in contestants if c.knows_categories]
        for contestant in contestants:
            try:
                contestant.watch(block, blocks.errors, blocks.names)
            except ValueError as error:
                raise ConfigError(f"--detector {contestant.name}: {error}") from None
    try:
        results = [c.result(changes, blocks.rows, tolerance, merge) for c in contestants]
    except ValueError as error:
        raise ConfigError(f"{file.name}: {error}") from None
    if as_json:
        print(json.dumps(_report(file, blocks, results, changes, tolerance, merge), indent=2))
        return 0
    board = Scoreboard()
    board.file(file, blocks)
    if blocks.has_gaps and not any(kind_of(result.name) == "stream_monitor" for result in results):
        board.unwatched_gaps()
    board.rule(changes, tolerance, merge)
    board.results(results)
    for result in results:
        if kind_of(result.name) != "dummy":
            board.alarms(result, show_all=show_all)
    return 0


def _changes(drifts: Sequence[str] | None, annotations: Path | None) -> list[Change] | None:
    """Return the annotated changes; None where nothing is annotated."""
    if drifts is None and annotations is None:
        return None
    found: list[Change] = []
    for text in drifts or ():
        match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", text.strip())
        if match is None:
            raise ConfigError(
                f"--drift must be ROW or FIRST-LAST, as 10000 or 20000-21000, got {text!r}"
            )
        found.append(_change("--drift", int(match[1]), int(match[2] or match[1])))
    if annotations is not None:
        found += [_change(annotations.name, *pair) for pair in _read(annotations)]
    try:
        judge([], found, 0)  # whether they overlap is known before the file is read
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return sorted(found)


class _Annotations(msgspec.Struct, forbid_unknown_fields=True):
    changes: list[tuple[int, int]]


def _read(annotations: Path) -> list[tuple[int, int]]:
    try:
        return msgspec.json.decode(annotations.read_bytes(), type=_Annotations).changes
    except OSError as error:
        raise ConfigError(f"--annotations: {error.strerror}: {annotations}") from None
    except msgspec.MsgspecError as error:
        raise ConfigError(
            f'{annotations.name}: {error}; expected {{"changes": [[10000, 10000], [20000, 21000]]}}'
        ) from None


def _change(where: str, start: int, end: int) -> Change:
    try:
        return Change(start, end)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _contestants(names: Sequence[str], is_annotated: bool, every: int) -> list[Contestant]:
    """Make the detectors, dummies last; without annotation there is nothing to beat one in."""
    chosen = list(names or _DEFAULTS)
    if is_annotated:
        # The strongest: it hits every change, and merging does not make its alarms one.
        chosen.append(f"dummy:every={every}")
    made = []
    for name in dict.fromkeys(chosen):
        try:
            made.append(Contestant(name))
        except ValueError as error:
            raise ConfigError(f"--detector {name}: {error}") from None
    return sorted(made, key=lambda contestant: kind_of(contestant.name) == "dummy")


def _report(
    file: Path,
    blocks: Blocks,
    results: list[Result],
    changes: list[Change] | None,
    tolerance: int,
    merge: int,
) -> dict[str, Any]:
    """Return all that is known, for machines."""
    return {
        "file": file.name,
        "rows": blocks.rows,
        "streams": blocks.streams,
        "left_out": blocks.left_out,
        "odd": blocks.odd,
        "tolerance": tolerance,
        "merge": merge,
        "drifts": None if changes is None else [[c.start, c.end] for c in changes],
        "detectors": [
            {
                "detector": result.name,
                **result.score.figures(),
                "list": [
                    {
                        **first._asdict(),
                        "members": members,
                        "outcome": None if judged is None else judged.outcome,
                        "delay": None if judged is None else judged.delay,
                    }
                    for first, members, judged in result.episodes
                ],
            }
            for result in results
        ],
    }


__all__ = ["Columns", "run"]
