"""Nothing waits for the device while batches pass: on tensors whose numbers cannot be had, every monitor and the watched loader do their work."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from tocsin.training import (
    ActivationMonitor,
    BaseMonitor,
    BiasMonitor,
    CalibrationMonitor,
    GradientMonitor,
    LossMonitor,
    PerformanceMonitor,
    TrainingAlerts,
    WatchedLoader,
)
from tocsin.training.readings import Readings

STEPS = 12
BATCHES = 70  # more than wait for being read in one go on a CPU
ROWS = 16


class Event:
    """Of a copy from the device, which is on its way until it is said to have arrived."""

    def __init__(self) -> None:
        self.has_arrived = False

    def query(self) -> bool:
        return self.has_arrived

    def synchronize(self) -> None:
        assert self.has_arrived, "the device was waited for"


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """Let what is put among the readings be on its way, as it is on a GPU."""
    sent: list[Event] = []
    put = Readings.put

    def put_off(self: Readings[Any], of: Any, scalars: Any) -> None:
        put(self, of, scalars)
        sent.append(Event())
        self._copies[-1].done.append(sent[-1])

    monkeypatch.setattr(Readings, "put", put_off)
    return sent


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.LayerNorm(8), nn.Sigmoid(),
        nn.Dropout(0.1), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3),
    )  # fmt: skip


MONITORS: dict[str, Callable[[], BaseMonitor]] = {
    "loss": LossMonitor,
    "gradients": lambda: GradientMonitor(every=3),
    "performance": PerformanceMonitor,
    "activations": lambda: ActivationMonitor(every=3),
    "bias": lambda: BiasMonitor(
        {"key": "group", "function": lambda batch: batch["labels"] % 2},
        metrics=("accuracy", "recall", "precision", "positive_rate", "loss"),
    ),
    "calibration": CalibrationMonitor,
}
MEAN = nn.CrossEntropyLoss


class Remembers:
    """A criterion that is no module, and keeps a tensor that each call changes."""

    def __init__(self) -> None:
        self.mean = torch.zeros(1, device="meta")

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.cross_entropy(outputs, labels)
        self.mean.mul_(0.9).add_(loss.detach())
        return loss


CRITERIA: dict[str, Callable[[], Any]] = {
    "module": MEAN,
    "function": lambda: nn.functional.cross_entropy,
    "ignoring": lambda: nn.CrossEntropyLoss(ignore_index=2, label_smoothing=0.1),
    "remembers": Remembers,
}


def train(
    monitor: BaseMonitor, criterion: Any, device: str, *, steps: int = STEPS, adam: bool = False
) -> nn.Module:
    """Train on dictionaries of pictures, labels and groups; the epoch does not end."""
    model = net().to(device)
    kind = torch.optim.Adam if adam else torch.optim.SGD
    optimizer = kind(model.parameters(), lr=0.01)
    monitor.alerts = TrainingAlerts(show=False)
    monitor.initialize(model, [], criterion)
    for step in range(steps):
        batch = batch_of(device)
        outputs = model(batch["pixel_values"])
        criterion(outputs, batch["labels"]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
        monitor.on_batch_end(outputs, batch)
        monitor.on_validation_batch_end(outputs.detach(), batch)
    return model


def batch_of(device: str) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.randn(ROWS, 3, 8, 8, device=device),
        "labels": torch.randint(3, (ROWS,), device=device),
        "group": torch.randint(2, (ROWS,), device=device),
    }


@pytest.mark.parametrize(
    ("criterion", "adam"),
    [("module", False), ("function", True), ("ignoring", False), ("remembers", False)],
)
@pytest.mark.parametrize("name", MONITORS)
def test_no_monitor_asks_for_a_number_before_the_epoch_ends(
    events: list[Event], name: str, criterion: str, *, adam: bool
) -> None:
    """Tensors of the device `meta` have shapes and no numbers: whatever would read one raises, `item`, `bool`, `tolist`, `cpu`, masks."""
    monitor = MONITORS[name]()
    train(monitor, CRITERIA[criterion](), "meta", adam=adam)
    looked = {
        "loss": lambda: len(events) == STEPS,
        "gradients": lambda: len(events) == STEPS,
        "performance": lambda: all(one.counts and one.total is not None for one in monitor._epochs.values()),
        "activations": lambda: {"2", "6", "9"} <= {*monitor._alive, *monitor._shares} and len(monitor._units._sums) == 7,
        "bias": lambda: [list(one) for one in monitor._counts.values()] == [["", "key", "function"]] * 2,
        "calibration": lambda: list(monitor._counts) == ["", "val_"],
    }  # fmt: skip
    assert looked[name](), "it has looked at what passed"
    for event in events:
        event.has_arrived = True
    read = monitor.close if events else lambda: monitor.on_epoch_end(0)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        read()  # there they are read


@pytest.mark.parametrize("name", ["loss", "performance", "calibration"])
def test_targets_in_a_tuple_are_found_without_being_read(events: list[Event], name: str) -> None:
    """By where the criterion's argument lies, as long as it is the part of the batch itself."""
    monitor, criterion = MONITORS[name](), MEAN()
    model = nn.Linear(5, 3).to("meta")
    monitor.alerts = TrainingAlerts(show=False)
    monitor.initialize(model, [], criterion)
    for _ in range(STEPS):
        x, y = torch.randn(ROWS, 5, device="meta"), torch.randint(3, (ROWS,), device="meta")
        outputs = model(x)
        criterion(outputs, y).backward()
        monitor.on_batch_end(outputs, (x, torch.stack([y, y]), y))
    targets = {
        "loss": lambda: monitor._loss.targets, "performance": lambda: monitor._reader.targets,
        "calibration": lambda: monitor._reader.targets,
    }[name]()  # fmt: skip
    assert targets._place == (2 if name != "loss" else None), "of the loss none are needed"


def test_what_is_late_is_judged_as_if_it_had_come_at_once(events: list[Event]) -> None:
    histories = []
    for is_late in (False, True):
        for one in (LossMonitor(), GradientMonitor(every=3)):
            torch.manual_seed(1)
            if is_late:
                train(one, MEAN(), "cpu")
                assert one.history == []
                for event in events:
                    event.has_arrived = True
            else:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(Event, "query", lambda _: True)
                    patch.setattr(Event, "synchronize", lambda _: None)
                    train(one, MEAN(), "cpu")
            one.close()
            histories.append((list(one.history), getattr(one, "by_layer", None)))
    assert histories[:2] == histories[2:]
    assert len(histories[0][0]) == STEPS


def test_numbers_are_sent_off_with_an_event_and_read_when_it_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[Event] = []
    streams: list[torch.device] = []

    class Stream:
        def record_event(self) -> Event:
            sent.append(Event())
            return sent[-1]

    def current_stream(device: torch.device) -> Stream:
        streams.append(device)
        return Stream()

    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    readings: Readings[int] = Readings()
    copies: list[bool] = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.ops.aten.copy_.default:
                copies.append(bool(args[2]))
            return func(*args, **(kwargs or {}))

    with FakeTensorMode(), Copies():
        for step in range(5):
            on_two = [torch.empty((), device=f"cuda:{k}") for k in (0, 1, 0)]
            readings.put(step, on_two)
        assert copies == [True] * 10, "without blocking, one for each device"
        assert [device.index for device in streams] == [0, 1] * 5
        assert readings.ready() == []
        sent[0].has_arrived = True
        assert readings.ready() == [], "the other device has not come"
        sent[1].has_arrived = True
        with pytest.raises(Exception, match="local_scalar_dense"):
            readings.ready()
    assert len(readings._copies) == 4, "of the first alone the numbers were asked for"


class Elsewhere(torch.Tensor):
    """On a device that a watched loader does not take for one without numbers, as it does `meta`."""

    is_meta = False  # type: ignore[assignment]


def elsewhere(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta").as_subclass(Elsewhere)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((ROWS, 3, 8, 8), torch.float32), ((ROWS, 3, 8, 8), torch.float16), ((ROWS, 5), torch.float32)],
)  # fmt: skip
@pytest.mark.parametrize("size", [ROWS, None])
def test_batches_on_a_device_pass_a_watched_loader(
    shape: tuple[int, ...], dtype: torch.dtype, size: int | None
) -> None:
    rows = shape if size else shape[1:]
    own = (size,) if size else ()
    made = [elsewhere(*rows, dtype=dtype), elsewhere(*own, dtype=torch.int64)]
    loader: Any = DataLoader(range(BATCHES * ROWS), size, collate_fn=lambda _: list(made))  # type: ignore[arg-type]
    watched = WatchedLoader(loader)
    batches = iter(watched)
    for _ in range(BATCHES):
        watched.observe(elsewhere(*own, 3), next(batches))
    look = watched._inspection
    assert look is not None
    seen = look._pending if size else [*look._pending, *look._alone]
    assert look.unread == 0
    assert sum(len(one.info.samples) for one in seen) == BATCHES * (size or 1), "all were seen"
    assert all(one.labels is not None for one in seen)
    assert len(watched._doubt._pending) == BATCHES
    for read in (watched.suspicion, watched.findings):  # there they are read
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            read()
