"""The e-detector on errors of a model that goes on learning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tocsin.core.verdict import Verdict
from tocsin.detectors.base import Observations
from tocsin.detectors.e_detector import EDetector

ERROR = frozenset(["error"])


def errors(seed: int, *rates_and_lengths: tuple[float, int]) -> Observations:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.random(n) < rate for rate, n in rates_and_lengths])
    return Observations.of(values.astype(np.float64), ("error",))


def learner(budget: float = 1e5) -> EDetector:
    return EDetector(budget, learning=ERROR)


def said(verdicts: list[Verdict]) -> list[tuple[str, str, bool]]:
    return [(v.phase, v.change, v.advisory) for v in verdicts if v.phase != "settled"]


def test_a_rise_opens_and_a_later_fall_is_what_the_model_has_learnt() -> None:
    batch = errors(1, (0.1, 10_000), (0.3, 4000), (0.1, 8000))
    ours = learner().update(batch)
    assert said(ours)[0] == ("opened", "rate up", False)
    assert {v.phase for v in ours if v.offset > 14_000} == {"moved"}
    falls = [v for v in ours if v.change == "rate down"]
    assert falls
    assert all(v.advisory and not v.lasts and v.chance_events is None for v in falls)
    plain = EDetector(1e5).update(batch)
    assert ("opened", "rate down", False) in said(plain)


def test_nothing_is_said_of_what_a_new_model_learns() -> None:
    batch = errors(2, (0.4, 4000), (0.25, 4000), (0.15, 4000), (0.1, 8000))
    assert "opened" not in [v.phase for v in learner().update(batch)]
    assert "opened" in [v.phase for v in EDetector(1e5).update(batch)]


def test_a_fall_long_after_all_else_opens() -> None:
    verdicts = learner().update(errors(3, (0.3, 25_000), (0.1, 4000)))
    assert said(verdicts)[0] == ("opened", "rate down", False)


def test_a_fall_after_another_streams_change_is_learnt() -> None:
    batch = errors(4, (0.3, 30_000), (0.1, 4000))
    feature = np.random.default_rng(5).normal(0, 1, len(batch))
    feature[26_000:] += 2
    both = replace(
        batch, names=("feature", "error"), values=np.column_stack([feature, batch.values[:, 0]])
    )
    verdicts = learner().update(both)
    opened = [v.subject for v in verdicts if v.phase == "opened"]
    assert opened == ["feature"]
    assert [v.offset > 30_000 for v in verdicts if v.subject == "error" and v.advisory] == [True]


def test_the_reference_follows_what_is_learnt_slowly() -> None:
    """A rise to the rate of long ago is one, if the model has made fewer errors since."""
    rng = np.random.default_rng(6)
    rates = np.concatenate([np.linspace(0.30, 0.20, 60_000), np.full(4000, 0.27)])
    batch = Observations.of((rng.random(len(rates)) < rates).astype(np.float64), ("error",))
    (first,) = [v for v in learner().update(batch) if v.phase == "opened"][:1]
    assert first.change == "rate up"
    assert first.offset >= 60_000
    assert first.reference is not None
    assert first.reference.mean == pytest.approx(0.2, abs=0.02)
    assert first.reference.count < 10_000


def test_the_budget_holds_where_nothing_is_learnt() -> None:
    found = 0
    for seed in range(10):
        values = np.random.default_rng([seed, 7]).random((100_000, 5)) < [0.01, 0.05, 0.1, 0.3, 0.5]
        names = tuple(f"error:{seed}:{k}" for k in range(5))
        detector = EDetector(1e4, learning=frozenset(names))
        verdicts = detector.update(Observations.of(values.astype(np.float64), names))
        found += sum(v.phase == "opened" for v in verdicts)
    assert 5 < found < 100  # 1e6 events at one in 1e4


def test_cuts_and_snapshots_change_nothing() -> None:
    batch = errors(8, (0.2, 12_000), (0.4, 3000), (0.1, 9000))
    whole = learner().update(batch)
    for cut in (4096, 9000, 12_500, 17_001):
        first, second = learner(), learner()
        found = first.update(batch.take(slice(0, cut)))
        second.restore(first.snapshot())
        assert found + second.update(batch.take(slice(cut, len(batch)))) == whole


def test_a_fixed_reference_cannot_forget() -> None:
    with pytest.raises(ValueError, match="leave out fixed or learning"):
        EDetector(policy="keep", fixed=True, learning=ERROR)
