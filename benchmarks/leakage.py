"""What of training leaks into service, or over a split: planted rows found again, and none where none were planted.

Rows of a reference are put into 5 % of a served stream: as they are, rounded to three significant digits or decimals,
as float32; images encoded again as JPEG. What is reported is how many points the data-leakage rate is off. Served and
reference rows are a random split of one file, so that 0 is the truth where nothing was planted. A rate is 0 where its
interval holds 0; how far it would be from 0 without that rule stands beside, as the excess over chance. Where a file
comes in two parts (NSL-KDD's test half, the census of later years) the rate of these is reported without a bar, since
rows may be in both for other reasons. Where chance leaves more than a point open, the rate is unknown, and how often is
reported: so it is of the census, sixteen columns of few values, of which half of what is served equals a row of the
reference by chance.

Constants were chosen with all of these files in view, Harvard's tree and scikit-learn's digits (8 by 8, one block of a
JPEG) among them since the estimator was last changed, and with seeds 0 to 5: none is an independent check. Of the Harvard files the others repeat their rows, so that nothing is known of them.

Features that tell the label: one of forty, for many seeds, and none on files as they are; on the Harvard files, whose
concepts change, what is claimed is reported without a bar. Then `tocsin leakage` on splits with planted crossings,
beside exact duplicates as pandas would find them; then time and memory a row.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.cli.leakage import run
from tocsin.core.columns import Floats, Ints, Strings
from tocsin.detectors.coincidence import Leak
from tocsin.detectors.fingerprints import KINDS, Fingerprints, Served
from tocsin.detectors.leaky_features import LabelCounts, leaky
from tocsin.detectors.signatures import IMAGE_DISTANCE, ServedVectors, Signatures, image_vectors

from .common import Figures
from .common_cifar import ResNet20
from .common_cifar import images as all_images
from .common_data import data_file, mnist
from .common_jpeg import QUALITY, jpeg

PLANTED: Final = 0.05
OFF: Final = 1.0
"""Points that the rate may be off."""
WITHOUT: Final = 0.1
"""Per cent that may be said to leak where nothing does."""
_FEATURES: Final = 40
_LABELS: Final = 2_000
_TREE: Final = "rt_2563789698568873_abrupto"
_CONCEPTS: Final = (
    "mixed_0101_abrupto", _TREE, "sea_0123_abrupto_noise_0.2", "sine_0123_abrupto",
    "stagger_0120_abrupto",
)  # fmt: skip


class Table(NamedTuple):
    """Rows of numbers and of text, and labels where there are any."""

    numbers: Floats
    texts: list[NDArray[Any]]
    labels: Ints | None = None

    def take(self, rows: Ints) -> Table:
        """Return some rows."""
        labels = None if self.labels is None else self.labels[rows]
        return Table(self.numbers[rows], [text[rows] for text in self.texts], labels)

    @property
    def columns(self) -> tuple[Floats, list[Strings]]:
        """Numbers, and text as the fingerprints take it."""
        return self.numbers, [Strings.of(text.tolist()) for text in self.texts]


def electricity() -> Table:
    with gzip.open(data_file("electricity.csv.gz"), "rt") as text:
        x = np.array(list(csv.reader(text))[1:], np.float64)
    return Table(x[:, :-1], [], x[:, -1].astype(np.int64))


def harvard(name: str) -> Table:
    with gzip.open(data_file(f"harvard/{name}.csv.gz"), "rt") as text:
        x = np.array(list(csv.reader(text))[1:], np.float64)
    return Table(x[:, :-1], [], x[:, -1].astype(np.int64))


def nsl_kdd(name: str) -> Table:
    with gzip.open(data_file(f"nsl_kdd/{name}"), "rt") as text:
        columns = list(zip(*csv.reader(text), strict=True))
    texts = [np.array(columns[k], object) for k in (1, 2, 3)]
    numbers = np.array([columns[k] for k in range(41) if k not in (1, 2, 3)], np.float64).T
    return Table(numbers, texts, np.array([c != "normal" for c in columns[41]], np.int64))


def employment(name: str) -> Table:
    from pyarrow import parquet

    table = parquet.read_table(data_file(f"employment_ma/employment_MA_{name}.pq"))
    known = {"id", "AGEP", "employed", "year", "prediction", "predicted_probability"}
    texts = [np.array(table[n].to_pylist(), object) for n in table.column_names if n not in known]
    labels = table["employed"].to_numpy() if "employed" in table.column_names else None
    return Table(table["AGEP"].to_numpy().reshape(-1, 1), texts, labels)


def significant(x: Floats) -> Floats:
    """Return numbers as they are when printed with three significant digits."""
    return np.array([float(f"{v:.3g}") for v in x.ravel()]).reshape(x.shape)


def split(table: Table, rng: np.random.Generator, part: float = 2 / 3) -> tuple[Table, Table]:
    order = rng.permutation(len(table.numbers))
    cut = int(part * len(order))
    return table.take(order[:cut]), table.take(order[cut:])


HOW: Final[dict[str, Callable[[Floats], Floats]]] = {
    "as they are": lambda x: x,
    "3 significant digits": significant,
    "3 decimals": lambda x: np.round(x, 3),
    "as float32": lambda x: x.astype(np.float32).astype(np.float64),
}


def served(
    reference: Table, live: Table, how: Callable[[Floats], Floats], rng: np.random.Generator
) -> Table:
    """Return what is served, with rows of the reference in 5 % of it."""
    count = round(PLANTED * len(live.numbers))
    at = rng.choice(len(live.numbers), count, replace=False)
    of = rng.choice(len(reference.numbers), count, replace=False)
    numbers, texts = live.numbers.copy(), [text.copy() for text in live.texts]
    numbers[at] = how(reference.numbers[of])
    for text, known in zip(texts, reference.texts, strict=True):
        text[at] = known[of]
    return Table(numbers, texts)


def fitted(reference: Table) -> Fingerprints:
    numbers, texts = reference.columns
    names = [f"x{k}" for k in range(numbers.shape[1])]
    return Fingerprints.fit(numbers, names, texts, [f"t{k}" for k in range(len(texts))])


def leaks(reference: Fingerprints, live: Table) -> dict[str, Leak]:
    counted = Served(reference)
    counted.add(*live.columns)
    return counted.leaks()


def rows_of_tables(figures: Figures, seed: int, runs: int) -> None:
    """Report on rows of tables."""
    tables = {
        "electricity": electricity(), "nsl_kdd": nsl_kdd("KDDTrain+_20Percent.txt.gz"),
        "employment_ma": employment("reference"), "harvard's tree": harvard(_TREE),
    }  # fmt: skip
    for number, (name, table) in enumerate(tables.items()):
        off: dict[str, list[float]] = {}
        held, clean, kinds, chance, excess = [], [], [], [], []
        looks = 0
        for run_number in range(runs):
            rng = np.random.default_rng([seed, number, run_number])
            reference, live = split(table, rng)
            prints = fitted(reference)
            found = leaks(prints, live)
            looks += 2
            clean += [100 * leak.rate.value for leak in found.values()]
            chance += [100 * leak.by_chance for leak in found.values()]
            excess += [100 * (leak.matched - leak.by_chance) for leak in found.values()]
            kinds += [leak.rate.low == 0 for leak in found.values()]
            for how, change in HOW.items():
                found = leaks(prints, served(reference, live, change, rng))
                for kind in ("exact", "near") if how == "as they are" else ("near",):
                    looks += 1
                    if kind in found:
                        rate = found[kind].rate
                        off.setdefault(f"{how}, {kind}", []).append(100 * abs(rate.value - PLANTED))
                        held.append(rate.low <= PLANTED <= rate.high)
        figures.report(
            f"{name}: share of looks that say unknown", 1 - (len(clean) + len(held)) / looks
        )
        if clean:
            figures.report(f"{name}: share that coincides by chance, at most, %", max(chance))
            figures.report(
                f"{name}: rate without planting, the largest, %", max(clean), most=WITHOUT
            )
            figures.report(
                f"{name}: excess over chance without planting, the largest, %", max(excess)
            )
            figures.report(
                f"{name}: share of intervals that hold 0 without planting", float(np.mean(kinds))
            )
        for how, points in off.items():
            figures.report(f"{name}: {how}, points off, the largest", max(points), most=OFF)
            figures.report(f"{name}: {how}, points off, the mean", float(np.mean(points)))
        if held:
            figures.report(
                f"{name}: share of intervals that hold 5 %", float(np.mean(held)), least=0.8
            )
    for name, parts in {
        "nsl_kdd's own test half": (tables["nsl_kdd"], nsl_kdd("KDDTest+_first_half.txt.gz")),
        "employment_ma of later years": (tables["employment_ma"], employment("analysis")),
    }.items():
        found = leaks(fitted(parts[0]), parts[1])
        for kind in KINDS:
            if kind in found:
                figures.report(f"{name}: rate, {kind}, %", 100 * found[kind].rate.value)
            else:
                figures.report(f"{name}: rate, {kind}, unknown", 1)


def images(figures: Figures, seed: int, runs: int) -> None:
    """Report on images, encoded again."""
    from sklearn.datasets import load_digits

    mnist_pixels = mnist()[0]
    pixels, _ = load_digits(return_X_y=True)
    digits = (15 * np.asarray(pixels).reshape(-1, 8, 8)).astype(np.uint8)  # 0 to 16 as they come
    data = {
        "cifar10": tuple(np.load(data_file(f"cifar10/{part}.npz"))["X"] for part in ("train6k", "test3k")),
        "mnist": (mnist_pixels[:7000], mnist_pixels[7000:]),
        "digits": (digits[:1200], digits[1200:]),
    }  # fmt: skip
    for number, (name, (train, test)) in enumerate(data.items()):
        reference = Signatures.fit(image_vectors(train), IMAGE_DISTANCE)
        clean = ServedVectors(reference)
        clean.add(image_vectors(test))
        leak = clean.leak()
        if leak is None:
            figures.report(f"{name}: without planting, unknown", 1)
        else:
            figures.report(f"{name}: share that is alike by chance, %", 100 * leak.by_chance)
            figures.report(f"{name}: rate without planting, %", 100 * leak.rate.value, most=WITHOUT)
        for quality in (QUALITY, 50):
            off, named = [], []
            for run_number in range(runs):
                rng = np.random.default_rng([seed, 10 + number, run_number])
                count = round(PLANTED * len(test))
                at = rng.choice(len(test), count, replace=False)
                of = rng.choice(len(train), count, replace=False)
                live = test.copy()
                live[at] = jpeg(train[of], quality)
                counted = ServedVectors(reference)
                named.append(np.mean(counted.add(image_vectors(live))[at] == of))
                leak = counted.leak()
                if leak is not None:
                    off.append(100 * abs(leak.rate.value - PLANTED))
            # Of 597 digits 5 % are known to 2 points.
            bar = OFF if quality == QUALITY and name != "digits" else None
            unknown = 1 - len(off) / runs
            figures.report(f"{name}: JPEG {quality}, share of looks that say unknown", unknown)
            if off:
                figures.report(
                    f"{name}: JPEG {quality}, points off, the largest", max(off), most=bar
                )
            figures.report(f"{name}: JPEG {quality}, share of rows named", float(np.mean(named)))


def embeddings(figures: Figures, seed: int) -> None:
    """Report on the embeddings of a ResNet-20, rounded to three digits, and of images encoded again."""
    pixels, _ = all_images()
    network = ResNet20()
    live, known = network(pixels[:1500]).embedding, network(pixels[3000:6000]).embedding
    reference = Signatures.fit(known)
    rng = np.random.default_rng([seed, 20])
    count = round(PLANTED * len(live))
    at, of = (
        rng.choice(len(live), count, replace=False),
        rng.choice(len(known), count, replace=False),
    )
    for how, rows in (
        ("without planting", None), ("3 digits", significant(known[of])),
        ("float16", known[of].astype(np.float16).astype(np.float64)),
    ):  # fmt: skip
        given = live.copy()
        if rows is not None:
            given[at] = rows
        counted = ServedVectors(reference)
        counted.add(given)
        leak = counted.leak()
        assert leak is not None
        if rows is None:
            figures.report(f"embeddings: {how}, %", 100 * leak.rate.value, most=WITHOUT)
        else:
            figures.report(
                f"embeddings: {how}, points off", 100 * abs(leak.rate.value - PLANTED), most=OFF
            )


def labels(figures: Figures, seed: int, runs: int) -> None:
    """Report on features that tell the label."""
    kinds: dict[str, Callable[[Ints, np.random.Generator], NDArray[Any]]] = {
        "the label": lambda y, _: y.astype(np.float64),
        "the label and noise": lambda y, rng: y + 0.2 * rng.normal(size=len(y)),
        "the label, 1 in 20 wrong": lambda y, rng: (y ^ (rng.random(len(y)) < 0.05)) * 1.0,
        "two humps around the other class": lambda y, rng: np.where(
            y == 1, rng.normal(size=len(y)), 5.0 * rng.choice([-1, 1], len(y))
        ),
    }
    names = [f"x{k}" for k in range(_FEATURES)]
    for number, (kind, leak) in enumerate(kinds.items()):
        found = false = 0
        for run_number in range(runs):
            rng = np.random.default_rng([seed, 30 + number, run_number])
            x = rng.normal(size=(12_000, _FEATURES))
            chance = 1 / (
                1 + np.exp(-x @ (rng.normal(size=_FEATURES) * (rng.random(_FEATURES) < 0.3)))
            )
            y = (rng.random(len(x)) < chance).astype(np.int64)
            before = LabelCounts.fit(names, x[:10_000])
            before.add(x[:10_000], y[:10_000])
            planted = x[10_000:].copy()
            planted[:, 7] = leak(y[10_000:], rng)
            after = before.like()
            after.add(planted[:_LABELS], y[10_000:][:_LABELS])
            said = {claim.feature for claim in leaky(after, before)}
            found += "x7" in said
            false += len(said - {"x7"})
        figures.report(f"{kind}: share of runs in which it is found", found / runs, least=1.0)
        figures.report(f"{kind}: other features, in all runs", false, most=0)
    for name, table in (
        ("electricity", electricity()), ("nsl_kdd", nsl_kdd("KDDTrain+_20Percent.txt.gz")),
        ("employment_ma", employment("reference")), *((name, harvard(name)) for name in _CONCEPTS),
    ):  # fmt: skip
        assert table.labels is not None
        coded = [np.unique(text, return_inverse=True)[1].astype(np.float64) for text in table.texts]
        x = np.column_stack([table.numbers, *coded])
        rows = len(x) // 3
        before = LabelCounts.fit([f"x{k}" for k in range(x.shape[1])], x[:rows])
        before.add(x[:rows], table.labels[:rows])
        claims = len(leaky(before))
        looks = range(rows, len(x) - _LABELS + 1, _LABELS)
        for at in looks:
            after = before.like()
            after.add(x[at : at + _LABELS], table.labels[at : at + _LABELS])
            claims += len(leaky(after, before))
        bar = None if name in _CONCEPTS else 0
        figures.report(f"{name}: features claimed in {1 + len(looks)} looks", claims, most=bar)


def crossings(figures: Figures, seed: int, runs: int) -> None:
    """Report how many planted crossings of a split are named."""
    named: dict[str, list[float]] = {}
    clean = 0
    for run_number in range(runs):
        rng = np.random.default_rng([seed, 40, run_number])
        train, test = (_rows(rng, *ends) for ends in ((6000, 0, 600, 0), (2000, 600, 800, 6000)))
        clean += _said(train, test)["found"]
        at, of = rng.choice(2000, 200, replace=False), rng.choice(6000, 200, replace=False)
        compared = ("age", "dose", "weight", "ward")
        for k, (row, twin) in enumerate(zip(at[:100].tolist(), of[:100].tolist(), strict=True)):
            same = {name: train[twin][name] for name in compared}
            if k >= 50:
                same = {n: v if n == "ward" else float(f"{v:.3g}") for n, v in same.items()}
            test[row] |= same
        for row, twin in zip(at[100:150].tolist(), of[100:150].tolist(), strict=True):
            test[row]["patient"] = train[twin]["patient"]
        for row, twin in zip(at[150:].tolist(), of[150:].tolist(), strict=True):
            test[row]["when"] = train[twin]["when"]
        checks = {check["check"]: check["crossings"] for check in _said(train, test)["checks"]}
        exact = {(c["test_row"], c["train_row"]) for c in checks["exact duplicates"]}
        near = exact | {(c["test_row"], c["train_row"]) for c in checks["near duplicates"]}
        pairs = list(zip(at.tolist(), of.tolist(), strict=True))
        grouped = {row for c in checks["group patient"] for row in c["test_rows"]}
        timed = {row for c in checks["time when"] for row in c["test_rows"]}
        keys = {tuple(row[n] for n in compared) for row in train}
        plain = {k for k, row in enumerate(test) if tuple(row[n] for n in compared) in keys}
        for what, share in (
            ("duplicates", np.mean([pair in exact for pair in pairs[:50]])),
            ("near duplicates", np.mean([pair in near for pair in pairs[50:100]])),
            ("rows of groups", np.mean([row in grouped for row in at[100:150].tolist()])),
            ("rows out of time", np.mean([row in timed for row in at[150:].tolist()])),
            ("both kinds of duplicates by equal rows, as pandas", np.mean([r in plain for r in at[:100].tolist()])),
        ):  # fmt: skip
            named.setdefault(what, []).append(float(share))
    figures.report("splits without a leak that are said to have one", clean, most=0)
    for what, shares in named.items():
        bar = None if "pandas" in what else 0.99
        figures.report(f"split: share named, {what}", float(np.mean(shares)), least=bar)


def _rows(
    rng: np.random.Generator, n: int, first: int, last: int, minute: int
) -> list[dict[str, Any]]:
    begin = np.datetime64("2024-01-01T00:00")
    return [
        {
            "patient": f"p{rng.integers(first, last)}", "when": str(begin + np.timedelta64(minute + k, "m")),
            "age": round(float(rng.normal(50, 12)), 2), "dose": round(float(rng.lognormal()), 4),
            "weight": round(float(rng.normal(75, 9)), 3), "ward": "abcd"[rng.integers(4)],
        }
        for k in range(n)
    ]  # fmt: skip


def _said(train: list[dict[str, Any]], test: list[dict[str, Any]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("train.csv", "test.csv")]
        for file, rows in zip(files, (train, test), strict=True):
            with file.open("w", newline="") as text:
                writer = csv.DictWriter(text, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        printed = io.StringIO()
        with redirect_stdout(printed):
            run(files[0], files[1], as_json=True)
    found: dict[str, Any] = json.loads(printed.getvalue())
    return found


def costs(figures: Figures, seed: int) -> None:
    """Report time and memory a row."""
    rng = np.random.default_rng([seed, 50])
    x = rng.normal(size=(200_000, 20))
    names = [f"x{k}" for k in range(20)]
    began = time.process_time()
    reference = Fingerprints.fit(x[:100_000], names)
    figures.report(
        "20 numbers: microseconds a row of the reference", (time.process_time() - began) * 10
    )
    counted = Served(reference)
    began = time.process_time()
    counted.add(x[100_000:])
    figures.report(
        "20 numbers: microseconds a served row", (time.process_time() - began) * 10, most=5
    )
    figures.report(
        "20 numbers: bytes a row of the reference", len(reference.snapshot()) / 1e5, most=32
    )
    vectors = rng.normal(size=(20_000, 255))
    signed = Signatures.fit(vectors[:10_000])
    near = ServedVectors(signed)
    began = time.process_time()
    near.add(vectors[10_000:])
    figures.report(
        "255 numbers: microseconds a served vector", (time.process_time() - began) * 100, most=100
    )
    figures.report(
        "255 numbers: bytes a vector of the reference", len(signed.snapshot()) / 1e4, most=70
    )
    counts = LabelCounts.fit(names, x[:20_000])
    y = rng.integers(0, 2, 100_000)
    counts.add(x[:10], y[:10])
    began = time.process_time()
    counts.add(x[:100_000], y)
    figures.report("20 features: microseconds a label", (time.process_time() - began) * 10, most=5)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--runs", type=int, default=5, help="of each kind of planting")
    arguments.add_argument("--label-runs", type=int, default=100, help="of each kind of feature")
    options = arguments.parse_args()
    figures = Figures("leakage")
    rows_of_tables(figures, options.seed, options.runs)
    images(figures, options.seed, options.runs)
    embeddings(figures, options.seed)
    labels(figures, options.seed, options.label_runs)
    crossings(figures, options.seed, options.runs)
    costs(figures, options.seed)
    figures.exit()


if __name__ == "__main__":
    main()
