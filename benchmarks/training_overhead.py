"""What monitors and the watched loader add to a training's time, and that they leave its weights as they are, bit for bit.

A ResNet-20 on CIFAR pictures, cut and flipped at random in the main process, in batches of 128, by one thread. A machine's speed varies by more than what
is measured, so each watched training has a twin that is not: the same seed, and step by step the two take turns, one of them first and then the
other. Time is that of the processor, which other processes take less from than from the clock's; what is compared is the two times of one step. What
comes in few steps only (those that a monitor looks at, which are more than one in ten in an epoch as short as this one, the 8th and the 64th of a
loader, an epoch's beginning and end) is told apart, lest a median leave it out.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from tocsin.training import (
    ActivationMonitor,
    BaseMonitor,
    GradientMonitor,
    LossMonitor,
    Monitors,
    PerformanceMonitor,
    TrainingAlerts,
    WatchedLoader,
)

from .common import Figures
from .common_resnet import Pictures, ResNet20

_BATCH: Final = 128
_EVERY: Final = 10
_READ: Final = 64
"""Batches that the watched loader reads the numbers of in one go."""
_FIT: Final = 7
"""The step after which a loader knows 1,024 pictures, and fits what it compares pictures by, once."""


class Training:
    """A training that is gone through step by step, in turns with others: torch's random numbers are its own.

    Parameters
    ----------
    data
        Pictures and classes.
    seed
        Of the weights, the order and the cuts.
    monitors
        What watches it; None for nothing at all.
    is_watched
        Whether its loader is.
    """

    def __init__(
        self,
        data: Any,
        seed: int,
        monitors: list[BaseMonitor] | None = None,
        *,
        is_watched: bool = False,
    ) -> None:
        torch.manual_seed(seed)
        self.model = ResNet20()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4
        )
        self._criterion = nn.CrossEntropyLoss()
        loader: DataLoader[Any] = DataLoader(data, _BATCH, shuffle=True)
        self.watched = WatchedLoader(loader) if is_watched else None
        self._loader: Any = self.watched or loader
        self.monitors: Monitors | None = None
        if monitors is not None:
            self.monitors = Monitors(monitors, alerts=TrainingAlerts(show=False))
            self.monitors.initialize(self.model, self._loader, self._criterion)
        self._batches: Iterator[Any] = iter(())
        self._epoch = 0
        self.random = torch.get_rng_state()

    def timed(self, part: Callable[[], None]) -> float:
        """Return the seconds of processor time that a part took."""
        torch.set_rng_state(self.random)
        began = time.process_time()
        part()
        took = time.process_time() - began
        self.random = torch.get_rng_state()
        return took

    def begin(self) -> None:
        """Begin an epoch."""
        self._batches = iter(self._loader)

    def step(self) -> None:
        """Go through a batch."""
        batch = next(self._batches)
        inputs, labels = batch
        self.optimizer.zero_grad()
        outputs = self.model(inputs)
        loss = self._criterion(outputs, labels)
        loss.backward()
        self.optimizer.step()
        if self.watched is not None:
            self.watched.observe(outputs, batch)
        if self.monitors is not None:
            self.monitors.on_batch_end(outputs, batch)

    def end(self) -> None:
        """End an epoch."""
        assert next(self._batches, None) is None
        if self.monitors is not None:
            self.monitors.on_epoch_end(self._epoch)
        self._epoch += 1

    def findings(self) -> None:
        """Ask for what the loader has found."""
        assert self.watched is not None
        self.watched.findings()

    def state(self) -> list[torch.Tensor]:
        """Return all that training has changed."""
        momenta = [state["momentum_buffer"] for state in self.optimizer.state.values()]
        return [*self.model.state_dict().values(), *momenta, self.random]


Times = list[tuple[int, int, float, float]]
"""Epoch, step of the run (-1 for an epoch's beginning and end), and the seconds without and with."""


def paired(plain: Training, watched: Training, epochs: int, steps: int) -> Times:
    """Go through both in turns."""
    found: Times = []

    def both(epoch: int, step: int, name: str) -> None:
        pair = [plain, watched] if len(found) % 2 else [watched, plain]
        took = {training: training.timed(getattr(training, name)) for training in pair}
        found.append((epoch, step, took[plain], took[watched]))

    for epoch in range(epochs):
        both(epoch, -1, "begin")
        for k in range(steps):
            both(epoch, epoch * steps + k, "step")
        both(epoch, -1, "end")
    return found


def added(times: Times, periods: Sequence[int]) -> tuple[float, float]:
    """Return what is added to an epoch's time, in percent, and its standard error: medians over the steps of one kind, as `periods` make them."""
    step, without, with_ = np.array([row[1:] for row in times]).T
    is_step = step >= 0
    usual = float(np.median(without[is_step]))
    more = np.where(is_step, with_ / without - 1, (with_ - without) / usual)
    rare = [step % _READ == _READ - 1, step == _FIT, *(step % period == 0 for period in periods)]
    kind = np.where(is_step, sum(2**k * flag for k, flag in enumerate(rare)), -1)
    total, variance = float(more[~is_step].sum()), 0.0
    for one in np.unique(kind[is_step]):
        of = more[kind == one]
        middle = float(np.median(of))
        # Of a median, 1.25 times that of a mean; 1.48 makes a median distance a standard deviation.
        error = 1.25 * 1.48 * float(np.median(np.abs(of - middle))) / len(of) ** 0.5
        total += len(of) * middle
        variance += (len(of) * error) ** 2
    count = int(is_step.sum())
    return 100 * total / count, 100 * variance**0.5 / count


def other_randomness() -> tuple[Any, bytes]:
    """Return the state of Python's generator and of numpy's."""
    _, keys, *_ = np.random.get_state(legacy=True)  # noqa: NPY002
    return random.getstate(), np.asarray(keys).tobytes()


def first_use(data: Any) -> float:
    """Return the seconds of a watched step and its findings: the first ones also set up what is there once in a process."""
    training = Training(data, 0, is_watched=True)
    took = sum(training.timed(part) for part in (training.begin, training.step))
    training.step()
    return took + training.timed(training.findings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=6_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures = Figures("training-overhead")
    data = Subset(Pictures("train6k", augment=True), range(args.images))
    steps = -(-args.images // _BATCH)
    first, again = (first_use(data) for _ in range(2))
    figures.report("seconds_of_the_first_use_of_a_process", first - again)
    cases: dict[str, tuple[float, list[BaseMonitor] | None]] = {
        "metrics_and_loss": (3.0, [PerformanceMonitor(), LossMonitor()]),
        "gradients_and_activations": (
            8.0, [GradientMonitor(every=_EVERY), ActivationMonitor(every=_EVERY)],
        ),
        "watched_loader": (5.0, None),
    }  # fmt: skip
    for name, (most, monitors) in cases.items():
        plain = Training(data, args.seed)
        watched = Training(data, args.seed, monitors, is_watched=monitors is None)
        before = other_randomness()
        times = paired(plain, watched, args.epochs, steps)
        differ = sum(
            not torch.equal(a, b) for a, b in zip(plain.state(), watched.state(), strict=True)
        )
        differ += before != other_randomness()
        # An epoch of so few batches has its activations looked at more often than asked for.
        periods = [_EVERY, max(1, min(_EVERY, steps // 10))]
        epochs = {"_first_epoch": [t for t in times if t[0] == 0], "": [t for t in times if t[0]]}
        for which, of in epochs.items() if monitors is None else (("", times),):
            percent, error = added(of, periods)
            figures.report(f"{name}{which}_percent", percent, most=most)
            figures.report(f"{name}{which}_percent_standard_error", error)
        figures.report(f"{name}_tensors_that_differ", differ, most=0)
        if watched.watched is not None:
            took = watched.timed(watched.findings)
            epoch = sum(t[2] for t in times) / args.epochs
            figures.report("findings_percent_of_an_epoch", 100 * took / epoch)
        if watched.monitors is not None:
            watched.monitors.close()
            if watched.monitors.set_aside:
                raise SystemExit(f"monitors were set aside: {watched.monitors.set_aside}")
    figures.exit()


if __name__ == "__main__":
    main()
