"""Replicas of a model that run in threads, as `DataParallel` runs them on several GPUs: what their hooks add up is what one thread adds up."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tocsin.training import ActivationMonitor, GradientMonitor, TrainingAlerts

REPLICAS = 4
ROWS = 32  # of a batch; as many for each replica
BATCHES = 15


def in_threads(replicas: Sequence[nn.Module], parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return what each gives for its part, as `torch.nn.parallel.parallel_apply` does, which asks for GPUs."""
    together = threading.Barrier(len(replicas))

    def apply(replica: nn.Module, part: torch.Tensor) -> Any:
        together.wait(10)
        return replica(part)

    with ThreadPoolExecutor(len(replicas)) as threads:
        return list(threads.map(apply, replicas, parts))


class Yields(dict[str, Any]):
    """Lets other threads run once something was read of it: what is written then may be out of date."""

    def get(self, key: str, default: Any = None) -> Any:
        found = super().get(key, default)
        time.sleep(0)
        return found

    def __getitem__(self, key: str) -> Any:
        found = super().__getitem__(key)
        time.sleep(0)
        return found


def let_threads_meet(monitor: ActivationMonitor) -> None:
    for of, names in (
        (monitor, ("_alive", "_shares", "_passes", "_in_evaluation")),
        (monitor._units, ("_sums", "_passes", "_rows")),
    ):
        for name in names:
            assert getattr(of, name) == {}
            setattr(of, name, Yields())


def replicas_of(model: nn.Module) -> list[nn.Module]:
    """Return what `torch.nn.parallel.replicate` does, whose copies of parameters are on GPUs."""
    made: list[dict[nn.Module, Any]] = []
    for _ in range(REPLICAS):
        of = {module: module._replicate_for_data_parallel() for module in model.modules()}
        for module, replica in of.items():
            for name, child in module._modules.items():
                setattr(replica, name, None if child is None else of[child])
            for name, parameter in module._parameters.items():
                setattr(replica, name, None if parameter is None else parameter.view_as(parameter))
        made.append(of)
    return [of[model] for of in made]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.0), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2),
    )  # fmt: skip
    with torch.no_grad():
        model[0].bias[:3] = -1000.0  # dead units
        model[2].bias[:2] = 1000.0  # values at a bound
    return model


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(ROWS, 6, generator=generator) for _ in range(BATCHES)]


def run(monitor: ActivationMonitor, *, threads: bool) -> None:
    """Pass batches through replicas, each a part, at the same time or one after the other."""
    model = net()
    monitor.alerts = TrainingAlerts(show=False)
    monitor.initialize(nn.DataParallel(model), [], None)
    let_threads_meet(monitor)
    for batch in batches():
        replicas, parts = replicas_of(model), batch.chunk(REPLICAS)
        if threads:
            outputs = in_threads(replicas, parts)
        else:
            outputs = [replica(part) for replica, part in zip(replicas, parts, strict=True)]
        monitor.on_batch_end(torch.cat(outputs), [batch])


def test_activations_are_added_up_whatever_thread_comes_first() -> None:
    monitors = [ActivationMonitor(every=1) for _ in range(2)]
    for monitor, threads in zip(monitors, (False, True), strict=True):
        run(monitor, threads=threads)
    serial, threaded = monitors
    layers = {"0", "2", "5", "7"}
    assert set(serial._units._sums) == set(threaded._units._sums) == layers
    passes = BATCHES * REPLICAS
    assert threaded._units._passes == dict.fromkeys(layers, passes)
    assert threaded._units._rows == dict.fromkeys(layers, BATCHES * ROWS)
    assert threaded._passes == {"1": passes, "3": passes, "6": passes}
    for layer in layers:
        sums = [one._units._sums[layer].numpy() for one in monitors]
        np.testing.assert_allclose(sums[1], sums[0], rtol=1e-12)
    assert torch.equal(threaded._alive["1"], serial._alive["1"])
    assert float(threaded._shares["3"]) == pytest.approx(float(serial._shares["3"]), rel=1e-6)
    # Over rows the sums are those of one pass of each whole batch.
    model, x = net(), torch.cat(batches())
    with torch.no_grad():
        given = model[0](x).double()
    whole = torch.stack([given.sum(0), given.square().sum(0)]).numpy()
    np.testing.assert_allclose(threaded._units._sums["0"].numpy()[2:], whole, rtol=1e-5)
    for monitor in monitors:
        monitor.on_epoch_end(0)
        monitor.close()
    assert threaded.history[0] == pytest.approx(serial.history[0], rel=1e-6)
    assert threaded.history[0]["dead:1"] == 3 / 8


def test_a_forgotten_train_is_counted_in_every_replica() -> None:
    monitor = ActivationMonitor(every=1)
    model = net()
    monitor.initialize(nn.DataParallel(model), [], None)
    let_threads_meet(monitor)
    for mode in (True, False):
        model.train(mode)
        monitor._in_training.clear()
        for batch in batches():
            in_threads(replicas_of(model), batch.chunk(REPLICAS))
    assert monitor._in_evaluation == {"4": BATCHES * REPLICAS}
    monitor.close()


def test_each_replica_knows_by_its_own_layer_what_the_units_of_a_rectifier_are() -> None:
    """One that is behind has a convolution before its rectifier, while the other has come to a linear layer."""
    ahead = threading.Barrier(2)

    class Pause(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ahead.wait(10)
            return x

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.convolution = nn.Linear(5, 5), nn.Conv1d(3, 4, 1)
            self.rectifier, self.pause = nn.ReLU(), Pause()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x[0, 0, 0] > 0:  # the replica that is ahead
                self.pause(x)
                x = self.linear(x)
                self.pause(x)
                return x
            x = self.convolution(x)
            self.pause(x)
            self.pause(x)
            return self.rectifier(x)

    model, monitor = Late(), ActivationMonitor(every=1)
    monitor.initialize(nn.DataParallel(model), [], None)
    replicas = replicas_of(model)[:2]
    in_threads(replicas, [torch.ones(2, 3, 5), -torch.ones(2, 3, 5)])
    assert monitor._alive["rectifier"].shape == (4,), "channels"
    monitor.close()


def test_gradients_are_of_all_replicas_and_each_layer_is_seen_in_each() -> None:
    found = []
    for threads in (False, True):
        monitor = GradientMonitor(every=1, alerts=TrainingAlerts(show=False))
        model = net()
        monitor.initialize(nn.DataParallel(model), [], None)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for batch in batches():
            replicas, parts = replicas_of(model), batch.chunk(REPLICAS)
            if threads:
                outputs = in_threads(replicas, parts)
            else:
                outputs = [replica(part) for replica, part in zip(replicas, parts, strict=True)]
            seen = [name for name, _ in monitor._passes]
            # Tanh and ReLU make finite numbers of finite ones, so they are not looked at.
            assert sorted(seen) == sorted(["0", "2", "5", "7"] * REPLICAS)
            torch.cat(outputs).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            monitor.on_batch_end(torch.cat(outputs), [batch])
        monitor.close()
        assert monitor._flow is not None
        assert monitor._flow.names == ["0", "2", "5", "7"]
        found.append([norm for _, norm in monitor.history])
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert len(found[1]) == BATCHES


def test_the_layer_of_one_replica_that_makes_a_number_none_is_named() -> None:
    model, alerts = net(), TrainingAlerts(show=False)
    monitor = GradientMonitor(alerts=alerts)
    monitor.initialize(nn.DataParallel(model), [], None)
    for step, batch in enumerate(batches()):
        replicas = replicas_of(model)
        if step == 5:
            with torch.no_grad():
                spoiled: Any = replicas[2]
                spoiled[5].bias = torch.full((8,), torch.nan)
        outputs = torch.cat(in_threads(replicas, batch.chunk(REPLICAS)))
        monitor.on_batch_end(outputs, [batch])
    monitor.close()
    assert [(a.subject, a.offset) for a in alerts.alerts] == [("gradient:5", 5)]
