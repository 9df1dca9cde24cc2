"""What the demo prints: a banner, one line a state change, a summary. Nothing is decided here."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.text import Text

from ..core.alert import Alert
from .story import ATTACK, CHANGES, EVENTS, LABELS, Change

if TYPE_CHECKING:
    from .run import Catch

_WORDS: Final = {
    "data drift": "DRIFT", "prediction drift": "SCORES", "concept drift": "ACCURACY", "bias": "BIAS",
    "leakage": "LEAK",
    "adversarial input": "ATTACK", "pipeline": "PIPELINE",
}  # fmt: skip
_COLOURS: Final = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


class Screen:
    """Prints to a console; may be called from several threads."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._begin = time.monotonic()

    def begin(self) -> None:
        """Let the clock begin."""
        self._begin = time.monotonic()
        self.line("model", "learning what is normal from the first 256 values and 2,500 logits")

    def banner(self, bootstrap: str, url: str, accuracy: float, speed: float | None) -> None:
        """Say what is running."""
        rate = "as fast as it goes" if speed is None else f"{300 * speed:.0f} predictions a second"
        lines = [
            "tocsin demo: a digit classifier serves, and things go wrong",
            f"  broker {bootstrap} · redis {url} · worker in a process of its own",
            f"  model  trained just now on 900 digits, {accuracy:.1%} right on 897 others; {rate}",
            *(f"  event {change.at:,}: {change.text}" for change in CHANGES),
            "",
        ]
        with self._lock:
            for text in lines:
                self._console.print(text)

    def line(self, word: str, text: str, style: str = "", note: str = "") -> None:
        """Print a line with the time."""
        seconds = int(time.monotonic() - self._begin)
        clock = f"{seconds // 60:02d}:{seconds % 60:02d}"
        parts = Text.assemble(f"{clock}  ", (f"{word:<9}", style), f" {text}")
        if note:
            parts.append(f"  {note}", style=style)
        with self._lock:
            self._console.print(parts)

    def change(self, change: Change) -> None:
        """Announce a change."""
        self.line("·", f"event {change.at:,}: {change.text}", "dim")

    def alert(self, alert: Alert, delay: int | None) -> None:
        """Print an alert with the events since the change."""
        if alert.state == "resolved":
            self.line("resolved", f"{_WORDS[alert.kind].lower()}: {alert.summary}", "green")
            return
        unit = "labels" if alert.kind == LABELS.kind else "events"
        since = "" if delay is None else f"[{delay} {unit} after the change]"
        self.line(
            _WORDS[alert.kind], alert.summary, _COLOURS[alert.severity], f"{alert.severity} {since}"
        )

    def summary(
        self,
        catch: Catch,
        published: int,
        figures: Sequence[dict[str, Any]],
        problems: Sequence[str],
    ) -> None:
        """Say what was caught and what was not."""
        self._console.print()
        self._console.print(
            f"{EVENTS:,} predictions and their labels, {published:,} events published"
        )
        for change in CHANGES:
            alert = catch.first(change.kind)
            if alert is None:
                self._console.print(f"  missed   {change.text}", style="bold red")
                continue
            unit = "labels" if change is LABELS else "events"
            of = " (of all clients)" if change is ATTACK else ""
            self._console.print(
                f"  caught   {change.text}: after {catch.delay(alert)} {unit}{of}, by "
                f"{alert.detector} on {alert.subject}"
            )
        for figure in figures:
            if "accuracy" in figure:
                self._console.print(
                    f"  now      accuracy {figure['accuracy']:.2f}, precision "
                    f"{figure['precision']:.2f}, recall {figure['recall']:.2f}, F1 "
                    f"{figure['f1']:.2f} on the last {figure['pairs']:.0f} labels (coverage "
                    f"{figure['label_coverage_ratio']:.0%})"
                )
        for problem in problems:
            self._console.print(f"  FAILED   {problem}", style="bold red")
        if not problems:
            self._console.print("  nothing was raised before the first change")
