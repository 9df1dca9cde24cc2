"""From a float64 matrix to verdicts on one core: 20 features through ADWIN, Page-Hinkley and the guarded e-detector.

The stream monitor, as the worker runs it, in batches of 1,000 rows of N(0,1), against River's ADWIN and Page-Hinkley
alone in a plain loop over the same values: processor time, medians of rounds that take turns. Then how long a process
takes to begin, the size of the state, memory over ten million events, and what other libraries need for a value of
the same matrix. Each of those runs in a virtual environment of its own, made once under .bench/; where that cannot
be, a line says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from river import drift

from tocsin.core.columns import Floats
from tocsin.detectors.adwin import Adwin
from tocsin.detectors.base import Detector, Observations
from tocsin.detectors.e_detector import EDetector
from tocsin.detectors.guarded import GuardedEDetector
from tocsin.detectors.page_hinkley import PageHinkley
from tocsin.detectors.stream_monitor import StreamMonitor

from .common import Figures
from .parity import river_seconds

FEATURES: Final = 20
NAMES: Final = tuple(f"feature:{k}" for k in range(FEATURES))
_WARM_UP: Final = 4_000  # rows: references, regimes, compilation
_ROWS: Final = 30_000
_ROUNDS: Final = 7
_BATCH: Final = 1_000
_MEMORY_BATCH: Final = 10_000

RIVALS: Final = {
    "frouros": ("frouros==0.9.0", "numpy==2.1.3", "scipy==1.14.1"),
    "alibi": ("alibi-detect==0.13.0", "numba==0.59.1", "numpy==1.26.4"),
    "evidently": ("evidently==0.7.23", "pandas==2.3.3", "numpy==2.4.6"),
}
"""What pip installs for each, none of which goes with what the others need."""


def batches(values: Floats, size: int, begin: int = 0) -> list[Observations]:
    place = np.arange(begin, begin + len(values))
    whole = Observations(
        names=NAMES, values=values, offsets=place, rows=np.zeros(len(values), np.int64)
    )
    return [whole.take(slice(at, at + size)) for at in range(0, len(values), size)]


def seconds(make: Callable[[], Detector], values: Floats, size: int) -> float:
    """Return the processor time of the rows after the warm-up."""
    detector = make()
    for part in batches(values[:_WARM_UP], size):
        detector.update(part)
    parts = batches(values[_WARM_UP:], size, _WARM_UP)
    began = time.process_time()
    for part in parts:
        detector.update(part)
    return time.process_time() - began


def speed(figures: Figures, values: Floats) -> float:
    """Report time per event, beside River's; return the monitor's nanoseconds per value."""
    columns = [column.tolist() for column in values[_WARM_UP:].T]
    events = len(values) - _WARM_UP
    ours, rivers = [], []
    for _ in range(_ROUNDS):
        ours.append(seconds(StreamMonitor, values, _BATCH))
        rivers.append(
            river_seconds(drift.ADWIN, columns) + river_seconds(drift.PageHinkley, columns)
        )
    mine, river = (statistics.median(taken) / events * 1e6 for taken in (ours, rivers))
    figures.report("us_per_event", mine, most=2.0)
    figures.report("river_us_per_event", river)
    ratio = statistics.median(b / a for a, b in zip(ours, rivers, strict=True))
    figures.report("river_over_tocsin", ratio, least=5.0)
    parts: dict[str, Callable[[], Detector]] = {
        "adwin": Adwin, "page_hinkley": PageHinkley, "e_detector": EDetector,
        "guarded_e_detector": GuardedEDetector,
    }  # fmt: skip
    for name, make in parts.items():
        best = min(seconds(make, values, _BATCH) for _ in range(3))
        figures.report(f"{name}_ns_per_value", best / values[_WARM_UP:].size * 1e9)
    small = min(seconds(StreamMonitor, values, 100) for _ in range(3))
    figures.report("us_per_event_in_batches_of_100", small / events * 1e6)
    return mine * 1e3 / FEATURES


_FIRST_USE: Final = """
import time
began = time.perf_counter()
import numpy as np
from tocsin.detectors.base import Observations
from tocsin.detectors.adwin import Adwin
from tocsin.detectors.guarded import GuardedEDetector
from tocsin.detectors.page_hinkley import PageHinkley
rows = Observations.of(np.random.default_rng(0).normal(size=(3000, 20)))
for make in (Adwin, PageHinkley, GuardedEDetector):
    make().update(rows)
print(time.perf_counter() - began)
"""


def warm_start(figures: Figures) -> None:
    """Report how long a process takes to import the three detectors and use each for the first time, compiled before."""

    def first_use() -> float:
        done = subprocess.run(
            [sys.executable, "-c", _FIRST_USE], check=True, capture_output=True, text=True
        )
        return float(done.stdout)

    first_use()
    figures.report("warm_start_seconds", statistics.median(first_use() for _ in range(5)), most=1.0)


def resident() -> float:
    """Return the memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def memory(figures: Figures, seed: int, millions: int) -> None:
    """Report the size of the state and the growth of memory, after so many million events."""
    rng = np.random.default_rng([seed, 1])
    monitor, parts = StreamMonitor(), (Adwin(), PageHinkley(), GuardedEDetector())
    after_first = 0.0
    for begin in range(0, millions * 1_000_000, _MEMORY_BATCH):
        (batch,) = batches(rng.normal(size=(_MEMORY_BATCH, FEATURES)), _MEMORY_BATCH, begin)
        monitor.update(batch)
        if begin < 1_000_000:
            for part in parts:
                part.update(batch)
        if begin + _MEMORY_BATCH == 1_000_000:
            after_first = resident()
    adwin, page_hinkley, guarded = parts
    three = len(adwin.snapshot()) + len(page_hinkley.snapshot())
    three += len(guarded.detector.volatile()) + len(guarded.guard_state())
    figures.report("state_bytes_per_stream", three / FEATURES, most=8192)
    figures.report("monitor_state_bytes_per_stream", len(monitor.snapshot()) / FEATURES)
    grown = resident() - after_first
    figures.report(f"mib_grown_from_1e6_to_{millions}e6_events", grown, most=2.0)


def rival_python(name: str) -> Path:
    """Return the Python of a rival's virtual environment, which is made if it is not there.

    Raises
    ------
    subprocess.CalledProcessError
        It cannot be installed here; the error's output says why.
    """
    folder = Path(".bench") / name
    python, ready = folder / "bin/python", folder / ".ready"
    wanted = " ".join(RIVALS[name])
    if not ready.exists() or ready.read_text() != wanted:
        venv.create(folder, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*install, *RIVALS[name]], check=True, capture_output=True, text=True)
        ready.write_text(wanted)
    return python


def rivals(figures: Figures, values: Floats, ours: float) -> None:
    """Report what other libraries need for a value, as multiples of the monitor's `ours` nanoseconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "matrix.npy"
        np.save(path, values)
        for name in RIVALS:
            try:
                done = subprocess.run(
                    [rival_python(name), Path(__file__).with_name("engine_child.py"), name, path],
                    check=True, capture_output=True, text=True,
                )  # fmt: skip
            except subprocess.CalledProcessError as error:
                last = (error.stderr or error.stdout or "").strip().splitlines()[-1:]
                print(f"engine: {name} does not run here: {''.join(last)}", file=sys.stderr)
                continue
            found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            for detector, nanoseconds in found.items():
                figures.report(f"{name}_{detector}_ns_per_value", nanoseconds)
                figures.report(f"{name}_{detector}_over_tocsin", nanoseconds / ours)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--millions", type=int, default=10, help="of events, for memory")
    arguments.add_argument("--no-rivals", action="store_true", help="install nothing")
    options = arguments.parse_args()
    figures = Figures("engine")
    values = np.random.default_rng(options.seed).normal(size=(_WARM_UP + _ROWS, FEATURES))
    ours = speed(figures, values)
    warm_start(figures)
    memory(figures, options.seed, options.millions)
    if not options.no_rivals:
        rivals(figures, values, ours)
    figures.exit()


if __name__ == "__main__":
    main()
