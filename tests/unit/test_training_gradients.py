"""The norms and updates that the monitor of gradients tells are those that are worked out by hand, of the optimizer's own formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tocsin.training import GradientMonitor, TrainingAlerts

BATCHES = 24
LAYERS = {"0": (0, 1), "2": (2, 3), "3": (4, 5)}
"""Numbers of the parameters of each layer."""


def net() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.LayerNorm(6))


def loss_of(model: nn.Module, batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch)
    x, y = torch.randn(9, 5, generator=generator), torch.randn(9, 6, generator=generator)
    loss: torch.Tensor = (model(x) - y).square().mean()
    return loss


def momentum(rate: float = 0.05, share: float = 0.9) -> Callable[[list[Any], int], list[Any]]:
    """Return the changes of stochastic gradient descent: v = share v + g, by -rate v."""
    v: list[Any] = []

    def changes(gradients: list[Any], step: int) -> list[Any]:
        v[:] = [g if step == 1 else share * old + g for g, old in zip(gradients, v or gradients, strict=True)]  # fmt: skip
        return [-rate * one for one in v]

    return changes


def adam(rate: float = 0.01) -> Callable[[list[Any], int], list[Any]]:
    """Return the changes of Kingma and Ba 2015, algorithm 1 (arXiv:1412.6980)."""
    m: list[Any] = []
    v: list[Any] = []

    def changes(gradients: list[Any], step: int) -> list[Any]:
        before = m or [torch.zeros_like(g) for g in gradients]
        square = v or [torch.zeros_like(g) for g in gradients]
        m[:] = [0.9 * a + 0.1 * g for a, g in zip(before, gradients, strict=True)]
        v[:] = [0.999 * a + 0.001 * g * g for a, g in zip(square, gradients, strict=True)]
        return [
            -rate * (a / (1 - 0.9**step)) / ((b / (1 - 0.999**step)).sqrt() + 1e-8)
            for a, b in zip(m, v, strict=True)
        ]

    return changes


def by_hand(
    changes: Callable[[list[Any], int], list[Any]], *, accumulate: int, clip: float | None
) -> tuple[dict[str, list[tuple[int, float]]], list[tuple[int, float]]]:
    """Return what is expected of each layer, and of all: in double precision, without an optimizer of torch."""
    model = net().double()
    weights = list(model.parameters())
    found: dict[str, list[tuple[int, float]]] = {}
    totals: list[tuple[int, float]] = []
    gathered = [torch.zeros_like(w) for w in weights]
    for batch in range(BATCHES):
        generator = torch.Generator().manual_seed(batch)
        x, y = torch.randn(9, 5, generator=generator), torch.randn(9, 6, generator=generator)
        loss = (model(x.double()) - y.double()).square().mean() / accumulate
        made = torch.autograd.grad(loss, weights)
        gathered = [a + b for a, b in zip(gathered, made, strict=True)]
        if (batch + 1) % accumulate:
            continue
        total = float(sum(g.square().sum() for g in gathered)) ** 0.5
        if clip is not None and total > clip:
            gathered = [g * (clip / (total + 1e-6)) for g in gathered]
            total *= clip / (total + 1e-6)
        totals.append((batch, total))
        steps = changes(gathered, (batch + 1) // accumulate)
        for layer, own in LAYERS.items():
            norm = float(sum(gathered[k].square().sum() for k in own)) ** 0.5
            change = float(sum(steps[k].square().sum() for k in own)) ** 0.5
            size = float(sum(weights[k].detach().square().sum() for k in own)) ** 0.5
            found.setdefault(f"norm:{layer}", []).append((batch, norm))
            found.setdefault(f"update:{layer}", []).append((batch, change / size))
        with torch.no_grad():
            for w, step in zip(weights, steps, strict=True):
                w.add_(step)
        gathered = [torch.zeros_like(w) for w in weights]
    return found, totals


def trained(
    monitor: GradientMonitor, kind: str, *, accumulate: int = 1, clip: float | None = None
) -> None:
    model = net()
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    if kind == "momentum":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    monitor.alerts = TrainingAlerts(show=False)
    monitor.initialize(model, [], None)
    for batch in range(BATCHES):
        loss = loss_of(model, batch)
        (loss / accumulate).backward()
        if (batch + 1) % accumulate == 0:
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
        monitor.on_batch_end({"loss": loss.detach()}, [])
    monitor.close()


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("kind", ["momentum", "adam"])
def test_norms_and_updates_of_each_layer_are_those_by_hand(
    kind: str, accumulate: int, clip: float | None
) -> None:
    monitor = GradientMonitor(every=1)
    trained(monitor, kind, accumulate=accumulate, clip=clip)
    changes = momentum() if kind == "momentum" else adam()
    layers, totals = by_hand(changes, accumulate=accumulate, clip=clip)
    if clip is not None:
        assert totals[0][1] == pytest.approx(clip, rel=1e-5), "clipping had something to do"
    assert [step for step, _ in monitor.history] == [step for step, _ in totals]
    assert [x for _, x in monitor.history] == pytest.approx([x for _, x in totals], rel=1e-4)
    assert monitor.by_layer.keys() == layers.keys()
    for name, expected in layers.items():
        found = monitor.by_layer[name]
        assert [step for step, _ in found] == [step for step, _ in expected]
        # Of updates the weights' own precision is a part: they are differences of single precision.
        assert [x for _, x in found] == pytest.approx([x for _, x in expected], rel=2e-3), name


@pytest.mark.parametrize(
    ("every", "finite_every", "accumulate", "updates", "norms"),
    [
        (10, 1, 1, [0, 10, 20], list(range(24))),
        (10, 1, 2, [1, 11, 21], list(range(1, 24, 2))),
        (10, 1, 4, [3, 11, 23], list(range(3, 24, 4))),
        (10, 5, 4, [3, 11, 23], [3, 7, 11, 15, 23]),
        (2, 2, 2, list(range(1, 24, 2)), list(range(1, 24, 2))),
        (6, 4, 1, [0, 6, 12, 18], [0, 4, 6, 8, 12, 16, 18, 20]),
    ],
)
def test_a_loop_that_accumulates_is_looked_at_as_often(
    every: int, finite_every: int, accumulate: int, updates: list[int], norms: list[int]
) -> None:
    """In the first step of the optimizer from each of these batches on, whatever batch it is in."""
    monitor = GradientMonitor(every=every, finite_every=finite_every)
    trained(monitor, "momentum", accumulate=accumulate)
    assert [step for step, _ in monitor.history] == norms
    assert [step for step, _ in monitor.by_layer.get("update:0", [])] == updates


def test_an_optimizer_that_takes_its_turns_is_looked_at_too() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"critic": nn.Linear(2, 2), "generator": nn.Linear(2, 2)})
    optimizers = {name: torch.optim.SGD(part.parameters(), lr=0.01) for name, part in model.items()}
    monitor = GradientMonitor(every=10, finite_every=10, alerts=TrainingAlerts(show=False))
    monitor.initialize(model, [], None)
    for batch in range(50):
        for name in ("critic", "generator") if batch % 5 == 4 else ("critic",):
            model[name](torch.ones(1, 2)).square().sum().backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
        monitor.on_batch_end({}, [])
    monitor.close()
    assert [k for k, _ in monitor.by_layer["update:critic"]] == [0, 10, 20, 30, 40]
    assert [k for k, _ in monitor.by_layer["update:generator"]] == [4, 14, 24, 34, 44]


@pytest.mark.parametrize(("rate", "claimed"), [(0.99, [("gradient:0", "update")]), (0.1, [])])
def test_a_rate_that_makes_updates_as_large_as_weights_is_claimed(
    rate: float, claimed: list[tuple[str, str]]
) -> None:
    """On w squared a step leaves 1 - 2 rate of a weight: with 0.99 it goes from one side to the other, and diverges no more than it learns."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Identity())
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    alerts = TrainingAlerts(show=False)
    monitor = GradientMonitor(every=2, alerts=alerts)
    monitor.initialize(model, [], None)
    for _ in range(12):
        loss = model(torch.eye(4)).square().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        monitor.on_batch_end({"loss": loss.detach()}, [])
    monitor.close()
    assert [(a.subject, a.change) for a in alerts.alerts] == claimed
    assert [x for _, x in monitor.by_layer["update:0"]] == pytest.approx([2 * rate] * 6, rel=1e-4)
    if claimed:
        assert alerts.alerts[0].offset == 4, "the third of five looks"


def alerts_of(
    model: nn.Module,
    steps: int,
    change: Callable[[int], None],
    loss: Callable[[int, torch.Tensor], torch.Tensor] = lambda _, loss: loss,
) -> list[tuple[str, str, int]]:
    """Train on noise, with a change of the model before each step; its gradients stay there, of zeros where there are none."""
    alerts = TrainingAlerts(show=False)
    monitor = GradientMonitor(alerts=alerts)
    monitor.initialize(model, None, None)
    descent = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(steps):
        change(step)
        descent.zero_grad(set_to_none=False)
        loss(step, model(torch.randn(16, 8)).square().mean()).backward()
        descent.step()
        monitor.on_batch_end(None, None)
    asked = [module._forward_pre_hooks for module in model.modules()][1:]
    assert not any(asked), "the question is asked before the claim only"
    monitor.close()
    return [(alert.subject, alert.change, alert.offset) for alert in alerts.alerts]


@pytest.mark.parametrize(("dies", "follows"), [("0", "2"), ("2", "4")])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_of_layers_that_die_together_the_first_is_named(
    dies: str, follows: str, weight: float
) -> None:
    torch.manual_seed(0)
    parts = [nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()]
    model = nn.Sequential(*parts, nn.Linear(8, 3))

    @torch.no_grad()
    def die(step: int) -> None:
        if step == 10:
            first: Any = model.get_submodule(dies)
            second: Any = model.get_submodule(follows)
            first.weight.mul_(weight)
            first.bias.fill_(-100.0)
            second.bias.fill_(-0.1)  # which zeros do not lift above zero

    assert alerts_of(model, 40, die) == [(f"gradient:{dies}", "dead", 19)]


def test_a_layer_that_is_frozen_in_the_midst_of_a_run_is_not_dead() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))

    def freeze(step: int) -> None:
        if step == 20:
            model[0].requires_grad_(False)

    assert alerts_of(model, 60, freeze) == []


@pytest.mark.parametrize("dies", [True, False])
def test_where_no_layer_gets_a_gradient_one_is_dead_if_what_follows_is_given_nothing(
    dies: bool,
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3, bias=False))
    first: Any = model[0]

    def die(step: int) -> None:
        if step == 10 and dies:
            nn.init.constant_(first.bias, -100.0)

    def by_a_margin(step: int, loss: torch.Tensor) -> torch.Tensor:
        return loss if dies or step < 10 else loss.clamp(min=1e9)  # all is learnt

    assert alerts_of(model, 40, die, by_a_margin) == ([("gradient:0", "dead", 19)] if dies else [])
