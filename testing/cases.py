"""Streams for the checks: stationary ones, and the same with a change at a known event."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..core.columns import Floats, Strings
from ..detectors.base import Observations


@dataclass(frozen=True)
class Case:
    """What a detector is checked with.

    Parameters
    ----------
    clean
        Seed and number of events to stationary observations.
    changed
        Seed and number of events to observations whose second half is changed.
    events
        Events of one run.
    false_alarms
        Verdicts allowed in 20 stationary runs together.
    delay
        Events after the change within which it must be found, in each of 5 runs.
    microseconds
        Processor time that an update may take a value, on average.
    """

    clean: Callable[[int, int], Observations]
    changed: Callable[[int, int], Observations]
    events: int = 4000
    false_alarms: int = 0
    delay: int = 400
    microseconds: float = 500.0


def normal_case(
    streams: int = 3, shift: float = 1.0, *, false_alarms: int = 0, delay: int = 200
) -> Case:
    """Return a case of standard normal streams, all of which shift at the change.

    Parameters
    ----------
    streams
        How many.
    shift
        By how many standard deviations.
    false_alarms, delay
        See `Case`.
    """

    def clean(seed: int, events: int) -> Observations:
        return Observations.of(np.random.default_rng(seed).normal(size=(events, streams)))

    def changed(seed: int, events: int) -> Observations:
        values = np.random.default_rng(seed).normal(size=(events, streams))
        values[events // 2 :] += shift
        return Observations.of(values)

    return Case(clean, changed, false_alarms=false_alarms, delay=delay)


def bit_case(
    before: float = 0.05, after: float = 0.3, *, false_alarms: int = 0, delay: int = 300
) -> Case:
    """Return a case of one stream of zeros and ones, as errors are.

    Parameters
    ----------
    before, after
        Rate of ones before and after the change.
    false_alarms, delay
        See `Case`.
    """

    def clean(seed: int, events: int) -> Observations:
        return _bits(seed, np.full(events, before))

    def changed(seed: int, events: int) -> Observations:
        return _bits(seed, np.repeat([before, after], [events // 2, events - events // 2]))

    return Case(clean, changed, false_alarms=false_alarms, delay=delay)


def _bits(seed: int, rates: Floats) -> Observations:
    ones = np.random.default_rng(seed).random(len(rates)) < rates
    return Observations.of(ones.astype(np.float64), ("error",))


def logit_case(
    classes: int = 10, clients: int = 20, *, false_alarms: int = 0, delay: int = 1000
) -> Case:
    """Return a case of logits of many clients, one of whom sends inputs on the decision boundary.

    Parameters
    ----------
    classes, clients
        How many. The first client is the attacker; half of its inputs are adversarial.
    false_alarms, delay
        See `Case`; the delay is in events of all clients.
    """

    def clean(seed: int, events: int) -> Observations:
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=(events, classes))
        top = rng.integers(0, classes, events)
        logits[np.arange(events), top] += 6 + rng.normal(0, 1.5, events)
        who = rng.integers(0, clients, events)
        return Observations(
            names=tuple(f"logit:{k}" for k in range(classes)),
            values=logits,
            offsets=np.arange(events),
            rows=np.zeros(events, np.int64),
            clients=Strings.of(f"client-{k}" for k in who),
            ids=Strings.of(f"p{k}" for k in range(events)),
        )

    def changed(seed: int, events: int) -> Observations:
        found = clean(seed, events)
        assert found.clients is not None
        hostile = [name == "client-0" for name in found.clients.to_list()]
        rows = np.flatnonzero(hostile & (np.arange(events) >= events // 2))
        rows = rows[np.random.default_rng(seed + 1).random(len(rows)) < 0.5]
        order = np.argsort(found.values[rows], axis=1)
        found.values[rows, order[:, -1]] = found.values[rows, order[:, -2]] + 0.02
        return found

    return Case(clean, changed, events=8000, false_alarms=false_alarms, delay=delay)


def seasonal_case(
    shift: float = 1.0, *, events: int = 9600, false_alarms: int = 0, delay: int = 168
) -> Case:
    """Return a case of hourly rows with seasons of a day and a week: two numbers, and a label they explain.

    Parameters
    ----------
    shift
        By how many standard deviations of what is no season the numbers shift at the change.
    events
        Events of one run; a day has 24.
    false_alarms, delay
        See `Case`.
    """

    def clean(seed: int, events: int) -> Observations:
        return rows(seed, events, 0.0)

    def changed(seed: int, events: int) -> Observations:
        return rows(seed, events, shift)

    def rows(seed: int, events: int, shift: float) -> Observations:
        rng = np.random.default_rng(seed)
        hours = np.arange(events)
        season = 1.5 * np.sin(hours * 2 * np.pi / 24) + (hours // 24 % 7 >= 5)
        noise = rng.normal(size=(events, 2))
        label = rng.random(events) < 1 / (1 + np.exp(-2 * noise[:, 0]))
        numbers = season[:, None] + noise
        numbers[events // 2 :] += shift
        return Observations(
            names=("feature:load", "feature:price", "label"),
            values=np.column_stack([numbers, label.astype(np.float64)]),
            offsets=hours,
            rows=np.zeros_like(hours),
            times=hours * 3_600_000_000_000,
        )

    return Case(clean, changed, events=events, false_alarms=false_alarms, delay=delay)


def category_case(categories: int = 8, *, false_alarms: int = 0, delay: int = 200) -> Case:
    """Return a case of one stream of categories, of which one comes no more and a new one does at the change.

    Parameters
    ----------
    categories
        How many, the first most frequent.
    false_alarms, delay
        See `Case`.
    """
    shares = 1 / np.arange(1, categories + 1)

    def clean(seed: int, events: int) -> Observations:
        codes = np.random.default_rng(seed).choice(categories, events, p=shares / shares.sum())
        place = np.arange(events)
        return Observations(
            names=("feature:colour",), values=codes[:, None].astype(np.float64), offsets=place,
            rows=np.zeros_like(place), categories=frozenset(["feature:colour"]),
        )  # fmt: skip

    def changed(seed: int, events: int) -> Observations:
        found = clean(seed, events)
        later = found.values[events // 2 :]
        later[later == 1] = categories
        return found

    return Case(clean, changed, false_alarms=false_alarms, delay=delay)
