"""False alarms of the guarded e-detector against its budget, from 1e3 to 1e5 events, and their picture.

Streams at rest of seven laws, 20 of a law with one budget of one false alarm in A events over all of them; each
`opened` counts. Bars are the 99 % Poisson bounds of n / A. Tolerances are 0: nothing but the budget holds alarms back.
Events before the guard knows a stream, 2,048 of them, count as well, although nothing is staked there.
`--svg` writes the picture of docs/guarantee.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from scipy.signal import lfilter
from scipy.stats import poisson

from tocsin.core.columns import Floats, Ints
from tocsin.detectors.base import Observations
from tocsin.detectors.budget import Budget
from tocsin.detectors.e_detector import EDetector
from tocsin.detectors.guarded import GuardedEDetector

from .common import Figures

STREAMS: Final = 20
BUDGETS: Final = (1e3, 1e4, 1e5)
_CHUNK: Final = 50_000
_SHARES: Final = (0.4, 0.25, 0.15, 0.1, 0.06, 0.04)  # of the categories

Law = Callable[[np.random.Generator, tuple[int, int]], Floats]

LAWS: Final[dict[str, Law]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "log-normal": lambda rng, shape: rng.lognormal(0, 1.5, shape),
    "t(2)": lambda rng, shape: rng.standard_t(2, shape),
    "Pareto": lambda rng, shape: rng.pareto(1.5, shape) + 1,
    "Bernoulli": lambda rng, shape: (rng.random(shape) < 0.1).astype(float),
    "categories": lambda rng, shape: rng.choice(len(_SHARES), shape, p=_SHARES).astype(float),
    "AR(0.5)": lambda rng, shape: rng.normal(size=shape),  # made dependent in `alarms`
}


def alarms(
    law: str, budget: float | Budget, seed: list[int], events: int, times: Ints | None = None
) -> int:
    """Return how many verdicts `opened` there are in so many events of streams at rest, at (events,) times."""
    rng = np.random.default_rng(seed)
    detector = GuardedEDetector(EDetector(budget, waits=True))
    names = tuple(f"stream:{k}" for k in range(STREAMS))
    past, found = np.zeros((1, STREAMS)), 0
    for begin in range(0, events, _CHUNK):
        values = LAWS[law](rng, (min(_CHUNK, events - begin), STREAMS))
        if law == "AR(0.5)":
            values, past = lfilter([1.0], [1.0, -0.5], values, axis=0, zi=past)
        place = np.arange(begin, begin + len(values))
        batch = Observations(
            names=names, values=np.ascontiguousarray(values), offsets=place,
            rows=np.full(len(values), seed[0]),
            categories=frozenset(names) if law == "categories" else frozenset(),
            times=None if times is None else times[place],
        )  # fmt: skip
        found += sum(verdict.phase == "opened" for verdict in detector.update(batch))
    return found


def in_days(figures: Figures, seed: int, events: int) -> None:
    """Report the alarms at a budget of one in a day, of events that come three times as fast from the middle on."""
    gaps = np.repeat([8.64e9, 2.88e9], [events // 2, events - events // 2])
    times = np.cumsum(gaps).astype(np.int64)
    days = float(times[-1]) / 8.64e13
    count = alarms("normal", Budget(days=1), [seed, len(LAWS), 0], events, times)
    figures.report(f"normal, {days:.0f} days at one a day", count, most=at_most(days, 1.0))


def at_most(events: float, budget: float) -> float:
    """Return the count that a Poisson law of mean n / A exceeds once in a hundred times, at most."""
    return float(poisson.ppf(0.99, events / budget))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=0, help="of the streams")
    arguments.add_argument("--events", type=int, default=1_000_000, help="of each law and budget")
    arguments.add_argument("--svg", type=Path, help="where to write the picture")
    options = arguments.parse_args()
    figures = Figures("guarantee")
    found: dict[str, list[int]] = {}
    for place, law in enumerate(LAWS):
        for step, budget in enumerate(BUDGETS):
            count = alarms(law, budget, [options.seed, place, step], options.events)
            found.setdefault(law, []).append(count)
            title = f"{law}, {options.events:,} events at A = {budget:.0e}"
            figures.report(title, count, most=at_most(options.events, budget))
    in_days(figures, options.seed, options.events)
    if options.svg:
        options.svg.write_text(picture(found, options.events))
    figures.exit()


_LEFT, _RIGHT, _TOP, _BOTTOM = 70.0, 560.0, 50.0, 350.0  # the plot's edges, px
_SIDE: Final = 52.0  # from a budget's place to the end of its marks, px
_STYLE: Final = """
  text { font: 13px system-ui, sans-serif; fill: #24292f } .small { font-size: 12px; fill: #57606a }
  .paper { fill: #ffffff } .grid { stroke: #d0d7de } .line { stroke: #24292f; stroke-width: 2; fill: none }
  .bound { stroke: #57606a; stroke-dasharray: 5 4; fill: none }
  .c0 { fill: #0550ae } .c1 { fill: #953800 } .c2 { fill: #116329 } .c3 { fill: #8250df }
  .c4 { fill: #a40e26 } .c5 { fill: #7d4e00 } .c6 { fill: #0a7b83 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9da7b1 } .paper { fill: #0d1117 } .grid { stroke: #30363d }
    .line { stroke: #e6edf3 } .bound { stroke: #9da7b1 }
    .c0 { fill: #79c0ff } .c1 { fill: #ffa657 } .c2 { fill: #7ee787 } .c3 { fill: #d2a8ff }
    .c4 { fill: #ff7b72 } .c5 { fill: #e3b341 } .c6 { fill: #56d4dd }
  }
"""
_MARKS: Final = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z", "M-5-5h10v10h-10z", "M0-6L6 5H-6z", "M0-7L6 0L0 7L-6 0z",
    "M0 6L6-5H-6z", "M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z", "M-6-3h12v6h-12z",
)  # fmt: skip
"""A shape for each law, so that nobody needs the colours to tell them apart."""


def picture(found: dict[str, list[int]], events: int) -> str:
    """Return an SVG: alarms by budget, both as logarithms, beside the line n / A; for light and dark pages."""
    highest = math.log10(events / min(BUDGETS)) + 0.4
    lowest = -0.5  # what is below one alarm stands here

    def x(budget: float) -> float:
        return _LEFT + (math.log10(budget) - 2.7) / 2.6 * (_RIGHT - _LEFT)

    def y(count: float) -> float:
        height = max(math.log10(count), lowest) if count > 0 else lowest
        return _BOTTOM - (height - lowest) / (highest - lowest) * (_BOTTOM - _TOP)

    def stairs(count: Callable[[float], float]) -> str:
        """Return the line of a count: level at each budget, whose marks stand side by side."""
        steps = (f"{x(a) - _SIDE:.1f} {y(count(a)):.1f}h{2 * _SIDE}" for a in BUDGETS)
        return "M" + "L".join(steps)

    parts = [
        f'<text x="{_LEFT}" y="26">Alarms of streams at rest in {events:,} events, 20 streams a law</text>',
        *(
            f'<path class="grid" d="M{_LEFT} {y(c):.1f}H{_RIGHT}"/>'
            f'<text class="small" x="{_LEFT - 8}" y="{y(c) + 4:.1f}" text-anchor="end">{c}</text>'
            for c in (0, *(10**k for k in range(int(highest) + 1)))
        ),
        *(
            f'<text class="small" x="{x(a):.1f}" y="{_BOTTOM + 20}" text-anchor="middle">{a:,.0f}</text>'
            for a in BUDGETS
        ),
        (
            f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 42}" text-anchor="middle">'
            "budget A: one false alarm in so many events</text>"
        ),
        f'<path class="line" d="{stairs(lambda a: events / a)}"/>',
        f'<path class="bound" d="{stairs(lambda a: at_most(events, a))}"/>',
        f'<path class="line" d="M580 {_TOP + 6}h24"/><text x="612" y="{_TOP + 10}">n / A</text>',
        (
            f'<path class="bound" d="M580 {_TOP + 30}h24"/>'
            f'<text x="612" y="{_TOP + 34}">99 % Poisson bound</text>'
        ),
    ]
    for place, (law, counts) in enumerate(found.items()):
        across = (place - (len(found) - 1) / 2) * 13  # px, side by side
        mark = f'<path class="c{place}" d="{_MARKS[place]}" transform="translate'
        parts.append(f'{mark}(592 {_TOP + 58 + 24 * place})"/>')
        parts.append(f'<text x="612" y="{_TOP + 62 + 24 * place}">{law}</text>')
        parts += [
            f'{mark}({x(a) + across:.1f} {y(c):.1f})"><title>{law}, A = {a:,.0f}: {c}</title></path>'
            for a, c in zip(BUDGETS, counts, strict=True)
        ]
    body = "\n".join(parts)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 410" role="img" '
        'aria-label="False alarms of seven laws stay near or below the line of the budget">\n'
        f'<style>{_STYLE}</style>\n<rect class="paper" width="760" height="410"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    main()
