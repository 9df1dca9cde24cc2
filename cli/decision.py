"""`tocsin decision MODEL`: which version or environment is better, by how much, or how many more events it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ..consumers import metric_series
from ..consumers.redis_store import connect
from ..consumers.sentences import count
from ..consumers.settings import load
from ..core.keys import Keys
from .console import printable

_HIGHER_IS_BETTER: Final = {
    "recall": True, "precision": True, "accuracy": True, "false_positive_rate": False,
}  # fmt: skip
"""Of others neither end is better."""

_LEGEND: Final = "a gap is the rate of the first less that of the second; intervals hold at all times together, with 95 %"

Figures = Mapping[str, float]


def run(config: Path | None, model: str, *, as_json: bool) -> int:
    """Print the decisions of a model; 1 if there is none to make."""
    settings = load(config)
    client = connect(settings.redis.url)
    try:
        stored = metric_series.figures(client, Keys(settings.tenant)).of_models
    finally:
        client.close()
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, of_model in stored.items():
        of, _, _ = name.rpartition("|")
        if of.partition("@")[0] == model and (tests := decisions(of_model)):
            found[name] = tests
    if as_json:
        print(json.dumps(found, indent=2))
        return int(not found)
    if not found:
        seen = {name.rpartition("|")[0].partition("@")[0] for name in stored}
        if model not in seen:
            print(printable(f"no predictions of {model} have been counted yet"))
            print(f"models that have been seen: {printable(', '.join(sorted(seen))) or 'none'}")
            return 1
        print(
            f"nothing of {model} is compared yet: that takes version or environment among its bias.segments in the "
            "configuration, and two of them that answer at the same time and have labels"
        )
        return 1
    epsilon = settings.of(model).bias.epsilon
    for name, tests in found.items():
        if len(found) > 1:
            of, _, partition = name.rpartition("|")
            print(printable(f"{of}, partition {partition}"))
        for subject, figures in tests.items():
            print(printable(sentence(subject, figures, epsilon)))
    print(_LEGEND)
    return 0


def decisions(figures: Figures) -> dict[str, dict[str, float]]:
    """Return by the subject of a test what is told of it, of all figures of a model in an environment."""
    found: dict[str, dict[str, float]] = {}
    for name, value in figures.items():
        if name.startswith("gap:"):
            subject, _, figure = name.rpartition(":")
            found.setdefault(subject, {})[figure] = value
    return found


def sentence(subject: str, of: Figures, epsilon: float) -> str:
    """Return one line about a test.

    Examples
    --------
    >>> of = {"gap": -0.08, "low": -0.11, "high": -0.05, "a": 2000, "b": 2100, "claimed": -1, "within": 0, "more": 0}
    >>> sentence("gap:recall:version=v1|v2", of, 0.02)
    'recall: v2 is better by 0.080 (0.050 to 0.110), version=v1|v2, 2,000 and 2,100 events'
    >>> sentence("gap:recall:version=v1|v2", of | {"claimed": 0, "more": 5321.0}, 0.02)
    'recall: not decided yet, about 5,000 more events, gap -0.080 (-0.110 to -0.050), version=v1|v2, 2,000 and 2,100 events'
    """
    _, metric, segment = subject.split(":", 2)
    first, _, second = segment.partition("=")[2].partition("|")
    gap, low, high = of["gap"], of["low"], of["high"]
    told = f"gap {gap:+.3f} ({low:+.3f} to {high:+.3f})"
    if of["claimed"]:
        higher = _HIGHER_IS_BETTER.get(metric)
        ahead = first if (of["claimed"] > 0) == (higher is not False) else second
        if higher is None:
            said = f"{first if of['claimed'] > 0 else second} has more, {told}"
        else:
            sign = 1 if of["claimed"] > 0 else -1
            ends = sorted((sign * low, sign * high))
            said = f"{ahead} is better by {sign * gap:.3f} ({ends[0]:.3f} to {ends[1]:.3f})"
    elif of["within"]:
        said = f"no difference above {epsilon:g}, {told}"
    elif "more" in of:
        said = f"not decided yet, about {count(of['more'])} more events, {told}"
    else:
        said = f"not decided yet, too near {epsilon:g} to say when, {told}"
    return f"{metric}: {said}, {segment}, {of['a']:,.0f} and {of['b']:,.0f} events"
