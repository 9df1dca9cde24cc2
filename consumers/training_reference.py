"""What streams were like in training: the file of it, which `tocsin reference` writes and workers read."""

from __future__ import annotations

import tokenize
import zlib
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from zipfile import BadZipFile

import msgspec
import numpy as np

from ..core.columns import Floats
from ..core.errors import ConfigError, StateError
from ..detectors.base import usable
from ..detectors.categories import KNOWN, counted_categories
from ..detectors.reference import order_statistics
from .model_settings import DriftSettings

FEWEST: Final = 1000
"""Values that a stream needs: what fewer say of a distribution is off by 5 % and more."""
_SHARE: Final = 0.1  # of the rows, that a stream has a value in; a rare one would weaken what is said of all others
_POPULATION, _MISSING, _NAMES = "population", "missing", "names"
_COUNTED: Final = "counted"  # in files that have counts of all categories
_COUNTS: Final = "counts of "
_PART: Final = "part "
_NAMES_OF = msgspec.json.Decoder(dict[str, dict[float, str]])
_T = TypeVar("_T")
_forget: list[Callable[[], None]] = []

_UNREADABLE: Final = (
    OSError, KeyError, ValueError, TypeError, OverflowError, NotImplementedError, BadZipFile, zlib.error,
    tokenize.TokenError, AttributeError, MemoryError,
)  # fmt: skip
"""What numpy and the standard library raise over a damaged file, or one that says it is larger than the memory."""


def remembered(read: Callable[[Path], _T]) -> Callable[[Path], _T]:
    """Make a reader of a reference file, or of a part of it, read each file once, until one is written."""
    found = cache(read)
    _forget.append(found.cache_clear)
    return found


class Trained(NamedTuple):
    """What streams were like in training.

    Parameters
    ----------
    samples
        Stream to its (n,) values in their order, 2,048 at most.
    population
        How many values each was drawn from, at least.
    missing
        Stream to the share of rows in which it had no value.
    categories
        Stream of categories to their counts, see `detectors.categories.counted_categories`.
    names
        Stream of categories to the text of their numbers.
    knows_kinds
        Whether all streams of categories have counts; not so in files of the first releases.
    parts
        What else is known of training, by its name, as whoever wrote it reads it.
    checksum
        Of all that but the parts.
    """

    samples: dict[str, Floats]
    population: int
    missing: dict[str, float]
    categories: dict[str, Floats]
    names: dict[str, dict[float, str]]
    knows_kinds: bool
    parts: dict[str, bytes]
    checksum: int

    @property
    def is_regression(self) -> bool | None:
        """Whether predictions or labels were numbers in training; None where that is not known."""
        kinds = {
            name in self.categories for name in ("prediction", "label") if name in self.samples
        }
        return not kinds.pop() if self.knows_kinds and len(kinds) == 1 else None

    def of(self, names: Collection[str], *, others: bool = False) -> dict[str, Floats]:
        """Return the samples of these streams, or of all others."""
        return {name: s for name, s in self.samples.items() if (name in names) != others}


@contextmanager
def reading_part(file: Path, what: str) -> Generator[None]:
    """Say of what cannot be read in a file's part, whatever the reason, which file it is and of what it tells.

    Raises
    ------
    ConfigError
        In place of what the block raises.
    """
    try:
        yield
    except (msgspec.MsgspecError, StateError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"drift.reference {file}: what it says of {what} cannot be read ({error}): write it anew"
        ) from None


def write(
    file: Path,
    values: Mapping[str, Floats],
    rows: int,
    categories: Collection[str] = (),
    names: Mapping[str, Mapping[float, str]] | None = None,
    parts: Mapping[str, bytes] | None = None,
) -> dict[str, int]:
    """Write what streams were like; their values are in their own order, so that no row can be told.

    Parameters
    ----------
    file
        Where to; its name ends in .npz.
    values
        Stream to its (n,) usable values.
    rows
        How many rows they are of.
    categories
        Which of them are of categories.
    names
        Stream of categories to the text of their numbers.
    parts
        What else is to be known of training, by its name.

    Returns
    -------
    dict
        Streams that are left out, having too few values: fewer than 1,000, or than one in ten rows.

    Raises
    ------
    ConfigError
        No stream has enough values, or the file cannot be written.
    """
    wanted = max(FEWEST, _SHARE * rows)
    kept = {name: v for name, v in values.items() if len(v) >= wanted}
    if not kept:
        raise ConfigError(
            f"a reference needs {FEWEST} values of some stream or more; the {rows} rows have fewer"
        )
    arrays: dict[str, Any] = {name: order_statistics(v) for name, v in kept.items()}
    arrays |= {
        _COUNTS + name: counted_categories(kept[name]) for name in categories if name in kept
    }
    arrays[_COUNTED] = np.array(True)
    arrays[_POPULATION] = np.array(min(map(len, kept.values())))
    arrays[_MISSING] = np.array([1 - len(kept[name]) / rows for name in sorted(kept)])
    arrays[_NAMES] = np.frombuffer(msgspec.json.encode(names or {}), np.uint8)
    arrays |= {_PART + name: np.frombuffer(part, np.uint8) for name, part in (parts or {}).items()}
    half = file.with_name(f"{file.name}.part")
    try:
        with half.open("wb") as out:
            np.savez_compressed(out, **arrays)
        half.replace(file)  # a worker that starts meanwhile reads one or the other, whole
    except OSError as error:
        with suppress(OSError):
            half.unlink()
        raise ConfigError(f"{file}: {error.strerror}") from None
    for forget in _forget:
        forget()
    return {name: len(v) for name, v in values.items() if name not in kept and len(v)}


@remembered
def read(file: Path) -> Trained:
    """Read what `write` wrote.

    Raises
    ------
    ConfigError
        The file cannot be read or is not such a file.
    """
    try:
        with file.open("rb") as raw, np.load(raw, allow_pickle=False) as found:
            arrays = {name: found[name] for name in sorted(found.files)}
        population, shares = int(arrays.pop(_POPULATION)), arrays.pop(_MISSING).tolist()
        knows_kinds = bool(arrays.pop(_COUNTED, False))
        encoded = arrays.pop(_NAMES).tobytes()
        names = _NAMES_OF.decode(encoded)
        parts = {
            name.removeprefix(_PART): arrays.pop(name).astype(np.uint8, casting="no").tobytes()
            for name in sorted(arrays)
            if name.startswith(_PART)
        }
        floats = {name: np.asarray(values, np.float64) for name, values in arrays.items()}
        samples = {name: values for name, values in floats.items() if not name.startswith(_COUNTS)}
        categories = {name: floats[_COUNTS + name] for name in samples if _COUNTS + name in floats}
        missing = dict(zip(samples, map(float, shares), strict=True))
    except _UNREADABLE as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else "it is not one"
        raise ConfigError(
            f"drift.reference {file}: expected a file that `tocsin reference` wrote: {what}"
        ) from None
    if population < FEWEST:
        raise ConfigError(
            f"drift.reference {file}: its streams must be of {FEWEST} values or more, found {population}"
        )
    for name, values in samples.items():
        if values.ndim != 1 or len(values) < FEWEST or not usable(values).all():
            raise ConfigError(
                f"drift.reference {file}: {name} must be {FEWEST} finite values or more, found shape "
                f"{values.shape}"
            )
        if not 0 <= missing[name] < 1:
            raise ConfigError(
                f"drift.reference {file}: the share of rows without {name} must be 0 or more and below 1, "
                f"found {missing[name]}"
            )
    for name, counted in categories.items():
        if not is_counted(counted):
            raise ConfigError(
                f"drift.reference {file}: the counts of {name} must be {KNOWN} sorted codes and how often each "
                f"came, found shape {counted.shape} or other values"
            )
    checksum = zlib.crc32(encoded + repr(missing).encode(), population)
    for name, values in floats.items():
        checksum = zlib.crc32(values.tobytes(), zlib.crc32(name.encode(), checksum & 0xFFFFFFFF))
    return Trained(samples, population, missing, categories, names, knows_kinds, parts, checksum)


def is_counted(counted: Floats) -> bool:
    """Whether an array is one that `counted_categories` may have returned."""
    if counted.shape != (2, KNOWN + 1):
        return False
    codes, counts = counted
    known = int(usable(codes).sum())
    is_sorted = known <= KNOWN and bool((np.diff(codes[:known]) > 0).all())
    is_rest_empty = bool(np.isnan(codes[known:]).all()) and not counts[known:KNOWN].any()
    are_counts = bool((usable(counts) & (counts >= 0)).all()) and counts.sum() >= 1
    return is_sorted and is_rest_empty and are_counts


def check(settings: Iterable[DriftSettings]) -> None:
    """Read every reference that is named; raises ConfigError as `read` does."""
    for of in settings:
        if of.reference is not None:
            read(of.reference)
