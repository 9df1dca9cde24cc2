"""Conformal p-values are valid: a clean sample is flagged no more often than is stated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tocsin.detectors.adversarial import Fitted, null_rate
from tocsin.detectors.conformal import Calibration, flag_rate_bound


def plain_p(calibration: list[float], score: float) -> float:
    return (1 + sum(c >= score for c in calibration)) / (len(calibration) + 1)


@pytest.mark.parametrize("seed", range(5))
def test_p_values_are_the_definition_ties_included(seed: int) -> None:
    rng = np.random.default_rng(seed)
    calibration = rng.integers(0, 20, int(rng.integers(1, 60))).astype(np.float64)
    scores = np.append(rng.integers(-3, 25, 40).astype(np.float64), [np.inf, -np.inf])
    expected = [plain_p(calibration.tolist(), score) for score in scores.tolist()]
    np.testing.assert_array_equal(Calibration(calibration).p(scores), expected)


def test_the_caller_keeps_its_scores() -> None:
    scores = np.array([3.0, 1.0, 2.0])
    kept = Calibration(scores)
    scores[:] = 0
    np.testing.assert_array_equal(kept.scores, [1, 2, 3])


LAWS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tails": lambda rng, n: rng.standard_cauchy(n),
    "ties": lambda rng, n: rng.poisson(1, n).astype(np.float64),
    "constant": lambda rng, n: np.ones(n),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("size", [9, 99, 1000])
def test_p_values_of_clean_samples_are_at_most_uniform(law: str, size: int) -> None:
    """P(p <= u) <= u on average over calibration sets, and equal to it at u = k / (n + 1) without ties."""
    rng = np.random.default_rng(size)
    trials = 4000
    drawn = [LAWS[law](rng, size + 1) for _ in range(trials)]
    p = np.array([Calibration(values[1:]).p(values[:1])[0] for values in drawn])
    for u in (1 / (size + 1), 0.1, 0.2, 0.5, 0.9):
        share = (p <= u + 1e-12).mean()
        slack = 4 * np.sqrt(u * (1 - u) / trials)
        assert share <= u + slack
        if law in ("normal", "heavy tails"):
            assert abs(share - u) <= slack


@pytest.mark.parametrize(("size", "level"), [(500, 0.01), (1500, 0.01 / 3), (99, 0.01), (50, 0.2)])
def test_the_rate_of_one_calibration_set_stays_within_its_bound(size: int, level: float) -> None:
    """Of uniform scores the flag rate is known without drawing samples, so only the sets are random."""
    rng = np.random.default_rng(size)
    bound = flag_rate_bound(level, size, 0.95)
    rates = []
    for _ in range(4000):
        kept = Calibration(rng.random(size))
        # The smallest score that is flagged: everything above it is, and the law is uniform.
        flagged = kept.scores[kept.p(kept.scores + 1e-15) <= level + 1e-12]
        rates.append(1 - kept.scores[-int(level * (size + 1) + 1e-9)])
        assert len(flagged) == int(level * (size + 1) + 1e-9)
    assert np.mean(rates) <= level * 1.03
    assert abs((np.array(rates) <= bound).mean() - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)


@pytest.mark.parametrize(
    ("size", "level"), [(500, 0.0040), (1000, 0.0050), (2500, 0.0068), (10_000, 0.0084)]
)
def test_the_bound_is_the_law_of_the_flag_rate(size: int, level: float) -> None:
    """The largest levels at which at most 1 % are flagged in 95 of 100 calibration sets."""
    assert flag_rate_bound(level, size, 0.95) <= 0.01 < flag_rate_bound(1.5 * level, size, 0.95)
    k = int(level * (size + 1) + 1e-9)
    assert flag_rate_bound(level, size, 0.95) == pytest.approx(
        stats.beta(k, size + 1 - k).ppf(0.95), rel=1e-9
    )


@pytest.mark.parametrize(
    ("size", "level", "enough"), [(98, 0.01, 100), (0, 0.5, 2), (299, 0.003, 334)]
)
def test_too_few_scores_for_a_level_are_refused_with_the_number_that_would_do(
    size: int, level: float, enough: int
) -> None:
    with pytest.raises(ValueError, match=f"{enough} scores would do"):
        flag_rate_bound(level, size, 0.95)
    flag_rate_bound(level, enough, 0.95)


@pytest.mark.parametrize("alpha", [0.01, 0.03, 0.1])
def test_two_scores_together_flag_as_many_clean_samples_as_stated(alpha: float) -> None:
    """Weighted Bonferroni: however the scores depend on one another, alpha on average, null_rate at most."""
    rng = np.random.default_rng(1)
    rates = []
    for trial in range(150):
        common = rng.normal(size=(6000, 1))
        dependence = (0.0, 0.7, 1.0)[trial % 3]
        both = dependence * common + (1 - dependence) * rng.normal(size=(6000, 2))
        scores = {"margin": both[:1500, 0], "logit_gaussian": both[:1500, 1]}
        fitted = Fitted.of(None, scores, alpha)  # type: ignore[arg-type]
        assert sum(fitted.levels.values()) == pytest.approx(alpha)
        assert fitted.levels["margin"] == pytest.approx(2 * fitted.levels["logit_gaussian"])
        flagged = np.zeros(4500, np.bool_)
        for column, name in enumerate(scores):
            flagged |= fitted.calibration[name].p(both[1500:, column]) <= fitted.levels[name]
        rates.append(flagged.mean())
    assert np.mean(rates) <= alpha
    # The bound is one of the law's rate; 4,500 samples of it scatter around.
    slack = 2 * np.sqrt(alpha / 4500)
    assert (np.array(rates) <= null_rate(alpha, 1500) + slack).mean() > 0.95
