"""River's drift detectors by name: their parameters and ranges, and what each compared when it fired."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

import numpy as np
from river import drift
from river.drift import binary


class Evidence(NamedTuple):
    """What a detector compared at its last value, for a verdict; see `Verdict` for the fields."""

    statistic: float
    threshold: float
    unit: str
    delay_events: int | None = None


@dataclass(frozen=True)
class RiverKind:
    """One class of River's.

    Parameters
    ----------
    make
        The class.
    ranges
        Parameter to the interval of its numbers, as mathematics writes it; None for those that are no
        numbers.
    evidence
        What a detector that has just fired compared.
    bits
        It takes zeros and ones only.
    rule, must
        What must hold of the parameters together, and how it is said.
    """

    make: Callable[..., Any]
    ranges: dict[str, str | None]
    evidence: Callable[[Any], Evidence]
    bits: bool = False
    rule: Callable[[dict[str, Any]], bool] = lambda _: True
    must: str = ""

    @property
    def defaults(self) -> dict[str, Any]:
        """River's own, of the parameters that are offered."""
        parameters = inspect.signature(self.make).parameters
        return {name: parameters[name].default for name in self.ranges}

    def checked(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters, the given ones in place of River's defaults.

        Raises
        ------
        ValueError
            A parameter is unknown, of the wrong type or out of range.
        """
        chosen = self.defaults
        for key, value in given.items():
            if key not in chosen:
                raise ValueError(unknown(f"a parameter of {name}", key, list(chosen)))
            chosen[key] = _checked(f"{key} of {name}", value, chosen[key], self.ranges[key])
        if not self.rule(chosen):
            told = ", ".join(f"{key}={value!r}" for key, value in chosen.items())
            raise ValueError(f"{name} needs {self.must}, got {told}")
        return chosen


def unknown(what: str, found: str, known: list[str]) -> str:
    """Return a message on a name that is not known, with the nearest that is."""
    near = get_close_matches(found.lower(), known, 1)
    ask = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{found!r} is not {what}{ask} known: {', '.join(known)}"


def _checked(what: str, value: Any, default: Any, interval: str | None) -> Any:
    if interval is None:
        if type(value) is not type(default):
            raise ValueError(f"{what} must be a {type(default).__name__}, got {value!r}")
        return value
    if value is None and default is None:
        return None
    number = value.item() if isinstance(value, np.generic) else value
    whole = not isinstance(default, float)
    if type(number) is not int and (whole or type(number) is not float):
        raise ValueError(f"{what} must be a {'whole ' * whole}number, got {value!r}")
    if not _inside(number, interval):
        raise ValueError(f"{what} must be in {interval}, got {value!r}")
    return number


def _inside(value: float, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def _adwin(d: Any) -> Evidence:
    # It has just dropped its window's old part: what is left began with the change.
    return Evidence(d.estimation, d.delta, "mean of the new window", int(d.width))


def _page_hinkley(d: Any) -> Evidence:
    up, down = d._sum_increase - d._min_increase, d._max_decrease - d._sum_decrease
    statistic = up if d.mode != "down" and up > d.threshold else down
    return Evidence(statistic, d.threshold, "sum of deviations from the mean")


def _kswin(d: Any) -> Evidence:
    # What is left of its window is the sample that differs from the values before.
    return Evidence(d.p_value, d.alpha, "p-value of Kolmogorov and Smirnov's test", len(d.window))


def _ddm(d: Any) -> Evidence:
    rate = d._p.get()
    threshold = d._p_min + d.drift_threshold * d._s_min
    statistic = rate + math.sqrt(rate * (1 - rate) / d._p.n)
    return Evidence(statistic, threshold, "rate of ones plus its standard deviation")


def _eddm(d: Any) -> Evidence:
    distances = d._error_distances
    upper = distances.mean.get() + 2 * distances.get() ** 0.5
    unit = "distance between ones, mean plus two deviations, as a share of its maximum"
    return Evidence(upper / d._p2s_prime_max, d.beta, unit)


def _fhddm(d: Any) -> Evidence:
    unit = "fall of the share of ones below its maximum"
    # The window's oldest bit is gone by now. Taken for a one wherever that too would have fired, it
    # makes the fall no larger than it was.
    fall = d._u_max - (d.n_one + 1) / d.sliding_window_size
    if fall <= d._epsilon:
        fall = d._u_max - d.n_one / d.sliding_window_size
    if fall <= d._epsilon and d.short_window_size is not None:
        latest = list(d._sliding_window)[-d.short_window_size :]
        fall = d._u_short_max - sum(latest) / d.short_window_size
        return Evidence(fall, d._epsilon_s, unit)
    return Evidence(fall, d._epsilon, unit)


def _hddm_a(d: Any) -> Evidence:
    cut, sign = (d._x_min, 1) if d._mean_incr(d.drift_confidence) else (d._x_max, -1)
    m = (d._z.n - cut.n) / cut.n * (1.0 / d._z.n)
    bound = math.sqrt(m / 2 * math.log(2.0 / d.drift_confidence))
    distance = sign * (d._z.get() - cut.get())
    return Evidence(distance, bound, "rate of ones against that until the cut", int(d._z.n - cut.n))


def _hddm_w(d: Any) -> Evidence:
    up = d._detect_mean_incr(d.drift_confidence)
    one, other = (d._s1_incr, d._s2_incr) if up else (d._s2_decr, d._s1_decr)
    bound = d._mcdiarmid_bound(one.ibc + other.ibc, d.drift_confidence)
    return Evidence(other.ewma - one.ewma, bound, "weighted rates of ones around the cut")


def _dummy(_: Any) -> Evidence:
    return Evidence(0.0, 0.0, "none: it fires without looking at values")


_SHARE, _COUNT, _POSITIVE = "(0, 1)", "[1, 1e9]", "(0, inf)"

KINDS: Final[dict[str, RiverKind]] = {
    "adwin": RiverKind(
        drift.ADWIN,
        # Fewer than 2 buckets or a clock of 0 make Rust panic, which no Python code should catch.
        {
            "delta": _SHARE, "clock": _COUNT, "max_buckets": "[2, 1000]",
            "min_window_length": _COUNT, "grace_period": "[0, 1e9]",
        },
        _adwin,
    ),
    "ddm": RiverKind(
        binary.DDM,
        {"warm_start": "[0, 1e9]", "warning_threshold": _POSITIVE, "drift_threshold": _POSITIVE},
        _ddm,
        bits=True,
    ),
    "dummy_drift_detector": RiverKind(
        drift.DummyDriftDetector,
        {
            "trigger_method": None, "t_0": _COUNT, "w": "[0, 1e9]", "dynamic_cloning": None,
            "seed": "[0, 1e18]",
        },
        _dummy,
        # exp(4 t_0 / w) must be a float.
        rule=lambda p: p["trigger_method"] == "fixed"
        or (p["trigger_method"] == "random" and 4 * p["t_0"] < 700 * p["w"]),
        must="trigger_method fixed, or random and w > t_0 / 175",
    ),
    "eddm": RiverKind(
        binary.EDDM,
        {"warm_start": "[0, 1e9]", "alpha": "(0, 1]", "beta": "(0, 1]"},
        _eddm,
        bits=True,
        rule=lambda p: p["beta"] <= p["alpha"],
        must="beta <= alpha",
    ),
    "fhddm": RiverKind(
        binary.FHDDM,
        {"sliding_window_size": _COUNT, "confidence_level": _SHARE, "short_window_size": _COUNT},
        _fhddm,
        bits=True,
        rule=lambda p: (p["short_window_size"] or 1) <= p["sliding_window_size"],
        must="short_window_size <= sliding_window_size",
    ),
    "hddm_a": RiverKind(
        binary.HDDMA,
        {"drift_confidence": _SHARE, "warning_confidence": _SHARE, "two_sided_test": None},
        _hddm_a,
        bits=True,
    ),
    "hddm_w": RiverKind(
        binary.HDDMW,
        {
            "drift_confidence": _SHARE, "warning_confidence": _SHARE, "lambda_val": "(0, 1]",
            "two_sided_test": None,
        },
        _hddm_w,
        bits=True,
    ),
    "kswin": RiverKind(
        drift.KSWIN,
        # Not `window`, the collected data of one stream: a bank has many streams.
        {"alpha": _SHARE, "window_size": _COUNT, "stat_size": _COUNT, "seed": "[0, 1e18]"},
        _kswin,
        # It draws stat_size of the window_size - stat_size older values.
        rule=lambda p: 2 * p["stat_size"] <= p["window_size"],
        must="2 * stat_size <= window_size",
    ),
    "page_hinkley": RiverKind(
        drift.PageHinkley,
        {
            "min_instances": _COUNT, "delta": "[0, inf)", "threshold": _POSITIVE,
            "alpha": "(0, 1]", "mode": None,
        },
        _page_hinkley,
        rule=lambda p: p["mode"] in ("up", "down", "both"),
        must="mode up, down or both",
    ),
}  # fmt: skip
"""All of River 0.26.1's but `NoDrift`, which only turns off the detection inside a model of River's."""
