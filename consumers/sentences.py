"""What an alert says in one line: of a change, and of its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from ..core.verdict import Summary, Verdict
from .estimates import ESTIMATE, ESTIMATED_ERROR
from .label_watch import LAG, MISSING, OF_LABELS
from .leakage import STREAM
from .rates import RATES

_SHOWN: Final = 3  # categories in a line
_WIDE: Final = 50  # events that an onset may be uncertain by without a word
_NAMES: Final = {LAG: "delay of labels", MISSING: "missing labels"}
_OUTCOMES: Final = {
    "returned": "back to what it was",
    "new regime": "at rest at a new level, which is the reference now",
    "unsettled": "restless for long; what it is now is the reference",
    "gone": "no values any more",
}


def changed(verdict: Verdict, *, is_regression: bool | None, label_age: int = 0) -> str:
    """Return one line about a change; `label_age` is that of predictions whose labels are looked for, in nanoseconds."""
    name, since = name_of(verdict.subject), _since(verdict)
    before, now = verdict.reference, verdict.current
    if verdict.subject.startswith("gap:"):
        return f"{verdict.subject.removeprefix('gap:').replace(':', ' of ', 1)}: {verdict.evidence}"
    if verdict.subject.startswith("leak:"):
        return f"{name}: {verdict.evidence}"
    if before is None or now is None:
        return f"{name}: {verdict.change} {verdict.evidence}"
    if before.categories:
        return f"{name}: {_categories(verdict, before, now)}{since}"
    if before.mean is None or now.mean is None:
        return f"{name}: {verdict.change or verdict.evidence}{since}"
    if verdict.subject.startswith("client:"):
        return (
            f"{name}: {round(now.mean * now.count)} of its last {now.count} inputs suspicious "
            f"(usual {before.mean:.1%})"
        )
    if verdict.subject.startswith("missing:"):
        return f"{name}: missing or of another type in {before.mean:.1%} -> {now.mean:.1%} of events{since}"
    if verdict.subject.startswith(f"{STREAM}:"):
        kind = verdict.subject.partition(":")[2]
        return (
            f"served rows that are rows of training ({kind}): {before.mean:.1%} by chance -> {now.mean:.1%} of the last "
            f"{now.count}{since}"
        )
    if verdict.subject == "error" and not is_regression:
        return (
            f"accuracy {1 - before.mean:.2f} -> {1 - now.mean:.2f} on the last {now.count} "
            f"labels{since}"
        )
    if verdict.subject == "error":
        return f"absolute error {before.mean:.4g} -> {now.mean:.4g}{since}"
    if verdict.subject in RATES:
        metric = RATES[verdict.subject]
        return f"{metric} {1 - before.mean:.2f} -> {1 - now.mean:.2f} on the last {now.count} labels that it is about{since}"
    if verdict.subject in OF_LABELS:
        return _of_labels(verdict, before, now, time(label_age / 1e9)) + since
    if verdict.subject == ESTIMATE:
        return f"accuracy as estimated from scores, less accuracy: {before.mean:+.3f} -> {now.mean:+.3f}, estimates are off{since}"
    if verdict.subject == ESTIMATED_ERROR:
        return f"absolute error as estimated, less the error: {before.mean:+.4g} -> {now.mean:+.4g}, estimates are off{since}"
    if verdict.change == "shape":
        return f"{name}: shape, {_most_changed(before, now)}{since}"
    if verdict.change.startswith("scale") and before.std and now.std:
        return f"{name}: {verdict.change}, spread {before.std:.4g} -> {now.std:.4g}{since}"
    change = f"{verdict.change}, " if verdict.change else ""
    sigmas = f" ({verdict.size_sigmas:+.1f} sigmas)" if verdict.size_sigmas is not None else ""
    if verdict.unit == "natural sizes":
        sigmas = f" ({verdict.evidence})"
    return f"{name}: {change}mean {before.mean:.4g} -> {now.mean:.4g}{sigmas}{since}"


def _of_labels(verdict: Verdict, before: Summary, now: Summary, age: str) -> str:
    """Return how labels come now and how they came before."""
    if verdict.subject == MISSING:
        there, usual = 1 - (now.mean or 0.0), 1 - (before.mean or 0.0)
        more = "fewer" if there < usual else "more"
        return f"{more} predictions have a label after {age}: {there:.0%}, before {usual:.0%}"
    took, usual = _median(now), _median(before)
    if verdict.change.startswith("location"):
        how = "later" if took > usual else "sooner"
    else:
        how = f"in another way than before ({verdict.change or 'changed'})"
    return f"labels come {how}: median {time(math.exp(took))}, before {time(math.exp(usual))}"


def _median(of: Summary) -> float:
    """Return the median of a histogram."""
    upto = np.concatenate([[0.0], np.cumsum(of.counts)])
    if len(of.edges) != len(upto) or not upto[-1]:
        return of.mean or 0.0
    return float(np.interp(upto[-1] / 2, upto, of.edges))


def time(seconds: float) -> str:
    """Return a length of time in the unit that is read most easily.

    Examples
    --------
    >>> [time(s) for s in (0.25, 90, 50_400, 181_440)]
    ['0.25 s', '1.5 min', '14 h', '2.1 d']
    """
    units = (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0), ("s", 0.0))
    unit, length = next((unit, length) for unit, length in units if seconds >= length)
    count = seconds / (length or 1.0)
    return f"{count:.2g} {unit}" if count < 10 else f"{count:.0f} {unit}"


def ended(
    subjects: Sequence[str],
    change: str,
    outcome: str,
    now: Summary | None,
    quiet: int,
    *,
    is_trained: bool = False,
) -> str:
    """Return one line about the end of an incident.

    Parameters
    ----------
    subjects
        Its streams, the one that opened it first.
    change
        What kind of change opened it.
    outcome
        The worst of theirs, empty where nothing said that they have settled.
    now
        What the first one is now, where that is known.
    quiet
        Events, of a training batches, for which nothing was claimed.
    is_trained
        Whether it is of a training: what has changed there may last, and monitors that claim its beginning say no more of it.
    """
    names = list(dict.fromkeys(name_of(subject) for subject in subjects))
    more = len(names) - _SHOWN
    who = ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
    if subjects[0].startswith("detector:"):
        return f"{who}: still set aside; no more is said of it"
    said = _OUTCOMES.get(outcome, f"quiet for {quiet} events")
    if is_trained:
        said = f"nothing more claimed for {quiet} batches"
    elif change.startswith("gap "):  # a gap that lasts is claimed once
        said = f"nothing more claimed for {quiet} events, the gap may last: see tocsin metrics"
    level = "" if now is None else _level(subjects[0], change, now)
    return f"{who}: {said}" + (
        f" ({'of ' + names[0] + ': ' if len(names) > 1 else ''}{level})" if level else ""
    )


def _level(subject: str, change: str, now: Summary) -> str:
    """Return what a stream is, in the terms in which its change was told."""
    if now.categories and now.count:
        shares = np.array(now.counts) / now.count
        names = [*now.categories, "others"]
        largest = np.argsort(-shares, kind="stable")[:_SHOWN].tolist()
        return ", ".join(f"{names[k]} {shares[k]:.1%}" for k in largest if shares[k] > 0)
    if now.mean is None:
        return ""
    if subject.startswith("missing:"):
        return f"missing in {now.mean:.1%} of events"
    if subject.startswith(f"{STREAM}:"):
        return f"{now.mean:.1%} are rows of training"
    if subject == "error":
        return (
            f"accuracy {1 - now.mean:.2f}"
            if len(now.counts) == 2
            else f"absolute error {now.mean:.4g}"
        )
    if subject == MISSING:
        return f"{1 - now.mean:.0%} have a label"
    if subject == LAG:
        return f"median {time(math.exp(_median(now)))}"
    if subject in RATES:
        return f"{RATES[subject]} {1 - now.mean:.2f}"
    spread = f", spread {now.std:.4g}" if change.startswith(("scale", "shape")) and now.std else ""
    return f"mean {now.mean:.4g}{spread}"


def _most_changed(before: Summary, now: Summary) -> str:
    """Return the bin whose share has changed most."""
    shares, usual = (np.array(of.counts) / max(of.count, 1) for of in (now, before))
    k = int(np.abs(shares - usual).argmax())
    return f"{before.edges[k]:.4g} to {before.edges[k + 1]:.4g} in {usual[k]:.1%} -> {shares[k]:.1%} of values"


def name_of(subject: str) -> str:
    """Return a stream's name as people say it.

    Examples
    --------
    >>> [name_of(s) for s in ("feature:amount", "missing:category:country", "embedding:pc1", "client:7", "error")]
    ['amount', 'country', 'embedding pc1', '7', 'error']
    """
    kind, colon, name = subject.removeprefix("missing:").partition(":")
    if not colon:
        return _NAMES.get(kind, kind)
    return name if kind in ("feature", "category", "client", "leak") else f"{kind} {name}"


def count(number: float) -> str:
    """Return a large number with one digit that counts.

    Examples
    --------
    >>> count(1_810_968), count(3.2e15)
    ('2,000,000', '3e+15')
    """
    rounded = float(f"{number:.1g}")
    return f"{rounded:,.0f}" if rounded < 1e12 else f"{rounded:.0e}"


def _since(verdict: Verdict) -> str:
    delay, low, high = verdict.delay_events, verdict.delay_low, verdict.delay_high
    what = (
        "labels"
        if verdict.subject in ("error", "label", ESTIMATE, ESTIMATED_ERROR, *RATES)
        else "events"
    )
    since = f", detected {delay} {what} after it began" if delay else ""
    if since and low is not None and high is not None and high - low > max(_WIDE, delay or 0):
        since += f" ({low} to {high})"
    if verdict.chance_events:
        since += f"; by chance once in {count(verdict.chance_events)} events"
    elif verdict.detector in ("adwin", "page_hinkley"):
        since += "; outside the budget"
    return since


def _categories(verdict: Verdict, before: Summary, now: Summary) -> str:
    """Return which categories have changed their shares most, or come."""
    shares, usual = (np.array(of.counts) / max(of.count, 1) for of in (now, before))
    if verdict.change == "new category":
        new = ", ".join(verdict.newcomers[:_SHOWN])
        so_far = f" (unknown ones so far {usual[-1]:.1%})" if usual[-1] else ""
        return f"new category {new} in {shares[-1]:.1%} of its values{so_far}"
    names = [*before.categories, "others"]
    most = np.argsort(-np.abs(shares - usual), kind="stable")[:_SHOWN]
    return ", ".join(
        f"{names[k]} {usual[k]:.1%} -> {shares[k]:.1%}"
        for k in most.tolist()
        if usual[k] or shares[k]
    )
