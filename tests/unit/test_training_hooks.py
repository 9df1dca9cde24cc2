"""What monitors hang on a model, a criterion and torch's optimizers is gone when they end, fail or are dropped, and nothing else is."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.optim import optimizer as torch_optimizer

from tocsin.training import (
    ActivationMonitor,
    BaseMonitor,
    BiasMonitor,
    CalibrationMonitor,
    GradientMonitor,
    LossMonitor,
    Monitors,
    PerformanceMonitor,
    TrainingAlerts,
)
from tocsin.training import gradients as room

KINDS: tuple[type[BaseMonitor], ...] = (
    LossMonitor, GradientMonitor, PerformanceMonitor, ActivationMonitor, BiasMonitor, CalibrationMonitor,
)  # fmt: skip
X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


class Trained:
    """A model with hooks of its own, and all tables in which hooks are."""

    def __init__(self) -> None:
        self.model = nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, 3),
        )  # fmt: skip
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.seen = 0
        for of in (self.model, self.model[2], self.criterion):
            of.register_forward_hook(self._see)
            of.register_forward_pre_hook(self._see)
        self.optimizer.register_step_pre_hook(self._see)

    def _see(self, *_: object) -> None:
        self.seen += 1

    def step(self, monitors: BaseMonitor | None = None) -> None:
        outputs = self.model(X)
        self.criterion(outputs, Y).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if monitors is not None:
            monitors.on_batch_end(outputs, [X, Y])

    def tables(self) -> dict[str, list[Any]]:
        found: dict[str, Any] = {
            name: table
            for of in (torch_module, torch_optimizer)
            for name, table in vars(of).items()
            if name.startswith("_global_") and isinstance(table, dict)
        }
        for top in (self.model, self.criterion):
            for name, module in top.named_modules():
                for kind, table in vars(module).items():
                    if "_hooks" in kind and isinstance(table, dict):
                        found[f"{type(top).__name__} {name} {kind}"] = table
        found["steps"] = {**self.optimizer._optimizer_step_pre_hooks, **self.optimizer._optimizer_step_post_hooks}  # fmt: skip
        return {name: list(table.items()) for name, table in found.items()}


@pytest.fixture
def trained() -> Iterator[Trained]:
    mine = torch_optimizer.register_optimizer_step_post_hook(lambda *_: None)
    yield Trained()
    mine.remove()


def count(tables: dict[str, list[Any]]) -> int:
    return sum(map(len, tables.values()))


def all_of_them() -> Monitors:
    return Monitors([kind() for kind in KINDS], alerts=TrainingAlerts(show=False))


def closed(trained: Trained) -> None:
    monitors = all_of_them()
    monitors.initialize(trained.model, [], trained.criterion)
    trained.step(monitors)
    monitors.close()
    monitors.close()


def left_by_an_error(trained: Trained) -> None:
    with suppress(KeyError), all_of_them() as monitors:
        monitors.initialize(trained.model, [], trained.criterion)
        trained.step(monitors)
        raise KeyError("of the loop")


def begun_twice(trained: Trained) -> None:
    monitors = all_of_them()
    for _ in range(2):
        monitors.initialize(trained.model, [], trained.criterion)
        trained.step(monitors)
    monitors.close()


def never_trained(trained: Trained) -> None:
    with all_of_them() as monitors:
        monitors.initialize(nn.DataParallel(trained.model), [], trained.criterion)


@pytest.mark.parametrize("end", [closed, left_by_an_error, begun_twice, never_trained])
def test_at_the_end_all_tables_are_as_they_were(
    trained: Trained, end: Callable[[Trained], None]
) -> None:
    before = trained.tables()
    assert count(before) == 8
    end(trained)
    assert trained.tables() == before
    trained.seen = 0
    trained.step()
    assert trained.seen == 7, "the hooks of others still do their work"


@pytest.mark.parametrize("kind", KINDS)
def test_a_monitor_that_is_set_aside_leaves_nothing(
    trained: Trained, kind: type[BaseMonitor], caplog: pytest.LogCaptureFixture
) -> None:
    before, monitor = trained.tables(), kind()
    others = Monitors([LossMonitor()], alerts=TrainingAlerts(show=False))
    others.initialize(trained.model, [], trained.criterion)
    with_others = trained.tables()
    monitors = Monitors([monitor], alerts=TrainingAlerts(show=False))
    monitors.initialize(trained.model, [], trained.criterion)
    assert count(trained.tables()) > count(with_others)

    def fail(*_: object) -> None:
        raise KeyError("mine")

    monitor.on_batch_end = fail  # type: ignore[method-assign]
    with caplog.at_level(logging.CRITICAL):
        trained.step(monitors)
    assert [*monitors.set_aside] == [kind.__name__]
    assert trained.tables() == with_others, "without its being closed"
    others.close()
    assert trained.tables() == before


def test_a_monitor_that_cannot_begin_leaves_nothing(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise KeyError("no more hooks")

    monkeypatch.setattr(room, "register_optimizer_step_post_hook", fail)
    before = trained.tables()
    monitors = Monitors([GradientMonitor()], alerts=TrainingAlerts(show=False))
    with caplog.at_level(logging.CRITICAL):
        monitors.initialize(trained.model, [], trained.criterion)
    assert [*monitors.set_aside] == ["GradientMonitor"]
    gc.collect()
    assert trained.tables() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_monitor_that_is_dropped_goes_though_the_model_stays(
    trained: Trained, kind: type[BaseMonitor]
) -> None:
    """As in a notebook, whose cell makes the monitors anew and closes none."""
    before = trained.tables()
    monitor = kind()
    dropped = weakref.ref(monitor)
    monitors = Monitors([monitor], alerts=TrainingAlerts(show=False))
    monitors.initialize(trained.model, [], trained.criterion)
    trained.step(monitors)
    del monitor, monitors
    gc.collect()
    assert dropped() is None
    assert trained.tables() == before
    trained.step()


def test_a_loop_that_closes_nothing_keeps_neither_model_nor_monitors() -> None:
    gc.collect()
    begun = len(torch_optimizer._global_optimizer_pre_hooks), len(torch_optimizer._global_optimizer_post_hooks)  # fmt: skip
    trained, monitors = Trained(), all_of_them()
    monitors.initialize(trained.model, [], trained.criterion)
    trained.step(monitors)
    gone = [
        weakref.ref(one) for one in (trained.model, trained.model[0].weight, *monitors.monitors)
    ]
    del trained, monitors
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)
    assert (
        len(torch_optimizer._global_optimizer_pre_hooks), len(torch_optimizer._global_optimizer_post_hooks),
    ) == begun  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_of_a_monitor_has_no_hooks_to_remove(
    trained: Trained, kind: type[BaseMonitor], copied: Callable[[Any], Any]
) -> None:
    before, monitor = trained.tables(), kind()
    monitor.initialize(trained.model, [], trained.criterion)
    hung = trained.tables()
    copied(monitor).close()
    assert trained.tables() == hung
    monitor.close()
    assert trained.tables() == before
