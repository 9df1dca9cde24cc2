"""Gaps between the environments of one model: production against shadow, over all events together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..core.columns import Bytes, Floats, Ints, take
from ..core.events import ENVIRONMENTS
from ..core.snapshot import pack, reading, unpack
from ..core.verdict import Verdict
from .bias import Bias, Events, GapMonitor, budget_of
from .estimators import Seen
from .groups import Groups
from .incidents import LINE, Incidents, Timeline
from .join import Pairs, Predictions
from .model_settings import ENVIRONMENT, ModelSettings
from .score_columns import ScoreColumns
from .set_aside import updated

_PLACE: Final = 60  # above the bits of `Groups`
_MASK: Final = 7 << _PLACE


class EnvironmentGroups:
    """Groups, and beside a row's segments its environment.

    Parameters
    ----------
    groups
        The model's.
    """

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    def group(self, codes: Ints, names: tuple[str, ...]) -> Ints:
        """Return the (n,) groups of rows by environment and other segments, -1 for none."""
        others = tuple(name for name in names if name != ENVIRONMENT)
        found = self._groups.group(codes & ~_MASK, others)
        return np.where(found >= 0, found | (codes & _MASK), -1)

    def value(self, group: int, names: tuple[str, ...]) -> str:
        """Return a group's values of these segments, with commas between."""
        environment = ENVIRONMENTS[(group >> _PLACE) - 1]
        others = group & ~_MASK
        return ",".join(
            environment if name == ENVIRONMENT else self._groups.value(others, (name,))
            for name in names
        )


def coded(segments: Ints, environment: Bytes) -> Ints:
    """Return (n,) segments as `EnvironmentGroups` takes them: with the environment beside them."""
    return segments | ((environment.astype(np.int64) + 1) << _PLACE)


def stratum(group: int) -> int:
    """Return a group's other segments: only what is alike in these is compared."""
    return group & ~_MASK


class EnvironmentGaps:
    """Compares environments of one model in one partition, each two of them.

    Parameters
    ----------
    model, partition
        What is watched.
    settings
        How.
    columns, groups
        What scores and segments are about; the model's.

    Notes
    -----
    An alert is one of the model, told as of production; its subject names both environments.
    """

    environment: Final = "production"
    is_regression: Final = False

    def __init__(
        self,
        model: str,
        partition: int,
        settings: ModelSettings,
        columns: ScoreColumns,
        groups: Groups,
    ) -> None:
        self.events = Timeline()
        self.pairs = Timeline()
        of = settings.incidents
        self.incidents = Incidents(
            model, self.environment, partition, merge_events=of.merge_events,
            resolve_events=of.resolve_events, runbook=settings.runbook,
        )  # fmt: skip
        self.bias = Bias(
            settings.bias, settings.bias.between, EnvironmentGroups(groups), columns,
            budget_of(settings), stratum,
        )  # fmt: skip
        self.broken: dict[str, str] = {}
        """Tests that were set aside, and why; another version of tocsin begins them anew."""
        self._stored = b""

    def trim(self) -> None:
        """Let go of what claims about events to come cannot ask for."""
        self.events.trim()
        self.pairs.trim()

    def update(
        self,
        predictions: Predictions,
        fresh: NDArray[np.bool_],
        pairs: Sequence[Pairs],
        regressions: Mapping[int, bool | None],
    ) -> list[Verdict]:
        """Take predictions and new pairs in; return the gaps that are claimed.

        `fresh` are the predictions that came for the first time; of environments in `regressions` nothing is compared.
        """
        self.events.add(predictions.times, predictions.offsets)
        numbers = [code for code, is_regression in regressions.items() if is_regression]

        def classes(predicted: Floats, environment: Bytes) -> Floats:
            return np.where(np.isin(environment, numbers), np.nan, predicted)

        found: list[Verdict] = []
        for pair in pairs:
            self.pairs.add(pair.times, pair.offsets)
            told = pair._replace(
                segments=coded(pair.segments, pair.environment),
                predicted=classes(pair.predicted, pair.environment),
            )
            found += self._run("gaps of labels", self.bias.pairs, told)
        if fresh.any():
            of = predictions if fresh.all() else take(predictions, fresh)
            seen = Seen(
                of.offsets, of.rows, of.times, coded(of.segments, of.environment),
                classes(of.predicted, of.environment), of.scores, of.met,
            )  # fmt: skip
            found += self._run("gaps of predictions", self.bias.predictions, seen)
        return found

    def _run(self, name: str, tests: GapMonitor, events: Events) -> list[Verdict]:
        return updated(f"{name} between environments", tests, events, self.broken)

    def dirty(self) -> bytes | None:
        """Return the whole state, None if it is as it was."""
        meta = {
            "version": __version__, "broken": self.broken, "events": self.events.state(),
            "pairs": self.pairs.state(), "incidents": self.incidents.snapshot(),
            "gaps": {name: tests.snapshot() for name, tests in self.bias.monitors().items()},
        }  # fmt: skip
        state = pack("environments", 1, meta, {})
        if state == self._stored:
            return None
        self._stored = state
        return state

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot, of an object that is new.

        Raises
        ------
        StateError
            It is damaged; this object is to be thrown away then.
        """
        meta, _ = unpack("environments", 1, state)
        with reading("environments"):
            self.events.load(msgspec.convert(meta["events"], LINE))
            self.pairs.load(msgspec.convert(meta["pairs"], LINE))
            self.incidents.restore(meta["incidents"])
            for name, tests in self.bias.monitors().items():
                if name in meta["gaps"]:
                    tests.restore(meta["gaps"][name])
            if meta["version"] == __version__:
                self.broken = msgspec.convert(meta["broken"], dict[str, str])
        self._stored = state
