"""Dead units are found whatever rectifies: a module, one that is used several times in a pass, or a function."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everybody calls it
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from tocsin.training import ActivationMonitor, TrainingAlerts
from tocsin.training.uses import Uses

BATCHES = 12
Function = Callable[[torch.Tensor], torch.Tensor]


class Block(nn.Module):
    """Two convolutions beside a shortcut, with functions between, as CIFAR ResNets have them."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(narrow, wide, 3, padding=1), nn.BatchNorm2d(wide)
        self.conv2, self.bn2 = nn.Conv2d(wide, wide, 3, padding=1), nn.BatchNorm2d(wide)
        self.shortcut = nn.Conv2d(narrow, wide, 1) if narrow != wide else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = F.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(found)) + self.shortcut(x))


class Functional(nn.Module):
    """Pictures to classes by functions only."""

    def __init__(self, rectify: Function = F.relu) -> None:
        super().__init__()
        self.conv, self.rectify = nn.Conv2d(3, 8, 3, padding=1), rectify
        self.one, self.two = Block(8, 8), Block(8, 16)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.rectify(self.conv(x)), 2)
        x = F.adaptive_avg_pool2d(self.two(self.one(x)), 1)
        found: torch.Tensor = self.fc(F.dropout(torch.flatten(x, 1), 0.2, self.training))
        return found


class Bottleneck(nn.Module):
    """As torchvision's: one rectifier that is used three times, at widths of 4, 4 and 16."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv3, self.bn3 = nn.Conv2d(4, 16, 1), nn.BatchNorm2d(16)
        self.downsample, self.relu = nn.Conv2d(3, 16, 1), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.relu(self.bn1(self.conv1(x)))
        found = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(found)))))
        found = found + self.downsample(x)
        rectified: torch.Tensor = self.relu(found)
        return rectified


class Residual(nn.Sequential):
    """A bottleneck, and what makes classes of it."""

    def __init__(self) -> None:
        super().__init__(
            Bottleneck(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(16, 4)
        )


def modules() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.1), nn.Flatten(),
        nn.Linear(72, 16), nn.ReLU(inplace=True), nn.Dropout(0.1), nn.Linear(16, 4),
    )  # fmt: skip


def pictures() -> torch.Tensor:
    return torch.randn(16, 3, 8, 8)


def train(
    model: nn.Module,
    inputs: Callable[[], Any] = pictures,
    forward: Callable[..., torch.Tensor] | None = None,
    *,
    epochs: int = 1,
    watch: bool = True,
) -> tuple[dict[str, float], list[str]]:
    """Train; return the last epoch of the history, and what was claimed of dead units."""
    alerts = TrainingAlerts(show=False)
    monitor = ActivationMonitor(every=1, alerts=alerts)
    if watch:
        monitor.initialize(model, [], None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch.manual_seed(1)
    for epoch in range(epochs):
        for _ in range(BATCHES):
            given = inputs()
            given = given if isinstance(given, tuple) else (given,)
            outputs = (forward or model)(*given)
            optimizer.zero_grad()
            outputs.square().mean().backward()
            optimizer.step()
            if watch:
                monitor.on_batch_end(outputs, given)
        if watch:
            monitor.on_epoch_end(epoch)
    monitor.close()
    row = monitor.history[-1] if watch else {}
    found = [c.summary for c in alerts.claims if c.verdict.change == "dead units"]
    return {k: v for k, v in row.items() if not k.startswith(("epoch", "shift:"))}, found


def kill(module: nn.Module) -> None:
    """Let a layer give far less than zero."""
    with torch.no_grad():
        module.weight.zero_()  # type: ignore[operator, union-attr]
        module.bias.fill_(-100.0)  # type: ignore[operator, union-attr]


FUNCTIONAL = {f"dead:input of {k}" for k in ("one.conv1", "one.conv2", "two.conv1", "two.conv2", "fc")}  # fmt: skip


def test_rectifiers_that_are_functions_are_told_apart_by_the_layer_that_they_go_into() -> None:
    torch.manual_seed(0)
    row, claims = train(Functional())
    assert set(row) == FUNCTIONAL, "the shortcut is given what the convolution beside it is"
    assert max(row.values()) < 0.5
    assert claims == []
    model = Functional()
    kill(model.two.bn1)
    row, claims = train(model)
    assert set(row) == FUNCTIONAL
    assert row["dead:input of two.conv2"] == 1.0
    assert claims == ["activations: input of two.conv2, 100% of its units were never above zero"]


@pytest.mark.parametrize(
    "rectify",
    [
        torch.relu, F.relu6, lambda x: x.relu(), lambda x: x.clamp(min=0), lambda x: x.clamp_min(0.0),
        lambda x: F.relu(x, inplace=True), lambda x: F.threshold(x, 0.0, 0.0), lambda x: F.relu(x).square(),
        lambda x: -2 * F.relu(x), lambda x: F.dropout2d(F.relu(x)), lambda x: F.relu(F.relu(x)),
        lambda x: F.relu(x) * torch.sigmoid(x), lambda x: F.interpolate(F.pad(F.relu(x), (1, 1)), scale_factor=2.0),
        lambda x: torch.cat([F.relu(x)[:, :4], F.relu(x[:, 4:])], 1),
    ],
)  # fmt: skip
def test_what_rectifies_and_what_comes_after_it(rectify: Function) -> None:
    torch.manual_seed(0)
    model = Functional(rectify)
    assert train(copy.deepcopy(model))[1] == []
    kill(model.conv)
    row, claims = train(model)
    assert row["dead:input of one.conv1"] == 1.0
    assert claims[0].startswith("activations: input of one.conv1, 100%")


@pytest.mark.parametrize(
    "other",
    [
        torch.sigmoid, F.leaky_relu, F.gelu, torch.tanh, torch.abs, lambda x: x.clamp(max=0),
        lambda x: F.relu(x) + 1, lambda x: F.hardtanh(x, -1, 1), lambda x: torch.cat([F.relu(x[:, :4]), x[:, 4:]], 1),
    ],
)  # fmt: skip
def test_what_is_no_rectifier_is_none(other: Function) -> None:
    torch.manual_seed(0)
    model = Functional(other)
    kill(model.conv)
    row, claims = train(model)
    assert "dead:input of one.conv1" not in row
    assert not any("one.conv1" in claim for claim in claims)


def test_of_a_rectifier_that_is_used_several_times_each_use_is_judged() -> None:
    torch.manual_seed(0)
    uses = {"dead:0.relu", "dead:0.relu#2", "dead:0.relu#3"}
    row, claims = train(Residual(), epochs=2)
    assert set(row) == uses
    assert max(row.values()) < 0.5
    assert claims == []
    model = Residual()
    kill(model[0].bn2)  # as wide as the first
    row, claims = train(model, epochs=2)
    assert set(row) == uses
    assert row["dead:0.relu"] < 0.5
    assert row["dead:0.relu#2"] == 1.0
    assert claims == ["activations: 0.relu#2, 100% of its units were never above zero"]


def test_of_rectifiers_that_are_modules_and_what_follows_nothing_is_told_twice() -> None:
    torch.manual_seed(0)
    model = modules()
    assert set(train(copy.deepcopy(model))[0]) == {"dead:2", "dead:7"}
    kill(model[1])
    row, claims = train(model, epochs=3)
    assert set(row) == {"dead:2", "dead:7"}
    assert claims == ["activations: 2, 100% of its units were never above zero"]


def one_hot(rows: int = 16, of: int = 200) -> torch.Tensor:
    return F.one_hot(torch.randint(4, (rows,)), of).float()


class Towers(nn.Module):
    """Two inputs, and a category of which the model makes a vector itself; most of their numbers are zero in every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.sparse, self.category = (nn.Linear(k, 8) for k in (8, 200, 200))
        self.out = nn.Linear(24, 2)

    def forward(self, x: torch.Tensor, sparse: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
        vector = F.one_hot(kind, 200).float()
        parts = self.dense(x), self.sparse(sparse / 2), self.category(vector)
        found: torch.Tensor = self.out(torch.cat([torch.tanh(part) for part in parts], 1))
        return found


def test_inputs_that_are_mostly_zero_are_no_dead_units() -> None:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(200, 8), nn.Tanh(), nn.Linear(8, 2))
    row, claims = train(first, one_hot)
    assert (set(row), claims) == ({"saturated:1"}, [])
    towers = lambda: (torch.randn(16, 8), one_hot(), torch.randint(4, (16,)))  # noqa: E731
    assert train(Towers(), towers) == ({}, [])
    border = lambda: F.pad(torch.rand(16, 1, 2, 2), (6, 6, 6, 6)).flatten(1)  # noqa: E731
    assert train(nn.Sequential(nn.Linear(196, 8), nn.Linear(8, 2)), border) == ({}, [])


class Either(nn.Module):
    """The same net with functions, and with modules."""

    def __init__(self, rectify: Callable[[], Function]) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3)
        self.fc1, self.fc2 = nn.Linear(128, 64), nn.Linear(64, 4)
        self.a, self.b, self.c = (rectify() for _ in "abc")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.b(self.conv2(self.a(self.conv1(x)))), 2)
        found: torch.Tensor = self.fc2(self.c(self.fc1(F.dropout(torch.flatten(x, 1), 0.3))))
        return found


def test_functions_have_the_shares_that_modules_have() -> None:
    rows: list[dict[str, float]] = []
    for rectify in (nn.ReLU, lambda: F.relu):
        torch.manual_seed(0)
        model = Either(rectify)
        with torch.no_grad():
            model.conv1.bias[:5], model.conv2.bias[:7], model.fc1.bias[:11] = -100.0, -100.0, -100.0
        rows.append(train(model)[0])
    assert list(rows[0]) == ["dead:a", "dead:b", "dead:c"]
    assert list(rows[1]) == ["dead:input of conv2", "dead:input of fc1", "dead:input of fc2"]
    assert list(rows[0].values()) == list(rows[1].values())
    assert min(rows[0].values()) > 0.1


class Border(nn.Module):
    """Pictures of which only the middle is ever more than nothing, and what is flattened of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.Linear(4 * 28 * 28, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.fc(F.dropout(torch.flatten(F.relu(self.conv(x)), 1)))
        return found


def test_of_flattened_pictures_a_unit_is_a_channel() -> None:
    torch.manual_seed(0)
    middle = lambda: F.pad(torch.randn(16, 1, 2, 2), (13, 13, 13, 13))  # noqa: E731
    model = Border()
    assert train(copy.deepcopy(model), middle) == ({"dead:input of fc": 0.0}, [])
    with torch.no_grad():
        model.conv.weight[1:] = 0.0  # of which nothing is learnt: a rectifier has no slope at zero
    assert train(model, middle)[0] == {"dead:input of fc": 0.75}


def test_of_flattened_series_a_unit_is_a_channel() -> None:
    torch.manual_seed(0)
    conv, fc = nn.Conv1d(1, 4, 3, padding=1, bias=False), nn.Linear(4 * 64, 2)
    model = nn.ModuleList([conv, fc])
    pulses = lambda: F.pad(torch.randn(16, 1, 3), (0, 61))  # noqa: E731
    forward = lambda x: fc(torch.flatten(F.relu(conv(x)), 1))  # noqa: E731
    assert train(model, pulses, forward) == ({"dead:input of 1": 0.0}, [])


class Attention(nn.Module):
    """Embedded tokens, attention that sees none that is later, a branch that begins at zero, and a gate of rectified units."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(50, 8, padding_idx=0), nn.LayerNorm(8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.branch, self.after = nn.Linear(8, 8), nn.Linear(8, 8)
        self.wide, self.gate, self.narrow = nn.Linear(8, 32), nn.Linear(8, 32), nn.Linear(32, 8)
        nn.init.zeros_(self.branch.weight)
        nn.init.zeros_(self.branch.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.embed(tokens))
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        x = x + self.attend(x, x, x, attn_mask=later, need_weights=False)[0]
        x = x + self.after(self.branch(x))
        found: torch.Tensor = self.narrow(F.relu(self.wide(x)) * self.gate(x))
        return found


def test_of_attention_only_what_is_rectified_is_looked_at() -> None:
    torch.manual_seed(0)
    tokens = lambda: torch.randint(50, (16, 7))  # noqa: E731
    row, claims = train(Attention(), tokens)
    assert (set(row), claims) == ({"dead:input of narrow"}, [])
    model = Attention()
    kill(model.wide)
    assert len(train(model, tokens)[1]) == 1
    encoder = nn.TransformerEncoderLayer(8, 2, 32, batch_first=True)  # it calls a function
    row, claims = train(encoder, lambda: torch.randn(16, 7, 8))
    assert (set(row), claims) == ({"dead:input of linear2"}, [])
    kill(encoder.linear1)
    assert len(train(encoder, lambda: torch.randn(16, 7, 8))[1]) == 1


class Recurrent(nn.Module):
    """One cell for all steps, with a sigmoid for two gates."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.relu, self.sigmoid, self.out = nn.Linear(16, 24), nn.ReLU(), nn.Sigmoid(), nn.Linear(8, 2)  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = x.new_zeros(len(x), 8)
        for step in x.unbind(1):
            new, keep, take = self.cell(torch.cat([step, state], 1)).chunk(3, 1)
            state = self.sigmoid(keep) * state + self.sigmoid(take) * self.relu(new)
        found: torch.Tensor = self.out(state)
        return found


@pytest.mark.parametrize("steps", [1, 9])
def test_the_steps_of_a_sequence_are_one_use(steps: int) -> None:
    torch.manual_seed(0)
    row, claims = train(Recurrent(), lambda: torch.randn(16, steps, 8))
    assert set(row) == {"dead:relu", "saturated:sigmoid", "saturated:sigmoid#2"}
    assert claims == []


def test_a_model_that_is_called_by_its_parts_has_no_more_names_in_later_batches() -> None:
    torch.manual_seed(0)
    model = Residual()
    row, _ = train(model, forward=lambda x: model[4](model[3](model[2](model[1](model[0](x))))))
    assert set(row) == {"dead:0.relu", "dead:0.relu#2", "dead:0.relu#3"}


def test_each_thread_has_its_own_pass() -> None:
    """As the devices of `DataParallel` have."""
    uses, found = Uses(), list[str]()

    def other() -> None:
        uses.come_to("conv2", last=True)
        found.append(uses.of("relu").name)

    uses.come_to("conv1", last=False)
    found.append(uses.of("relu").name)
    thread = Thread(target=other)
    uses.come_to("conv1", last=False)
    thread.start()
    thread.join()
    found.append(uses.of("relu").name)
    assert found == ["relu", "relu#2", "relu"]


def test_a_loop_without_layers_has_no_more_than_so_many_names() -> None:
    uses = Uses()
    assert len({uses.of("relu").name for _ in range(1000)}) == 64


def test_units_that_change_their_number_are_not_judged() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Flatten(), nn.ReLU())
    kill(model[0])
    sizes = iter([3, 4] * BATCHES)
    row, claims = train(model, lambda: torch.randn(16, 1, next(sizes)))
    assert (set(row), claims) == ({"dead:2"}, [])


class Checkpointed(nn.Module):
    """Blocks whose activations are made again in the backward pass: one with a function, one with a module, one that begins with it."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.first, self.a, self.b, self.c = (nn.Linear(8, 8) for _ in "fabc")
        self.relu, self.out, self.reentrant = nn.ReLU(), nn.Linear(8, 2), reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        blocks: list[Function] = [
            lambda x: self.b(F.relu(self.a(x))), lambda x: self.relu(self.c(x)), lambda x: self.relu(x - 0.1),
        ]  # fmt: skip
        for block in blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)  # type: ignore[assignment]
        found: torch.Tensor = self.out(x)
        return found


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_the_backward_pass_makes_again_is_looked_at_once(reentrant: bool) -> None:
    torch.manual_seed(0)
    model = Checkpointed(reentrant=reentrant)
    rows = lambda: torch.randn(16, 8)  # noqa: E731
    row, claims = train(copy.deepcopy(model), rows)
    assert set(row) == {"dead:input of b", "dead:relu", "dead:relu#2"}
    assert claims == []
    with torch.no_grad():
        model.a.bias.fill_(-100.0)
    assert train(model, rows)[1] == ["activations: input of b, 100% of its units were never above zero"]  # fmt: skip
    monitor = ActivationMonitor(every=1, alerts=TrainingAlerts(show=False))
    monitor.initialize(model, [], None)
    for _ in range(3):
        outputs = model(rows())
        outputs.sum().backward()
        monitor.on_batch_end(outputs, None)
    assert monitor._passes == dict.fromkeys(("input of b", "relu", "relu#2"), 3)
    monitor.close()


def test_a_model_that_is_compiled_is_trained_as_ever() -> None:
    torch.manual_seed(0)
    model = Functional()
    row, claims = train(torch.compile(model, backend="eager"))  # type: ignore[arg-type]
    assert (row, claims) == ({}, [])


@pytest.mark.parametrize("make", [Functional, Residual, modules])
def test_training_is_the_same_with_and_without(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make()
    states = []
    for watch in (True, False):
        one = copy.deepcopy(model)
        train(one, epochs=2, watch=watch)
        states.append((one.state_dict(), torch.get_rng_state()))
    (weights, generator), (expected, other) = states
    assert all(torch.equal(weights[k], expected[k]) for k in expected)
    assert torch.equal(generator, other)


class Reads(TorchDispatchMode):
    """Counts numbers that are read from the device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "_local_scalar_dense" in str(func)
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_in_a_pass_and_no_graph_is_kept() -> None:
    torch.manual_seed(0)
    model, kept = Functional(), list[Any]()
    monitor = ActivationMonitor(every=1, alerts=TrainingAlerts(show=False))
    monitor.initialize(model, [], None)

    class Saved:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor.detach()  # an output of a node that keeps it keeps itself

    def pack(tensor: torch.Tensor) -> Saved:
        saved = Saved(tensor)
        kept.append(weakref.ref(saved))
        return saved

    with Reads() as reads, torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):  # fmt: skip
        outputs = model(pictures())
        monitor.on_batch_end(outputs, None)
    assert reads.count == 0
    assert sum(of() is not None for of in kept) > 10
    del outputs
    assert all(of() is None for of in kept)
    assert set(monitor._passes) == {name.removeprefix("dead:") for name in FUNCTIONAL}
    monitor.close()
