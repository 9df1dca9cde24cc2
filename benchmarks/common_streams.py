"""Error streams of frozen models with known drifts: the Harvard files, and fresh ones of the same concepts.

A model is fitted on the first 5,000 rows and never again; what is watched is whether it is wrong on each
row after.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tocsin.detectors.matching import Change

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Concept = Callable[[Floats], NDArray[np.bool_]]

TRAINING_ROWS: Final = 5_000
EFFECTIVE: Final = 0.02
"""Change of the error rate below which a drift counts neither as found nor as missed."""
MODELS: Final = ("tree", "lr", "nb")
FAMILIES: Final = ("mixed", "sea", "rt", "sine", "stagger", "hyper")
HARVARD_FAMILIES: Final = FAMILIES[:5]


@dataclass(frozen=True)
class Stream:
    """Whether a frozen model was wrong, row by row.

    Parameters
    ----------
    name
        Of the file, or of the family and the seed.
    mode
        `abrupt` or `gradual`.
    errors
        (n,) 0.0 or 1.0.
    changes
        Where the concept changes; optional where that moves the error rate by less than `EFFECTIVE`.
    rates
        The mean error before, between and after the changes.
    """

    name: str
    mode: str
    errors: Floats
    changes: tuple[Change, ...]
    rates: tuple[float, ...]

    @classmethod
    def of(cls, name: str, mode: str, errors: Floats, drifts: Sequence[tuple[int, int]]) -> Stream:
        """Take the rates between drifts, each from its start to its end, and say which matter."""
        begins = [0, *(end for _, end in drifts)]
        ends = [*(start for start, _ in drifts), len(errors)]
        rates = [float(errors[a:b].mean()) for a, b in zip(begins, ends, strict=True)]
        changes = tuple(
            Change(start, end, optional=abs(rates[i + 1] - rates[i]) < EFFECTIVE)
            for i, (start, end) in enumerate(drifts)
        )
        return cls(name, mode, errors, changes, tuple(rates))


def data_folder(name: str) -> Path:
    """Return a folder of the benchmarks' data.

    Raises
    ------
    FileNotFoundError
        It is not there.
    """
    root = Path(os.environ.get("TOCSIN_BENCH_DATA", "../shared/data"))
    if not (root / name).is_dir():
        raise FileNotFoundError(
            f"no folder {root / name}; TOCSIN_BENCH_DATA must name the folder that holds {name}"
        )
    return root / name


def model(name: str) -> Any:
    """Return an unfitted scikit-learn classifier: `tree`, `lr` or `nb`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.tree import DecisionTreeClassifier

    makers: dict[str, Callable[[], Any]] = {
        "tree": lambda: DecisionTreeClassifier(min_samples_leaf=20, random_state=0),
        "lr": lambda: LogisticRegression(max_iter=1000),
        "nb": GaussianNB,
    }
    return makers[name]()


def errors_of(name: str, x: Floats, y: Ints) -> Floats:
    """Fit a model on the first rows; return (n,) whether it is wrong on each row after."""
    fitted = model(name).fit(x[:TRAINING_ROWS], y[:TRAINING_ROWS])
    return np.asarray(fitted.predict(x[TRAINING_ROWS:]) != y[TRAINING_ROWS:], np.float64)


def load_csv(file: Path) -> Floats:
    """Return (n, k) numbers of a CSV file with a header, gzipped or not."""
    return np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2)


def harvard(folder: Path, name: str) -> Iterator[Stream]:
    """Yield a model's errors on each file of the Harvard family.

    Abrupt files (`abrupto` in the name) change at rows 10,000, 20,000 and 30,000, the others from
    9,500, 20,000 and 30,500 on, each over 1,000 rows.

    References
    ----------
    Lopez Lobo 2020, "Synthetic datasets for concept drift detection purposes", Harvard Dataverse
    (doi:10.7910/DVN/5OWRGB).
    """
    files = sorted([*folder.glob("*.csv"), *folder.glob("*.csv.gz")])
    if not files:
        raise FileNotFoundError(f"no .csv or .csv.gz file in {folder}")
    for file in files:
        table = load_csv(file)
        errors = errors_of(name, table[:, :-1], table[:, -1].astype(np.int64))
        is_abrupt = "abrupto" in file.name
        starts = (10_000, 20_000, 30_000) if is_abrupt else (9_500, 20_000, 30_500)
        width = 0 if is_abrupt else 1_000
        drifts = [(s - TRAINING_ROWS, s - TRAINING_ROWS + width) for s in starts]
        yield Stream.of(file.name, "abrupt" if is_abrupt else "gradual", errors, drifts)


@dataclass(frozen=True)
class Plot:
    """Rows and the four concepts that label them in turn, none the same as the one before it.

    Parameters
    ----------
    draw
        A number of rows to that many rows.
    concepts
        Rows to classes.
    noise
        Share of the labels that are flipped.
    """

    draw: Callable[[int], NDArray[Any]]
    concepts: tuple[Concept, ...]
    noise: float = 0.0


def concept(family: str, rng: np.random.Generator) -> Plot:
    """Draw a plot of a family; what it draws later comes from the same generator.

    References
    ----------
    `sea`: Street and Kim 2001 (doi:10.1145/502512.502568); `stagger`: Schlimmer and Granger 1986; `sine` and
    `mixed`: Gama et al. 2004 (doi:10.1007/978-3-540-28645-5_29); `rt`: random trees, as Domingos and Hulten
    2000 (doi:10.1145/347090.347107); `hyper`: Hulten et al. 2001 (doi:10.1145/502512.502529).
    """
    if family == "sea":
        limits = rng.permutation([8.0, 9.0, 7.0, 9.5])
        noise = float(rng.choice([0, 0.1, 0.2]))
        return Plot(
            lambda n: rng.random((n, 3)) * 10,
            tuple(lambda x, t=t: x[:, 0] + x[:, 1] <= t for t in limits),
            noise,
        )
    if family == "sine":
        both: list[Concept] = [
            lambda x: x[:, 1] <= np.sin(x[:, 0]),
            lambda x: x[:, 1] > np.sin(x[:, 0]),
            lambda x: x[:, 1] < _wave(x[:, 0]),
            lambda x: x[:, 1] >= _wave(x[:, 0]),
        ]
        return Plot(lambda n: rng.random((n, 2)), tuple(both[i] for i in rng.permutation(4)))
    if family == "mixed":
        return Plot(
            lambda n: np.column_stack([rng.integers(0, 2, (n, 2)), rng.random((n, 2))]),
            (_mixed, lambda x: ~_mixed(x)) * 2,
        )
    if family == "stagger":
        three: list[Concept] = [
            lambda x: (x[:, 0] == 0) & (x[:, 1] == 0),
            lambda x: (x[:, 1] == 1) | (x[:, 2] == 1),
            lambda x: x[:, 0] > 0,
        ]
        order = rng.permutation(3)
        return Plot(
            lambda n: rng.integers(0, 3, (n, 3)) * 1.0,
            tuple(three[i] for i in (*order, order[0])),
        )
    if family == "rt":
        from sklearn.tree import DecisionTreeClassifier

        trees = [
            DecisionTreeClassifier(max_leaf_nodes=16, random_state=0).fit(
                rng.random((60, 2)), rng.integers(0, 2, 60)
            )
            for _ in range(4)
        ]
        return Plot(
            lambda n: rng.random((n, 2)), tuple(lambda x, t=t: t.predict(x) == 1 for t in trees)
        )
    if family == "hyper":
        weights = [rng.dirichlet(np.ones(5)) for _ in range(4)]
        return Plot(
            lambda n: rng.random((n, 5)), tuple(lambda x, w=w: x @ w > 0.5 for w in weights), 0.05
        )
    raise ValueError(f"no family {family!r}; known: {', '.join(FAMILIES)}")


def _wave(x: Floats) -> Floats:
    return 0.5 + 0.3 * np.sin(3 * np.pi * x)


def _mixed(x: Floats) -> NDArray[np.bool_]:
    return np.asarray((x[:, 0] + x[:, 1] + (x[:, 3] < _wave(x[:, 2]))) >= 2)


def fresh(
    seeds: Iterable[int],
    name: str,
    families: Sequence[str] = FAMILIES,
    *,
    harvard_shape: bool = False,
) -> Iterator[Stream]:
    """Yield a model's errors on streams of three drifts whose every row is drawn once.

    Parameters
    ----------
    seeds
        One abrupt and one gradual stream of each family for each.
    name
        The model.
    families
        Which.
    harvard_shape
        Concepts of 10,000 rows and transitions of 1,000, as the files have; else the first of 10,000, the
        others of 5,000 to 12,000, and transitions of 500, 1,000 or 2,000.
    """
    for family in families:
        for seed in seeds:
            for mode in ("abrupt", "gradual"):
                found = _fresh(family, seed, mode, name, harvard_shape=harvard_shape)
                if found is not None:
                    yield found


def _fresh(family: str, seed: int, mode: str, name: str, *, harvard_shape: bool) -> Stream | None:
    """Return one stream; None where the training rows are all of one class."""
    rng = np.random.default_rng([seed, FAMILIES.index(family), mode == "gradual"])
    plot = concept(family, rng)
    lengths = np.array([10_000, *rng.integers(5_000, 12_001, 3)])
    widths = np.zeros(3, np.int64) if mode == "abrupt" else rng.choice([500, 1_000, 2_000], 3)
    if harvard_shape:
        lengths[:] = 10_000
        widths[widths > 0] = 1_000
    rows = np.arange(lengths.sum())
    centres = np.cumsum(lengths)[:3]
    x = plot.draw(len(rows))
    which = np.zeros(len(rows), np.int64)
    for i, (centre, width) in enumerate(zip(centres, widths, strict=True)):
        # Which concept a row is of is drawn: MOA's ConceptDriftStream, a sigmoid of slope 4 / width.
        share = (rows >= centre) * 1.0
        if width:
            share = 1 / (1 + np.exp(-np.clip(4 * (rows - centre) / width, -50, 50)))
        which = np.where(rng.random(len(rows)) < share, i + 1, which)
    y = np.array([of(x) for of in plot.concepts])[which, rows].astype(np.int64)
    y ^= rng.random(len(rows)) < plot.noise
    if len(np.unique(y[:TRAINING_ROWS])) < 2:
        return None
    drifts = [
        (int(c - w // 2) - TRAINING_ROWS, int(c + w // 2) - TRAINING_ROWS)
        for c, w in zip(centres, widths, strict=True)
    ]
    return Stream.of(f"{family}{seed}", mode, errors_of(name, x, y), drifts)
