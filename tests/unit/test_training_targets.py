"""What monitors take for the targets of a batch, and for its loss, is what the loop does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tocsin.training import LossMonitor, Monitors, PerformanceMonitor, TrainingAlerts, WatchedLoader

SEED = torch.Generator().manual_seed(0)
X = torch.randn(300, 4, generator=SEED)
Y = (X[:, 0] > 0).long()


def row_of(
    outputs: Any, batch: Any, criterion: Callable[..., Any] | None, *, validates: bool = True
) -> dict[str, float]:
    """Return what an epoch of one batch comes to, the same in training and in validation."""
    monitor = PerformanceMonitor(alerts=TrainingAlerts(show=False))
    monitor.initialize(nn.Identity(), [], criterion)
    monitor.on_batch_end(outputs, batch)
    if validates:
        monitor.on_validation_batch_end(outputs, batch)
    monitor.on_epoch_end(0)
    (row,) = monitor.history
    return row


@pytest.mark.parametrize(
    "rest",
    [
        (torch.rand(300),),  # weights
        (torch.arange(300),),  # indices
        (torch.randint(0, 2, (300,), generator=SEED), ["text"] * 300),  # a group
    ],
)
def test_what_follows_the_labels_is_not_taken_for_them(rest: tuple[Any, ...]) -> None:
    logits = torch.stack([-X[:, 0], X[:, 0] + 0.3], 1)
    row = row_of(logits, (X, Y, *rest), nn.CrossEntropyLoss())
    right = float((logits.argmax(1) == Y).float().mean())
    assert 0.8 < right < 1
    assert row["accuracy"] == row["val_accuracy"] == pytest.approx(right)
    assert row["val_loss"] == pytest.approx(float(functional.cross_entropy(logits, Y)))


@pytest.mark.parametrize("is_moved", [False, True])
def test_what_the_criterion_is_given_tells_which_part_they_are(is_moved: bool) -> None:
    """Of a group and labels of one shape nothing else can; validation goes by it too."""
    group = torch.arange(300) % 2
    logits = torch.stack([-X[:, 0], X[:, 0]], 1).requires_grad_()
    criterion, batch = nn.CrossEntropyLoss(), [X, group, Y]
    monitor = PerformanceMonitor(alerts=TrainingAlerts(show=False))
    with Monitors([monitor]) as monitors:
        monitors.initialize(nn.Identity(), [], criterion)
        criterion(logits, Y.clone() if is_moved else Y)
        monitors.on_batch_end(logits, batch)
        assert len(criterion._forward_pre_hooks) == 0
        monitors.on_validation_batch_end(logits, batch)
        monitors.on_epoch_end(0)
    assert not criterion._forward_hooks
    (row,) = monitor.history
    assert row["accuracy"] == row["val_accuracy"] == 1.0


def test_where_nothing_tells_it_is_said_which_part_is_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logits = torch.stack([-X[:, 0], X[:, 0]], 1)
    with caplog.at_level(logging.WARNING):
        row_of(logits, [X, Y, torch.arange(300) % 2], functional.cross_entropy)
    assert caplog.text.count("parts 1 and 2 of a batch may all be its targets, and 1 is taken") == 1


def test_targets_that_are_no_part_of_the_batch_are_not_looked_for_again_and_again() -> None:
    criterion = nn.CrossEntropyLoss()
    logits = torch.stack([-X[:, 0], X[:, 0]], 1).requires_grad_()
    with Monitors([PerformanceMonitor()], alerts=TrainingAlerts(show=False)) as monitors:
        monitors.initialize(nn.Identity(), [], criterion)
        for step in range(3):
            assert len(criterion._forward_pre_hooks) == 1, step
            criterion(logits, 1 - Y)
            monitors.on_batch_end(logits, [X, Y])
        assert not criterion._forward_pre_hooks


def test_of_two_inputs_the_second_is_no_target() -> None:
    logits = torch.stack([-X[:, 0], X[:, 0]], 1)
    assert row_of(logits, [X, X[:, :3], Y], nn.CrossEntropyLoss())["accuracy"] == 1.0
    assert row_of(logits, [X, -logits, Y], nn.CrossEntropyLoss())["accuracy"] == 1.0  # a teacher's
    numbers = X.sum(1, keepdim=True)
    row = row_of(numbers, [X, X[:, :3], numbers + 1], nn.MSELoss())
    assert row["val_loss"] == pytest.approx(1.0)


@pytest.mark.parametrize("criterion", [nn.MSELoss(), functional.mse_loss])
def test_a_column_of_outputs_is_compared_with_numbers_one_by_one(
    criterion: Callable[..., Any],
) -> None:
    row = row_of(X[:, :1], [X, X[:, 0] + 0.5], criterion)
    assert row["val_loss"] == pytest.approx(0.25)
    assert "accuracy" not in row


@pytest.mark.parametrize(
    "criterion", [nn.BCEWithLogitsLoss(), functional.binary_cross_entropy_with_logits]
)
@pytest.mark.parametrize("labels", [Y, Y.float()])
def test_a_logit_of_two_classes(criterion: Callable[..., Any], labels: torch.Tensor) -> None:
    row = row_of(5 * X[:, :1], [X, labels], criterion)
    usual = functional.binary_cross_entropy_with_logits(5 * X[:, 0], Y.float())
    assert row["val_accuracy"] == 1.0
    assert row["val_loss"] == pytest.approx(float(usual))


def test_shares_of_classes_are_the_class_that_is_meant_most() -> None:
    logits = torch.stack([-X[:, 0], X[:, 0]], 1)
    shares = 0.9 * functional.one_hot(Y, 2) + 0.05
    row = row_of(logits, [X, shares], nn.CrossEntropyLoss())
    assert row["accuracy"] == row["val_accuracy"] == 1.0


def test_a_class_that_the_criterion_ignores_is_not_counted() -> None:
    labels = torch.where(torch.arange(300) < 100, 0, Y + 1)
    logits = torch.stack([torch.zeros(300), -X[:, 0], X[:, 0]], 1)
    row = row_of(logits, [X, labels], nn.CrossEntropyLoss(ignore_index=0))
    assert row["accuracy"] == 1.0


def test_classes_as_the_last_dimension() -> None:
    """As models of text give them, whose loops flatten both."""
    labels = torch.randint(0, 5, (20, 7), generator=SEED)
    logits = 9.0 * functional.one_hot(labels, 5)
    row = row_of(logits, [X, labels], nn.CrossEntropyLoss())
    assert row["val_accuracy"] == 1.0
    assert row["val_loss"] == pytest.approx(
        float(functional.cross_entropy(logits.flatten(0, 1), labels.flatten()))
    )


def test_the_loss_of_validation_is_of_a_row_where_the_criterion_adds_up() -> None:
    logits = torch.stack([-X[:, 0], X[:, 0]], 1)
    row = row_of(logits, [X, Y], nn.CrossEntropyLoss(reduction="sum"))
    assert row["val_loss"] == pytest.approx(float(functional.cross_entropy(logits, Y)))


def test_outputs_that_are_no_numbers_are_wrong_answers() -> None:
    logits = torch.stack([-X[:, 0], X[:, 0]], 1)
    logits[:200] = torch.nan
    assert row_of(logits, [X, Y], nn.CrossEntropyLoss())["accuracy"] == pytest.approx(1 / 3)


def test_where_no_labels_fit_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    monitor = PerformanceMonitor(alerts=TrainingAlerts(show=False))
    with caplog.at_level(logging.WARNING):
        monitor.initialize(nn.Identity(), [], None)
        for _ in range(3):
            monitor.on_batch_end(torch.zeros(8, 3), [torch.zeros(8, 2), torch.zeros(8, 7)])
        monitor.on_epoch_end(0)
    (said,) = [record.message for record in caplog.records]
    assert "found (8, 3) of outputs and (8, 7) of targets" in said


def test_a_criterion_of_other_arguments_costs_the_loss_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def of_four(outputs: Any, x: Any, mean: Any, spread: Any) -> Any:
        return outputs.sum() + x.sum() + mean + spread

    logits = torch.stack([-X[:, 0], X[:, 0]], 1)
    with caplog.at_level(logging.WARNING):
        row = row_of(logits, [X, Y], of_four)
    assert row["val_accuracy"] == 1.0
    assert "val_loss" not in row
    assert caplog.text.count("the criterion cannot be called with outputs of shape (300, 2)") == 1


class Counting(nn.Module):
    """Gives its loss first of two, and remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.seen: list[float] = []
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, outputs: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, int]:
        loss = functional.cross_entropy(outputs, y, reduction="none")
        self.calls += 1
        self.seen.append(self.calls)
        self.mean.mul_(0.9).add_(0.1 * loss.detach().mean())
        return (loss * (loss > 0.5 * self.mean)).mean(), self.calls


class Remembering:
    """The same of no module."""

    def __init__(self) -> None:
        self.inner = Counting()
        self.mean = torch.zeros(())

    def __call__(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = functional.cross_entropy(outputs, y, reduction="none")
        self.mean += 0.1 * (loss.detach().mean() - self.mean)
        return (loss * (loss > 0.5 * self.mean)).mean()


@pytest.mark.parametrize("kind", [Counting, Remembering])
def test_a_criterion_that_remembers_is_as_it_would_be(kind: Callable[[], Any]) -> None:
    def trained(is_watched: bool) -> tuple[list[torch.Tensor], list[tuple[int, float]], Any]:
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        criterion, loss_monitor = kind(), LossMonitor()
        watching = [loss_monitor, PerformanceMonitor()] if is_watched else []
        with Monitors(watching, alerts=TrainingAlerts(show=False)) as monitors:
            monitors.initialize(model, [], criterion)
            for batch in zip(X.split(30), Y.split(30), strict=True):
                outputs = model(batch[0])
                given = criterion(outputs, batch[1])
                loss = given[0] if isinstance(given, tuple) else given
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                monitors.on_batch_end(outputs, batch)
            monitors.validate(model, [(X, Y)])
            monitors.on_epoch_end(0)
        assert not monitors.set_aside
        return [p.detach() for p in model.parameters()], list(loss_monitor.history), criterion

    plain, _, alone = trained(False)
    watched, history, beside = trained(True)
    assert all(map(torch.equal, plain, watched))
    assert len(history) == 10
    assert torch.equal(alone.mean, beside.mean)
    if isinstance(alone, Counting):
        assert (beside.calls, beside.seen) == (10, list(range(1, 11)))


def test_observing_hangs_nothing_on_the_criterion() -> None:
    loader = WatchedLoader(DataLoader(TensorDataset(X, Y), 30))
    criterion = nn.CrossEntropyLoss()
    for batch in loader:
        loader.observe(torch.stack([-X[:30, 0], X[:30, 0]], 1), batch, criterion)
    assert not criterion._forward_pre_hooks
