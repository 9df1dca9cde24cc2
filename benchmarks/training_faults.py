"""Faults planted in training, one at a time, and healthy runs: what the monitors of the loop and the watched loader find, and how soon.

Each part reports on one fault, in as many seeds as are asked for, by two processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Final

import torch

from . import training_faults_data as data
from . import training_faults_loop as loop
from . import training_faults_triggers as triggers
from . import training_faults_unusual as unusual
from .common import Figures

Part = Callable[[Figures, range, Executor], None]
PARTS: Final[dict[str, Part]] = {
    "healthy": loop.healthy,
    "learning-rate": loop.learning_rate,
    "dead-layer": loop.dead_layer,
    "vanishing-gradient": loop.vanishing_gradient,
    "nan-batch": loop.nan_batch,
    "nan-layer": loop.nan_layer,
    "flipped-labels": data.flipped_labels,
    "poisoned-labels": data.poisoned_labels,
    "duplicates": data.duplicates,
    "shards": data.shards,
    "healthy-loaders": data.healthy_loaders,
    "triggers": triggers.triggers,
    "unusual": unusual.unusuals,
}
_FIRST: Final = 7_000
"""Seeds of the bench: none of them was looked at while anything was chosen, which was done with others below 5,000."""


def quiet() -> None:
    """Set a process up."""
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for loaders' workers: fast
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # of few processors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all, if none is named")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=_FIRST, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    figures = Figures("training-faults")
    seeds = range(args.first, args.first + args.seeds)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, mp_context=spawn, initializer=quiet) as pool:
        for name in args.parts or PARTS:
            PARTS[name](figures, seeds, pool)
    figures.exit()


if __name__ == "__main__":
    main()
