"""Checkpoints where things go wrong: kill -9 while saving, a full disk; and which files are kept, against Lightning.

A process that is killed loses nothing that it gave to the operating system, so this does not see what a power cut
does: what is synchronised with the disk before it takes its name is in the code, not in these figures.
"""

from __future__ import annotations

import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tocsin.core.errors import ConfigError, StorageError
from tocsin.training import ModelCheckpoint
from tocsin.training.checkpoint_file import SUFFIX
from tocsin.training.top_k import TopK

from .checkpoint_child import KEPT, mark, parts, save_until_killed, scores
from .checkpoint_lightning import lightnings, ours, settings_of
from .common import Figures

FOLDERS, KILLS_EACH = 20, 5
SEQUENCES = 1_000
FULL = 50


def main() -> None:
    sequences = int(sys.argv[1]) if len(sys.argv) > 1 else SEQUENCES
    torch.set_num_threads(1)  # no threads, so that a fork is a whole process
    logging.disable(logging.WARNING)  # NaN is planted
    figures = Figures("checkpoint")
    kills(figures)
    full_disk(figures)
    full_tmpfs(figures)
    against_lightning(figures, sequences)
    figures.exit()


def kills(figures: Figures) -> None:
    """Kill a training at random moments; each folder is gone on with, and killed again."""
    rng = np.random.default_rng(0)
    unreadable = wrong_best = wrong_last = left = saves = debris = 0
    for seed in range(FOLDERS):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "checkpoints"
            before = -1
            for kill in range(KILLS_EACH):
                done = killed(folder, seed, float(rng.uniform(0, 0.4)))
                done = before if done is None else done
                copy = Path(place) / f"copy{kill}"
                if folder.exists():
                    shutil.copytree(folder, copy, symlinks=True)
                    debris += any(path.name.startswith(".") for path in copy.iterdir())
                found = looked_at(copy, seed, done)
                unreadable += not found[0]
                wrong_best += not found[1]
                wrong_last += not found[2]
                left += found[3]
                saves += done - before
                before = max(done, found[4])
    figures.report("kills", FOLDERS * KILLS_EACH, least=100)
    figures.report("kills_epochs_saved", saves)
    figures.report("kills_in_the_middle_of_a_file", debris)
    figures.report("kills_folder_does_not_load", unreadable, most=0)
    figures.report("kills_best_wrong", wrong_best, most=0)
    figures.report("kills_last_wrong", wrong_last, most=0)
    figures.report("kills_files_left_over_after_resume", left, most=0)


def killed(folder: Path, seed: int, seconds: float) -> int | None:
    """Train for some seconds, then kill -9; return the last epoch that was said to be done."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            save_until_killed(folder, seed, writing)
        finally:
            os._exit(3)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.readline() == b"ready\n", "the child failed"
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"the child ended by itself: {status}"
        lines = pipe.read().split()
    return int(lines[-1]) if lines else None


def looked_at(folder: Path, seed: int, done: int) -> tuple[bool, bool, bool, int, int]:
    """Return whether all loads, whether the best are right, whether the last is, what is left over, and the newest epoch."""
    if not folder.exists() or not list(folder.glob(f"*{SUFFIX}")):
        return done == -1, done == -1, done == -1, 0, -1
    try:
        whole = all(consistent(path) for path in folder.glob(f"*{SUFFIX}"))
        best_before = ModelCheckpoint.load(folder, which="best")
        model, optimizer = parts()
        mark(model, optimizer, -7)
        checkpoint = ModelCheckpoint.resume(folder, model, optimizer)
        newest = checkpoint.next_epoch - 1
        state = [float(x) for s in optimizer.state.values() for x in s["exp_avg"].unique()]
        restored = (
            {float(x) for w in model.parameters() for x in w.detach().unique()}
            == {newest}
            == set(state)
        )
    except (ConfigError, OSError, ValueError) as error:
        print(f"seed {seed}: {error}", file=sys.stderr)
        return False, False, False, 0, done
    expected = TopK(KEPT, "min")
    values = scores(seed)[: newest + 1]
    for epoch, value in enumerate(values):
        if expected.takes(value):
            expected.add(str(epoch), value)
    kept = [str(ModelCheckpoint.load(path).epoch) for path in checkpoint.kept]
    first_least = int(np.nanargmin(values)) if not np.isnan(values).all() else 0
    best = int(kept[list(checkpoint.best_k_models).index(checkpoint.best_model_path)])
    right = kept == list(expected.scores) and best == first_least == best_before.epoch
    last = newest in {done, done + 1}
    pointer = folder / f"last{SUFFIX}"
    if done >= 0 or pointer.exists():
        last &= pointer.exists() and ModelCheckpoint.load(pointer).epoch in {done, done + 1}
    written = [
        *checkpoint.kept,
        *([pointer] if pointer.exists() and not pointer.is_symlink() else []),
    ]
    files = {path.name for path in folder.iterdir()} - {pointer.name}
    files -= {path.name for path in written}
    files -= {str(ModelCheckpoint.load(path).record.state) for path in written}
    return whole and restored, right, last, len(files), newest


def consistent(path: Path) -> bool:
    """Whether weights, the optimizer's state and the record of a file are of one epoch."""
    saved = ModelCheckpoint.load(path)
    numbers = {float(x) for weight in saved.weights().values() for x in weight.unique()}
    for state in saved.state()["optimizer"]["state"].values():
        numbers |= {float(x) for x in state["exp_avg"].unique()}
    return numbers == {saved.epoch}


def contents(folder: Path) -> dict[str, bytes]:
    """Return what each file holds."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def full_disk(figures: Figures) -> None:
    """Let files grow to a random size only (RLIMIT_FSIZE), in the middle of a training."""
    rng = np.random.default_rng(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    unclear = changed = 0
    with tempfile.TemporaryDirectory() as place:
        model, optimizer = parts()
        checkpoint = ModelCheckpoint(
            place, "{epoch}", "loss", save_top_k=2, save_last=True, model=model, optimizer=optimizer
        )
        mark(model, optimizer, 0)
        checkpoint.step(1.0)
        size = min(path.stat().st_size for path in Path(place).iterdir())
        for trial in range(FULL):
            before = contents(Path(place))
            best = checkpoint.best_model_path
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(rng.integers(0, size)), hard))
            try:
                checkpoint.step(-1.0 - trial)
                unclear += 1
            except StorageError as error:
                unclear += "File too large" not in str(error) or place not in str(error)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            changed += contents(Path(place)) != before or checkpoint.best_model_path != best
            checkpoint.step(-1.5 - trial)  # there is room again
            changed += ModelCheckpoint.load(place).score != -1.5 - trial
    figures.report("full_disk_trials_rlimit_fsize", FULL)
    figures.report("full_disk_unclear_errors", unclear, most=0)
    figures.report("full_disk_older_files_changed", changed, most=0)


def full_tmpfs(figures: Figures) -> None:
    """Fill a file system of 1 MB, where this may mount one (root)."""
    with tempfile.TemporaryDirectory() as place:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]
        mounted = (
            not os.geteuid()
            and not subprocess.run(mount, check=False, capture_output=True).returncode
        )
        if not mounted:
            print("full_tmpfs needs root and mount: left out", file=sys.stderr)
            return
        unclear = changed = 0
        try:
            model = nn.Linear(200, 200)
            for name in ("{epoch}", "best"):
                folder = Path(place) / name.strip("{}")
                checkpoint = ModelCheckpoint(folder, name, "loss", save_top_k=-1, model=model)
                before: dict[str, bytes] = {}
                for _ in range(10):
                    try:
                        checkpoint.step(1.0)
                        before = contents(folder)
                    except StorageError as error:
                        unclear += "No space left on device" not in str(error)
                        changed += contents(folder) != before
                shutil.rmtree(folder)
                changed += len(before) == 20
        finally:
            subprocess.run(["umount", place], check=True)
    figures.report("full_tmpfs_unclear_errors", unclear, most=0)
    figures.report("full_tmpfs_older_files_changed", changed, most=0)


def against_lightning(figures: Figures, sequences: int) -> None:
    """Compare what is kept after random sequences: names, what is in them, and which is the best."""
    differ = wrong_last = older = 0
    for seed in range(sequences):
        settings, values, batches = settings_of(seed)
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            kept, best = ours(Path(one), settings, values, batches)
            theirs, their_best = lightnings(Path(other), settings, values, batches)
        last, their_last = kept.pop("last", None), theirs.pop("last", None)
        same = (kept, best, last is None) == (theirs, their_best, their_last is None)
        if not same:
            print(f"{seed}: {settings} {values} {batches}: {kept} {theirs}", file=sys.stderr)
        differ += not same
        wrong_last += last is not None and last != (len(values) - 1, len(values) * batches)
        older += last != their_last
    figures.report("sequences", sequences)
    figures.report("sequences_kept_unlike_lightning", differ, most=0)
    figures.report("sequences_last_is_not_the_last_step", wrong_last, most=0)
    figures.report("sequences_lightnings_last_is_another_step", older)


if __name__ == "__main__":
    main()
