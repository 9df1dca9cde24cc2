"""Which pairs the four error rates of a binary classifier are about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tocsin.consumers.join import Pairs
from tocsin.consumers.rates import RATES, Rates
from tocsin.consumers.score_columns import ScoreColumns
from tocsin.core.batch import EventBatch, Origin
from tocsin.core.events import Prediction

NAN = float("nan")


def pairs(
    predicted: Sequence[float], label: Sequence[float], scores: Sequence[Sequence[float]] = ()
) -> Pairs:
    zeros = np.zeros(len(label), np.int64)
    width = np.array(scores, float) if scores else np.empty((len(label), 0))
    return Pairs(
        zeros, zeros, zeros, zeros.astype(np.uint8), np.array(predicted, float), np.array(label, float), zeros,
        zeros, zeros, width,
    )  # fmt: skip


def columns(first: Prediction, positive: str | None = None) -> ScoreColumns:
    found = ScoreColumns(positive)
    (batch,) = EventBatch.of("m", [(Origin(0, 0, 0), first)])
    found.of(batch)
    return found


def bits(rates: Rates, of: Pairs) -> list[list[float]]:
    """Return a row for each pair: false negative, false positive, false discovery, false omission."""
    found: list[list[float]] = []
    for rows, _, part in rates.pieces(of, np.full(len(of.label), NAN), is_regression=False):
        assert rows.stop - rows.start == len(part)
        found += part[:, 2:6].tolist() if part.shape[1] > 2 else [[NAN] * 4] * len(part)
    return found


PLAIN = Prediction(prediction_id="x", prediction=1)
EACH = [[NAN, 0, NAN, 0], [NAN, 1, 1, NAN], [1, NAN, NAN, 1], [0, NAN, 0, NAN]]
"""Of a true and a false negative, a false and a true positive."""


def test_each_pair_is_about_two_of_the_four() -> None:
    assert len(RATES) == 4
    found = bits(Rates(columns(PLAIN)), pairs([0, 1, 0, 1], [0, 0, 1, 1]))
    np.testing.assert_array_equal(found, EACH)


def test_the_class_that_is_asked_about_is_that_of_the_score_or_as_set() -> None:
    scored = columns(Prediction(prediction_id="x", prediction="no", scores={"yes": 0.3, "no": 0.7}))
    yes, no = float(scored.classes[0]), -(2.0**52) - 77
    found = bits(Rates(scored), pairs([no, yes, no, yes], [no, no, yes, yes], [[0.3]] * 4))
    np.testing.assert_array_equal(found, EACH)
    found = bits(Rates(columns(PLAIN, positive="0")), pairs([1, 0, 1, 0], [1, 1, 0, 0]))
    np.testing.assert_array_equal(found, EACH)


@pytest.mark.parametrize(
    ("of", "scores"),
    [([1, 2, 1], ()), ([1, 0.5, 1], ()), ([1, -(2.0**52) - 5, 1], ()), ([1, 1, 1], [[NAN] * 3, [0.2] * 3, [NAN] * 3])],
    ids=["a third class", "a number", "a text", "three scores"],
)  # fmt: skip
def test_the_first_pair_that_is_not_of_two_classes_ends_it(
    of: list[float], scores: list[list[float]]
) -> None:
    many = columns(PLAIN)
    if scores:
        many = columns(
            Prediction(prediction_id="x", prediction=1, scores={"0": 0.1, "1": 0.2, "2": 0.7})
        )
    for cut in (0, 1, 2, 3):
        rates, found = Rates(many), []
        whole = pairs(of, [1, 1, 0], scores)
        for part in (slice(0, cut), slice(cut, 3)):
            found += bits(rates, Pairs(*(column[part] for column in whole)))
        np.testing.assert_array_equal(found, [EACH[3], [NAN] * 4, [NAN] * 4])
        assert not rates.is_binary


def test_what_is_no_pair_ends_nothing_and_is_about_nothing() -> None:
    rates = Rates(columns(PLAIN))
    assert rates.has_begun == 0
    np.testing.assert_array_equal(bits(rates, pairs([NAN, 1], [1, NAN])), [[NAN] * 4] * 2)
    assert (rates.is_binary, rates.has_begun) == (True, 0)
    np.testing.assert_array_equal(bits(rates, pairs([NAN, 1], [1, 1])), [[NAN] * 4, EACH[3]])
    assert rates.has_begun == 2
