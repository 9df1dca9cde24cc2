"""Models that were not thought of: masks, double precision, transforms, scripts, copies, empty batches, tokens, checkpoints of activations."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from tocsin.training import (
    ActivationMonitor,
    GradientMonitor,
    Monitor,
    Monitors,
    TrainingAlerts,
)
from tocsin.training.passes import LatestPass

X = torch.randn(320, 8, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
criterion = nn.CrossEntropyLoss()
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:DeprecationWarning")


def net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def watched(model: nn.Module) -> Monitors:
    of = [GradientMonitor(every=2), ActivationMonitor(every=1)]
    monitors = Monitors(of, alerts=TrainingAlerts(show=False))
    monitors.initialize(model, [], criterion)
    return monitors


def train(
    model: nn.Module, monitors: Monitors, forward: Callable[[torch.Tensor], Any] | None = None
) -> list[str]:
    """Train for an epoch of twenty batches; return what was claimed."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kind = next(model.parameters()).dtype
    for rows in torch.arange(320).split(16):
        optimizer.zero_grad()
        outputs = (forward or model)(X[rows].to(kind))
        criterion(outputs, Y[rows]).backward()
        optimizer.step()
        monitors.on_batch_end(outputs, (X[rows], Y[rows]))
    monitors.on_epoch_end(0)
    monitors.close()
    assert monitors.set_aside == {}
    assert monitors.alerts is not None
    return [claim.summary for claim in monitors.alerts.claims]


class Masked(nn.Module):
    """A net that adds an argument to what its layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = (self.layer(x)[:, None] + mask).softmax(2).mean(1)
        return found


@pytest.mark.parametrize("lowest", [-torch.inf, torch.finfo(torch.float32).min])
def test_a_mask_that_is_added_is_no_number_that_is_not_finite(lowest: float) -> None:
    model = Masked()
    mask = torch.full((3, 3), lowest).triu(1)
    monitors = watched(model)
    assert train(model, monitors, lambda x: model(x, mask)) == []
    gradients = monitors.monitors[0]
    assert isinstance(gradients, GradientMonitor)
    assert len(gradients.history) == 20


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_an_argument_after_the_first_that_is_not_finite_is_claimed(bad: float) -> None:
    model = Masked()
    mask = torch.full((3, 3), bad).triu(1)
    assert "its input already" in train(model, watched(model), lambda x: model(x, mask))[0]


def test_a_model_of_double_precision_is_watched() -> None:
    model = net().double()
    monitors = watched(model)
    assert train(model, monitors) == []
    activations = monitors.monitors[1]
    assert isinstance(activations, ActivationMonitor)
    assert 0 <= activations.history[0]["dead:1"] < 0.9


def test_transforms_and_tracing_are_as_without_hooks() -> None:
    model, plain = net(), net()
    seen: list[object] = []
    passes = LatestPass(model, [model[0]], lambda _given, output: seen.append(output))
    monitors = watched(model)

    def gradients(of: nn.Module) -> Any:
        def loss(p: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return criterion(functional_call(of, p, (x[None],)), y[None])

        own = {k: p.detach() for k, p in of.named_parameters()}
        return vmap(grad(loss), (None, 0, 0))(own, X[:4], Y[:4])

    got, expected = gradients(model), gradients(plain)
    assert all(torch.equal(got[k], expected[k]) for k in expected)
    traced = [torch.jit.trace(of, X[:4], check_trace=False) for of in (model, plain)]
    nodes = [[node.kind() for node in of.inlined_graph.nodes()] for of in traced]
    assert nodes[0] == nodes[1]
    assert seen == []
    assert train(model, monitors) == []
    assert len(seen) == 40
    passes.close()


def test_a_copy_of_a_watched_model_can_be_scripted_and_the_model_says_what_to_do() -> None:
    model = net()
    monitors = watched(model)
    with pytest.raises(AttributeError, match=r"script copy\.deepcopy\(model\)"):
        torch.jit.script(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(torch.jit.script(other)(X[:4]), model(X[:4]))
    passes = LatestPass(model, [], lambda _given, _output: None)
    assert torch.equal(copy.deepcopy(model)(X[:4]), model(X[:4]))
    passes.close()
    monitors.close()
    torch.jit.script(model)


def test_of_a_scripted_model_gradients_are_watched(caplog: pytest.LogCaptureFixture) -> None:
    whole = torch.jit.script(net())
    part = nn.Sequential(torch.jit.script(net()), nn.Linear(3, 3))
    for model, warnings in ((whole, 2), (part, 2), (net(), 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            monitors = watched(model)
            assert train(model, monitors) == []
        assert len([m for m in caplog.messages if "scripted" in m]) == warnings
        gradients = monitors.monitors[0]
        assert isinstance(gradients, GradientMonitor)
        assert len(gradients.history) == 20
        assert gradients.by_layer
    LatestPass(whole, [], lambda _given, _output: None).close()


def test_a_traced_model_is_watched() -> None:
    model = torch.jit.trace(net(), X[:4])
    monitors = watched(model)
    assert train(model, monitors) == []


def test_an_empty_batch_is_no_reason_to_be_set_aside() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 4), nn.Sigmoid())
    monitors = watched(model)
    model(X[:0])
    assert train(model, monitors) == []
    activations = monitors.monitors[1]
    assert isinstance(activations, ActivationMonitor)
    assert 0 <= activations.history[0]["saturated:3"] < 0.9


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_of_a_live_monitor_has_what_was_recorded_and_watches_nothing(copied: Any) -> None:
    model = net()
    monitors = watched(model)
    gradients = monitors.monitors[0]
    assert isinstance(gradients, GradientMonitor)
    outputs = model(X[:16])
    criterion(outputs, Y[:16]).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    gradients.on_batch_end(outputs, None)
    other = copied(gradients)
    assert (list(other.history), other.every) == (list(gradients.history), 2)
    with pytest.raises(RuntimeError, match="call initialize"):
        other.on_batch_end(outputs, None)
    other.close()
    train(model, monitors)
    assert len(gradients.history) == 21
    assert len(other.history) == 1
    other.initialize(model, [], criterion)
    other.close()


def test_the_norm_of_a_sparse_gradient_is_that_of_the_whole() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 8, sparse=True), nn.Flatten(), nn.Linear(32, 3))
    monitor = GradientMonitor()
    monitor.initialize(model, [], criterion)
    words = torch.randint(0, 5, (16, 4))
    outputs = model(words)
    criterion(outputs, Y[:16]).backward()
    size = sum(float(p.grad.to_dense().square().sum()) for p in model.parameters())  # type: ignore[union-attr]
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    monitor.on_batch_end(outputs, None)
    monitor.close()
    assert monitor.history[0][1] == pytest.approx(size**0.5, rel=1e-5)


class Fails(Monitor):
    """Raises what it was given, in the batch that it was given."""

    def __init__(self, at: int, error: Exception) -> None:
        self.at = at
        self.error = error

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        self.at -= 1
        if self.at < 0:
            raise self.error


class Other(Fails):
    """Another one."""


def test_each_monitor_that_is_set_aside_is_said_with_its_error() -> None:
    alerts = TrainingAlerts("net", show=False)
    first, second = KeyError("no such column"), ValueError("x" * 500 + "\nand more")
    monitors = Monitors([Fails(0, first), Other(2, second), Fails(2, ValueError())], alerts=alerts)
    monitors.initialize(net(), [], None)
    for _ in range(5):
        monitors.on_batch_end(None, None)
    monitors.close()
    assert [alert.summary for alert in alerts.alerts] == [
        "monitor Fails set aside: KeyError: 'no such column' (batch 0 of epoch 0)",
        f"monitor Other 1 set aside: ValueError: {'x' * 200}... (batch 2 of epoch 0)",
        "monitor Fails 2 set aside: ValueError (batch 2 of epoch 0)",
    ]
    assert len({alert.id for alert in alerts.alerts}) == 3
    assert len({alert.fingerprint for alert in alerts.alerts}) == 3
    assert all(alert.incident == alert.id for alert in alerts.alerts)


@pytest.mark.parametrize(("batches", "looked"), [(47, 12), (100, 10), (250, 25), (12, 12)])
def test_so_many_batches_are_looked_at_that_an_epoch_can_be_judged(
    batches: int, looked: int, caplog: pytest.LogCaptureFixture
) -> None:
    model = net()
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    alerts = TrainingAlerts(show=False)
    monitor = ActivationMonitor(alerts=alerts)
    monitor.initialize(model, DataLoader(TensorDataset(X[:1].expand(batches, 8))), criterion)
    with caplog.at_level(logging.WARNING):
        for _ in range(batches):
            monitor.on_batch_end(model(X[:16]), None)
        assert monitor._passes == {"1": looked}
        monitor.on_epoch_end(0)
    monitor.close()
    assert [claim.verdict.change for claim in alerts.claims] == ["dead units"]
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("batches", "advice"), [(47, "ActivationMonitor(every=4) looks at enough"), (7, "make batches smaller")]
)  # fmt: skip
def test_too_few_batches_are_said_once(
    batches: int, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, monitor = net(), ActivationMonitor()
    monitor.initialize(model, iter([]), criterion)  # of no length
    with caplog.at_level(logging.WARNING):
        for epoch in range(3):
            for _ in range(batches):
                monitor.on_batch_end(model(X[:16]), None)
            monitor.on_epoch_end(epoch)
    monitor.close()
    (said,) = caplog.messages
    assert f"of its {batches} batches were looked at, of 10" in said
    assert advice in said


class Tokens(nn.Module):
    """A rectifier over (rows, time, units), after what makes them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.wide = nn.Linear(8, 64) if kind == "linear" else nn.Conv1d(8, 64, 3, padding=1)
        self.norm = nn.LayerNorm(64) if kind == "norm" else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.wide, nn.Linear):
            x = x.transpose(1, 2)
        x = self.wide(x)
        if isinstance(self.norm, nn.LayerNorm):
            x = self.norm(x.transpose(1, 2))
        found: torch.Tensor = self.relu(x)
        return found


@pytest.mark.parametrize("kind", ["linear", "conv", "norm"])
def test_dead_units_are_those_of_the_layer_before_a_rectifier(kind: str) -> None:
    model = Tokens(kind)
    of = model.norm if kind == "norm" else model.wide
    with torch.no_grad():
        of.bias[:60] = -100.0  # type: ignore[index]
    monitor = ActivationMonitor(every=1, alerts=TrainingAlerts(show=False))
    monitor.initialize(model, [], criterion)
    for rows in torch.randn(12, 4, 8, 13):
        monitor.on_batch_end(model(rows), None)
    monitor.on_epoch_end(0)
    monitor.close()
    assert monitor.history[0]["dead:relu"] == pytest.approx(60 / 64)


class Checkpointed(nn.Module):
    """Three blocks that are gone through again in the backward pass, and a layer."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in "abc")
        self.o = nn.Linear(8, 3)
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clone().requires_grad_()
        for block in (self.a, self.b, self.c):
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        found: torch.Tensor = self.o(x)
        return found


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("layer", ["a.0", "b.0", "o"])
def test_of_checkpointed_activations_the_first_layer_is_named(reentrant: bool, layer: str) -> None:
    model = Checkpointed(reentrant=reentrant)
    with torch.no_grad():
        model.get_submodule(layer).weight[0, 0] = torch.nan
    assert train(model, watched(model))[0].startswith(f"gradients: non-finite, {layer} is the first layer of the forward")  # fmt: skip
