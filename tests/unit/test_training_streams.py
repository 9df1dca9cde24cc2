"""The monitor of drift: numbers of the loop run through the detectors of a worker, and what goes the wrong way is claimed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tocsin.consumers.model_settings import DriftSettings
from tocsin.detectors.base import Observations
from tocsin.detectors.stream_monitor import StreamMonitor
from tocsin.training import DriftMonitor, LossMonitor, Monitor, Monitors, TrainingAlerts

STEPS = 1400
BAD = 1000  # the step from which on labels are wrong


class Accuracy(Monitor):
    """The share right of each batch."""

    def initialize(self, model: Any, dataloader: Any, criterion: Any) -> None:
        self.history: list[tuple[int, float]] = []

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        right = (outputs.argmax(1) == batch[1]).float().mean()
        self.history.append((len(self.history), float(right)))


def train(
    monitors: Monitors | None, *, seed: int = 0, bad: int | None = None, nan: int | None = None
) -> torch.Tensor:
    """Train on two noisy classes; return all weights."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    if monitors is not None:
        monitors.initialize(model, None, criterion)
    for step in range(STEPS):
        x = torch.randn(64, 8)
        y = (x[:, 0] + x[:, 1] + 0.5 * torch.randn(64) > 0).long()
        if bad is not None and step >= bad:
            y = torch.where(torch.rand(64) < 0.4, 1 - y, y)
        if step == nan:
            x[3, 2] = torch.nan
        optimizer.zero_grad()
        outputs = model(x)
        loss = criterion(outputs, y)
        if step != nan:
            loss.backward()
            optimizer.step()
        if monitors is not None:
            monitors.on_batch_end(outputs.detach(), (x, y))
        if step % 100 == 99 and monitors is not None:
            monitors.on_epoch_end(step // 100)
    if monitors is not None:
        monitors.close()
        assert not monitors.set_aside
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def watched(**options: Any) -> tuple[Monitors, LossMonitor, TrainingAlerts]:
    alerts = TrainingAlerts("net", show=False, clock=lambda: 10**18)
    loss, accuracy = LossMonitor(), Accuracy()
    return Monitors([loss, accuracy, DriftMonitor([loss, accuracy], **options)], alerts=alerts), loss, alerts  # fmt: skip


def test_labels_that_go_bad_are_one_incident_of_what_a_worker_runs() -> None:
    monitors, _, alerts = watched()
    train(monitors, bad=BAD)
    drifts = [a for a in alerts.alerts if a.summary.startswith("drift: ") and a.state == "firing"]
    assert len(drifts) == 1
    (alert,) = drifts
    assert alert.kind == "training"
    assert alert.environment == "training"
    assert alert.subject in ("loss/batch", "accuracy/value")
    assert alert.detector in ("adwin", "e_detector", "page_hinkley")
    assert BAD <= alert.offset < BAD + 100
    assert alert.change in ("location up", "location down")
    assert alert.delay_events is not None
    assert alert.delay_events <= alert.offset - BAD + 20
    assert f"(batch {alert.offset % 100} of epoch {alert.offset // 100})" in alert.summary
    members = {claim.verdict.subject for claim in alerts.claims}
    assert {"loss/batch", "accuracy/value"} <= members, "both went wrong, in the one incident"


@pytest.mark.parametrize("seed", range(3))
def test_what_learns_is_no_drift(seed: int) -> None:
    monitors, loss, alerts = watched()
    train(monitors, seed=seed)
    losses = [value for _, value in loss.history]
    assert np.mean(losses[-300:]) < 0.6 * np.mean(losses[:30]), "it has learnt"
    assert not list(alerts.claims)


def test_its_claims_are_those_of_the_detectors_fed_by_hand() -> None:
    monitors, loss, alerts = watched(worse={"loss/*": "both"})
    train(monitors, bad=BAD)
    by_hand = StreamMonitor(only_budget=False)
    found = []
    for step, value in loss.history:
        row = np.array([step])
        found += by_hand.update(
            Observations(
                names=("loss/batch",), values=np.array([[value]]), offsets=row, rows=row * 0,
                times=row * 10**9,
            )
        )  # fmt: skip
    opened = [v for v in found if not v.advisory and v.phase == "opened"]
    assert opened
    claims = [c.verdict for c in alerts.claims if c.summary.startswith("drift: ")]
    assert [(v.detector, v.offset) for v in claims] == [(v.detector, v.offset) for v in opened]


class Told(Monitor):
    """Has the values that it is made of."""

    def __init__(self, values: Any) -> None:
        self.history: list[tuple[int, float]] = []
        self.values = values

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        self.history.append((len(self.history), float(self.values[len(self.history)])))


def test_a_rise_to_less_than_the_first_losses_is_one() -> None:
    draw = np.random.default_rng(5)
    level = np.concatenate(
        [np.linspace(2, 0.1, 400), np.full(800, 0.1), np.linspace(0.1, 0.5, 600)]
    )
    told = Told(np.abs(level + 0.03 * draw.standard_normal(len(level))))
    alerts = TrainingAlerts("net", show=False)
    monitors = Monitors([told, DriftMonitor(told, worse={"told/*": "up"})], alerts=alerts)
    monitors.initialize(nn.Linear(1, 1), None, None)
    for _ in level:
        monitors.on_batch_end(None, None)
    monitors.close()
    first = alerts.claims[0]
    assert 1200 < first.place.step < 1500
    assert first.verdict.change == "location up"
    assert (first.verdict.size or 0) > 0.02
    before, now = first.verdict.reference, first.verdict.current
    assert before is not None
    assert now is not None
    assert before.mean == pytest.approx(0.1, abs=0.03)
    assert 0.1 < (now.mean or 0) < 0.5
    assert "told/value: location up, mean 0.1" in first.summary


def told(values: Any, **options: Any) -> TrainingAlerts:
    """Return the alerts of a stream of values."""
    alerts = TrainingAlerts("net", show=False, clock=lambda: 10**18)
    stream = Told(values)
    options = {"worse": {"told/*": "up"}, **options}
    monitors = Monitors([stream, DriftMonitor(stream, **options)], alerts=alerts)
    monitors.initialize(nn.Linear(1, 1), None, None)
    for _ in values:
        monitors.on_batch_end(None, None)
    monitors.close()
    assert not monitors.set_aside
    return alerts


def test_a_change_of_a_stream_that_is_known_is_found_also_where_it_is_ordered() -> None:
    draw = np.random.default_rng(2)
    steps = np.arange(5000)
    falling = 0.1 + 2 * np.exp(-steps / 900)
    values = falling * (1 + 0.2 * draw.standard_normal(len(steps))) * np.where(steps < 4000, 1, 3)
    found = told(values).claims
    assert 4000 <= found[0].place.step < 4100
    assert found[0].verdict.change == "location up"


def test_what_comes_to_rest_is_resolved_and_the_next_change_is_another_alert() -> None:
    draw = np.random.default_rng(3)
    level = np.repeat([1.0, 1.5, 1.0, 1.5], [4000, 2500, 2500, 2500])
    alerts = told(level + 0.2 * draw.standard_normal(len(level)))
    states = [(alert.state, alert.offset) for alert in alerts.alerts]
    firing = [offset for state, offset in states if state == "firing"]
    assert len(firing) == 2
    assert 4000 <= firing[0] < 4050
    assert 9000 <= firing[1] < 9050
    assert [state for state, _ in states] == ["firing", "resolved", "firing", "resolved"]


@pytest.mark.parametrize("every", [1, 10, 5000])
def test_how_often_detectors_run_changes_nothing(every: int) -> None:
    draw = np.random.default_rng(4)
    level = np.repeat([1.0, 1.5], [900, 5100])
    values = level + 0.1 * draw.standard_normal(len(level))
    first = told(values, every=every).claims[0]
    assert 900 <= first.place.step < 930
    assert first.verdict.change == "location up"


class Fails:
    """A detector that does."""

    def update(self, batch: Observations) -> list[Any]:
        raise OSError("no licence")

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass


def test_a_detector_that_fails_is_said_and_the_others_go_on() -> None:
    settings = DriftSettings(extra_detectors=(f"{__name__}:Fails",), alarms="all")
    draw = np.random.default_rng(6)
    level = np.repeat([1.0, 2.0], [900, 200])
    alerts = told(level + 0.1 * draw.standard_normal(len(level)), settings=settings)
    kinds = {alert.kind for alert in alerts.alerts}
    assert kinds == {"pipeline", "training"}
    failed = next(alert for alert in alerts.alerts if alert.kind == "pipeline")
    assert "Fails" in failed.summary


def test_another_run_begins_with_what_comes_then() -> None:
    draw = np.random.default_rng(7)
    values = np.repeat([1.0, 2.0], [900, 100]) + 0.1 * draw.standard_normal(1000)
    stream = Told(np.concatenate([values, values[:500]]))
    alerts = TrainingAlerts("net", show=False)
    monitors = Monitors([stream, DriftMonitor(stream, worse={"told/*": "up"})], alerts=alerts)
    claims = []
    for run in (values, values[:500]):
        monitors.initialize(nn.Linear(1, 1), None, None)
        for _ in run:
            monitors.on_batch_end(None, None)
        claims.append(len(alerts.claims))
    assert claims[0] > 0 == claims[1]


def test_a_long_curve_is_watched_without_gaps() -> None:
    loss = LossMonitor()
    alerts = TrainingAlerts("net", show=False)
    drift = DriftMonitor(loss)
    draw = np.random.default_rng(8)
    drift.alerts = alerts
    drift.initialize(nn.Linear(1, 1), None, None)  # type: ignore[arg-type]
    for step in range(25_000):
        loss.history.add(step, 1 + (step >= 24_900) + 0.1 * float(draw.standard_normal()))
        drift.on_batch_end(None, None)
    drift.close()
    first = alerts.claims[0]
    assert 24_900 <= first.place.step < 24_920
    assert (first.verdict.delay_events or 0) >= first.place.step - 24_900


def test_no_weight_and_no_random_number_differs() -> None:
    weights = train(None, bad=BAD)
    after = torch.rand(1)
    assert torch.equal(weights, train(watched()[0], bad=BAD))
    assert torch.equal(after, torch.rand(1))


def test_detectors_of_the_settings_run_as_well() -> None:
    settings = DriftSettings(extra_detectors=("kswin:seed=1",), alarms="all")
    monitors, _, alerts = watched(settings=settings)
    train(monitors, bad=BAD)
    assert "kswin" in {claim.verdict.detector for claim in alerts.claims}


def test_a_loss_that_is_no_number_is_left_to_the_monitor_of_it() -> None:
    monitors, _, alerts = watched()
    train(monitors, nan=900)
    assert {claim.verdict.change for claim in alerts.claims} == {"non-finite"}


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match="every must be 1 batch or more, got 0"):
        DriftMonitor([], every=0)
    with pytest.raises(ValueError, match=r"worse\['loss'\] must be up, down or both, got 'higher'"):
        DriftMonitor([], worse={"loss": "higher"})  # type: ignore[dict-item]
