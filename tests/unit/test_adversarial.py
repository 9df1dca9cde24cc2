"""Adversarial inputs on a real classifier: few clean inputs flagged, attacked ones and their client found."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from tocsin.consumers.attack import fitted
from tocsin.core.columns import Strings
from tocsin.core.errors import ConfigError, StateError
from tocsin.demo.classifier import load, train
from tocsin.demo.pgd import pgd
from tocsin.detectors.adversarial import NO_CLIENT, AdversarialInputs, Fitted, null_rate
from tocsin.detectors.base import Observations

pytestmark = pytest.mark.xdist_group("adversarial")

FIT, CALIBRATE, ALPHA = 200, 300, 0.05


class Logits(NamedTuple):
    """(n, 10) of images the model never saw, and of the same images under attack."""

    clean: np.ndarray
    attacked: np.ndarray


@pytest.fixture(scope="module")
def digits():
    """Of a small convolutional network, trained here."""
    known, new = load(0)
    model = train(known, 0, epochs=12)
    attacked = pgd(model, new.images, new.labels)
    with torch.inference_mode():
        clean, hostile = model(new.images), model(attacked)
    assert (clean.argmax(1) == new.labels).float().mean() > 0.95
    assert (hostile.argmax(1) == new.labels).float().mean() < 0.05
    return Logits(clean.double().numpy(), hostile.double().numpy())


def small(**settings) -> AdversarialInputs:
    return AdversarialInputs(
        **{"fit_events": FIT, "calibration_events": CALIBRATE, "alpha": ALPHA} | settings
    )


def rows(logits: np.ndarray, clients=None, begin: int = 0) -> Observations:
    count = np.arange(begin, begin + len(logits))
    return Observations(
        names=tuple(f"logit:{k}" for k in range(logits.shape[1])),
        values=np.ascontiguousarray(logits),
        offsets=count,
        rows=count % 7,
        clients=None if clients is None else Strings.of(clients),
        ids=Strings.of(f"p{k}" for k in count),
    )


def test_clean_images_are_flagged_within_the_stated_rate_and_attacked_ones_far_more(digits) -> None:
    clean, attacked = [], []
    for seed in range(40):
        order = np.random.default_rng(seed).permutation(len(digits.clean))
        learned, rest = order[: FIT + CALIBRATE], order[FIT + CALIBRATE :]
        flags = Fitted.fit(digits.clean[learned], FIT, ALPHA).flags
        clean.append(flags(digits.clean[rest]).mean())
        attacked.append(flags(digits.attacked[rest]).mean())
    assert np.mean(clean) <= ALPHA
    slack = 2 * np.sqrt(ALPHA / len(rest))
    assert (np.array(clean) <= null_rate(ALPHA, CALIBRATE) + slack).mean() >= 0.95
    assert np.mean(attacked) > 0.8
    assert np.min(attacked) > 5 * np.mean(clean)


def test_the_attacking_client_and_no_other_is_named_with_its_samples(digits) -> None:
    rng = np.random.default_rng(1)
    order = rng.permutation(len(digits.clean))
    stream = np.concatenate([digits.clean[order], digits.clean[order[500:]]])
    who = np.array([f"client-{k}" for k in rng.integers(0, 5, len(stream))], object)
    hostile = (np.arange(len(stream)) >= 900) & (who == "client-3")
    stream[hostile] = digits.attacked[rng.choice(order, hostile.sum())]
    detector = small()
    found = detector.update(rows(stream, who.tolist()))
    assert {verdict.subject for verdict in found} == {"client:client-3"}
    first = found[0]
    assert hostile[first.offset]
    assert hostile[900 : first.offset + 1].sum() <= 25
    assert (first.row, first.detector) == (first.offset % 7, "adversarial")
    assert first.statistic >= first.threshold == 1e6
    flags = detector._fitted.flags(stream)
    mine = np.flatnonzero(flags & (who == "client-3") & (np.arange(len(stream)) >= FIT + CALIBRATE))
    upto = mine[mine <= first.offset]
    assert first.samples == [f"p{k}" for k in upto[-10:]]
    seen = np.flatnonzero(who[FIT + CALIBRATE : first.offset + 1] == "client-3")[-64:]
    assert first.current.count == len(seen)
    assert first.delay_events is None  # flags do not say when it began
    assert first.current.mean > 2 * first.reference.mean
    assert detector.checked == len(stream) - FIT - CALIBRATE
    assert detector.flagged == flags[FIT + CALIBRATE :].sum()


def test_learning_from_the_stream_and_from_a_file_give_the_same(digits, tmp_path) -> None:
    learned, rest = digits.clean[: FIT + CALIBRATE], digits.clean[FIT + CALIBRATE :]
    np.savez(tmp_path / "clean.npz", logits=learned)
    from_file = small(reference=fitted(tmp_path / "clean.npz", ALPHA, FIT))
    from_stream = small()
    assert from_stream.update(rows(learned)) == []
    assert from_stream.steady() == from_file.steady()
    top = np.sort(learned[FIT:], axis=1)
    kept = from_stream._fitted.calibration["margin"].scores
    np.testing.assert_allclose(kept, np.sort(top[:, -2] - top[:, -1]), rtol=2.0**-14)
    mixed = np.where(np.arange(len(rest))[:, None] < 200, rest, digits.attacked[-len(rest) :])
    found = [detector.update(rows(mixed)) for detector in (from_stream, from_file)]
    assert found[0] == found[1] != []
    assert {verdict.subject for verdict in found[0]} == {f"client:{NO_CLIENT}"}
    assert from_stream.snapshot() == from_file.snapshot()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other": np.zeros((600, 10))}, "array `logits`"),
        ({"logits": np.zeros(600)}, r"got shape \(600,\)"),
        ({"logits": np.zeros((600, 1))}, "classes >= 2"),
        ({"logits": np.full((600, 10), np.nan)}, "finite"),
        ({"logits": np.ones((60, 10))}, "scores would do"),
        ({"logits": np.array([{}], object)}, "array `logits`"),
        (None, "array `logits`"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_reference_is_refused_by_name(content, message, tmp_path) -> None:
    path = tmp_path / "clean.npz"
    if content is not None:
        np.savez(path, **content)
    with pytest.raises(ConfigError, match=f"attack.reference {path}: .*{message}"):
        fitted(path, 0.01, 200)


@pytest.mark.parametrize("seen", [100, 600])
def test_another_number_of_logits_is_refused_and_changes_nothing(digits, seen: int) -> None:
    detector = small()
    detector.update(rows(digits.clean[:seen]))
    before = detector.snapshot()
    with pytest.raises(ValueError, match="10 classes as before, got 12"):
        detector.update(rows(np.zeros((5, 12))))
    assert detector.snapshot() == before
    detector.update(rows(digits.clean[seen:], begin=seen))
    undisturbed = small()
    undisturbed.update(rows(digits.clean))
    assert detector.snapshot() == undisturbed.snapshot()


@pytest.mark.parametrize("seen", [0, 100, 600])
def test_rows_with_a_value_that_is_not_usable_are_left_out(digits, seen: int) -> None:
    detector = small()
    detector.update(rows(digits.clean[:seen]))
    before, changes = detector.snapshot(), detector.changes
    bad = digits.clean[:50].copy()
    bad[np.arange(50), np.arange(50) % 10] = np.resize([np.nan, np.inf, -np.inf, 1e101], 50)
    for _ in range(100):
        assert detector.update(rows(bad)) == []
    assert (detector.snapshot(), detector.changes) == (before, changes)
    assert len(detector._waiting) <= 1


def test_one_logit_is_no_class_and_is_left_alone() -> None:
    detector = small()
    assert detector.update(rows(np.zeros((2000, 1)))) == []
    assert detector.snapshot() == small().snapshot()


def test_clients_are_bounded_and_the_one_seen_first_is_forgotten(digits) -> None:
    detector = small(reference=Fitted.fit(digits.clean[:500], FIT, ALPHA), max_clients=50)
    sizes = []
    for begin in range(0, 20_000, 500):
        who = [f"{'x' * 40}-{k}" for k in range(begin, begin + 500)]
        detector.update(rows(np.resize(digits.attacked, (500, 10)), who, begin))
        sizes.append(len(detector.volatile()))
        assert len(detector._evidence) == detector._clients.live < 50 + 256
        assert set(detector._samples) <= set(detector._clients.texts(
            detector._clients.first, len(detector._clients)).to_list())  # fmt: skip
    assert max(sizes) < 2 * sizes[0]


def test_a_snapshot_calibrated_for_a_larger_alpha_is_refused(digits) -> None:
    first = small()
    first.update(rows(digits.clean))
    second = small(alpha=0.001, calibration_events=3000)
    before = second.snapshot()
    with pytest.raises(StateError, match="larger alpha"):
        second.restore(first.snapshot())
    assert second.snapshot() == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"fit_events": 0}, {"max_clients": 0}, {"budget_events": 1}, {"alpha": 0}, {"alpha": 1},
        {"calibration_events": 20},
    ],
    ids=str,
)  # fmt: skip
def test_parameters_that_make_no_sense_together_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"AdversarialInputs needs|scores would do"):
        small(**wrong)
