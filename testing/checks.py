"""What must be true of every detector, one sentence a function."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import msgspec
import numpy as np

from ..core.errors import StateError
from ..core.verdict import Verdict
from ..detectors.base import Detector, Observations
from .cases import Case, normal_case

Make = Callable[[], Detector]

_JUNK: Final = (np.nan, np.inf, -np.inf, 1e308, -1e308)
_SEEDS: Final = 20
_GROWTH_BYTES: Final = 64 << 10  # that a detector may keep between two equal halves of a long run


def check_detector(make: Make, case: Case | None = None) -> None:
    """Check a detector against all that tocsin relies on.

    Parameters
    ----------
    make
        Returns a fresh detector, always with the same parameters.
    case
        What to feed it; three standard normal streams that shift by one standard deviation where None.

    Raises
    ------
    AssertionError
        A check failed; the message says which and how.

    Examples
    --------
    >>> from tocsin.detectors.page_hinkley import PageHinkley
    >>> from tocsin.testing import check_detector
    >>> check_detector(lambda: PageHinkley(delta=0.15, threshold=60, alpha=1))
    """
    chosen = case or normal_case()
    for check in CHECKS:
        check(make, chosen)


def check_protocol(make: Make, case: Case) -> None:
    """It has the methods of `Detector`, and verdicts complete in themselves, in the order of the rows."""
    detector = make()
    assert isinstance(detector, Detector), f"{detector!r} is no Detector"
    found = detector.update(case.changed(0, case.events))
    assert isinstance(found, list), f"update returns {type(found).__name__}, not a list of Verdicts"
    assert all(isinstance(verdict, Verdict) for verdict in found), "update returns no Verdicts"
    places = [(verdict.offset, verdict.row) for verdict in found]
    assert places == sorted(places), "verdicts are not in the order of the rows"
    for verdict in found:
        assert verdict.detector, f"a verdict says nothing of who claims: {verdict}"
        assert verdict.subject, f"a verdict says nothing of what it is about: {verdict}"
        try:
            told = msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict)
        except (TypeError, msgspec.MsgspecError) as error:
            raise AssertionError(
                f"a verdict cannot be stored: {error}; its numbers must be Python's own, as int(offset) makes them"
            ) from None
        assert told == verdict, f"a verdict holds what cannot be stored, such as NaN: {verdict}"


def check_takes_nothing(make: Make, case: Case) -> None:
    """An update without rows changes nothing."""
    detector = make()
    detector.update(case.clean(0, 100))
    before = detector.snapshot()
    assert detector.update(case.clean(0, 100).take(slice(0, 0))) == []
    assert detector.snapshot() == before, "an update without rows changed the state"


def check_any_batch_cut(make: Make, case: Case) -> None:
    """However the rows are cut into batches, verdicts and state are the same."""
    rows = case.changed(1, case.events)
    whole = make()
    expected = whole.update(rows)
    for cut in (1, 7, 256, "random"):
        detector = make()
        found = [v for part in _parts(rows, cut) for v in detector.update(part)]
        assert found == expected, f"cut into {cut}: {len(found)} verdicts, not {len(expected)}"
        assert detector.snapshot() == whole.snapshot(), f"cut into {cut}: another state"


def check_same_rows_same_verdicts(make: Make, case: Case) -> None:
    """Two detectors that see the same rows say the same."""
    rows = case.changed(2, case.events)
    assert make().update(rows) == make().update(rows)


def check_snapshot_goes_on(make: Make, case: Case) -> None:
    """A detector restored in midstream goes on bit for bit as the one that was not interrupted."""
    rows = case.changed(3, case.events)
    through = make()
    expected = through.update(rows)
    for at in (0, 1, 300, case.events // 2 + 5, case.events - 1):
        first = make()
        found = first.update(rows.take(slice(0, at)))
        state = first.snapshot()
        second = make()
        second.restore(state)
        found += second.update(rows.take(slice(at, None)))
        why = f"snapshot ({len(state)} bytes) and restore do not keep all of the state"
        assert found == expected, f"restored after {at} rows: other verdicts; {why}"
        assert second.snapshot() == through.snapshot(), (
            f"restored after {at} rows: another state; {why}"
        )


def check_damaged_snapshot_is_refused(make: Make, case: Case) -> None:
    """A snapshot with a flipped bit, cut short, or of something else is refused; nothing changes."""
    detector = make()
    detector.update(case.clean(4, 500))
    state = detector.snapshot()
    assert len(state) >= 8, (
        f"a snapshot of {len(state)} bytes has no way to tell that it is damaged"
    )
    flipped = bytearray(state)
    flipped[len(state) // 2] ^= 1
    for damaged in (bytes(flipped), state[:-1], state[: len(state) // 2], b"", b"x" * 100):
        try:
            detector.restore(damaged)
        except StateError:
            assert detector.snapshot() == state, "a refused snapshot changed the state"
        except Exception as error:  # a detector is a user's: it may raise anything
            raise AssertionError(
                f"a damaged snapshot of {len(damaged)} bytes raised {error!r}, not a StateError"
            ) from error
        else:
            raise AssertionError(f"a damaged snapshot of {len(damaged)} bytes was accepted")


def check_junk_does_not_blind(make: Make, case: Case) -> None:
    """NaN, infinities and 1e308 raise nothing, and the verdicts are those of a clean stream.

    But for verdicts that such values come at all, about streams named `missing:...`.
    """
    rows = case.changed(5, case.events)
    expected = [(v.detector, v.subject, v.offset) for v in make().update(rows)]
    rng = np.random.default_rng(5)
    detector = make()
    found: list[Verdict] = []
    for part in _parts(rows, 97):
        found += detector.update(_all_junk(part, rng))
        found += detector.update(part)
    claims = [
        (v.detector, v.subject, v.offset) for v in found if not v.subject.startswith("missing:")
    ]
    assert claims == expected, (
        "rows of NaN, infinities and 1e308 between the others changed the verdicts"
    )


def check_input_is_copied(make: Make, case: Case) -> None:
    """What is done to the arrays after an update does not reach the detector."""
    rows = case.changed(6, case.events)
    expected = make().update(rows)
    detector = make()
    found: list[Verdict] = []
    for part in _parts(rows, 100):
        mine = replace(
            part, values=part.values.copy(), offsets=part.offsets.copy(), rows=part.rows.copy()
        )
        found += detector.update(mine)
        same = (
            np.array_equal(mine.values, part.values, equal_nan=True),
            (mine.offsets == part.offsets).all(),
        )
        assert all(same), "update wrote into the caller's arrays"
        mine.values[:] = 1e6
    assert found == expected, "the detector kept the caller's arrays"


def check_memory_is_flat(make: Make, case: Case) -> None:
    """Memory and snapshot do not grow with the number of events."""
    detector = make()
    rows = case.clean(7, case.events)
    for _ in range(3):
        detector.update(rows)
    size = len(detector.snapshot())
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(12):
            detector.update(rows)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    events = 12 * case.events
    assert grown < _GROWTH_BYTES, f"{grown} bytes more after {events} more events"
    now = len(detector.snapshot())
    assert now < 1.5 * size + 1024, f"the snapshot grew from {size} to {now} bytes"


def check_keeps_pace(make: Make, case: Case) -> None:
    """An update takes no more processor time a value than stated, in the best of 3 runs."""
    rows = case.clean(8, min(case.events, 1000))
    taken = []
    for _ in range(3):
        detector, before = make(), time.process_time()
        detector.update(rows)
        taken.append((time.process_time() - before) / rows.values.size * 1e6)
    assert min(taken) <= case.microseconds, (
        f"{min(taken):.0f} microseconds a value, at most {case.microseconds:.0f} allowed"
    )


def check_silent_when_nothing_changes(make: Make, case: Case) -> None:
    """On stationary streams it raises no more than it may, over 20 seeds."""
    found = sum(
        v.phase == "opened"
        for s in range(_SEEDS)
        for v in make().update(case.clean(100 + s, case.events))
    )
    assert found <= case.false_alarms, (
        f"{found} verdicts on {_SEEDS} stationary runs of {case.events} events, at most "
        f"{case.false_alarms} allowed"
    )


def check_change_is_found(make: Make, case: Case) -> None:
    """A change is found within the stated number of events, in each of 5 runs."""
    half = case.events // 2
    for seed in range(200, 205):
        verdicts = make().update(case.changed(seed, case.events))
        found = [v.offset for v in verdicts if v.phase == "opened"]
        delays = [offset - half for offset in found if offset >= half]
        assert delays, f"seed {seed}: the change was not found"
        assert delays[0] <= case.delay, f"seed {seed}: found after {delays[0]} events"


CHECKS: Final = (
    check_protocol, check_takes_nothing, check_any_batch_cut, check_same_rows_same_verdicts,
    check_snapshot_goes_on, check_damaged_snapshot_is_refused, check_junk_does_not_blind,
    check_input_is_copied, check_memory_is_flat, check_keeps_pace, check_silent_when_nothing_changes,
    check_change_is_found,
)  # fmt: skip
"""All checks, in the order in which `check_detector` makes them."""


def _parts(rows: Observations, cut: int | str) -> Iterator[Observations]:
    rng = np.random.default_rng(0)
    begin = 0
    while begin < len(rows):
        size = cut if isinstance(cut, int) else int(rng.integers(1, 700))
        yield rows.take(slice(begin, begin + size))
        begin += size


def _all_junk(rows: Observations, rng: np.random.Generator) -> Observations:
    """Return as many rows, of the same streams and places, in which every value is junk."""
    return replace(rows, values=rng.choice(_JUNK, size=rows.values.shape))
