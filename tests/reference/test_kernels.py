"""Compiled parsers against the standard library: the same bits, or the slow path is asked."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.consumers.float_kernel import POWERS_OF_FIVE, float_bits
from tocsin.consumers.json_kernel import Cells, Workspace, read_rows
from tocsin.consumers.shapes import ShapeBook
from tocsin.consumers.time_kernel import NO_TIME, times_of
from tocsin.core.cloudevents import to_nanoseconds
from tocsin.core.columns import FLOAT, INTEGER
from tocsin.core.events import Prediction
from tocsin.core.wire import Kind

UNDECIDED = 2**64 - 1
CHECKED = settings(derandomize=True, deadline=None, database=None, max_examples=1000)


def bits(value: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])


def spans(texts: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    end = np.cumsum([len(text) for text in texts])
    return np.frombuffer(b"".join(texts), np.uint8), end - [len(text) for text in texts], end


# ---- numbers ----


def hard(seed: int, count: int) -> Iterator[str]:
    """Decimal text near what is hard: shortest forms, halfway points, both ends, many digits."""
    rng = np.random.default_rng(seed)
    for word in rng.integers(0, 2**63, count, dtype=np.uint64).tolist():
        value = struct.unpack("<d", struct.pack("<Q", word))[0]
        if np.isfinite(value):
            yield repr(value)
            yield f"{value:.18e}"
    for _ in range(count):
        digits = int(rng.integers(1, 20))
        mantissa = int(rng.integers(0, 10**18)) % 10**digits
        yield f"{mantissa}e{rng.integers(-345, 312)}"
        yield f"{mantissa}e{rng.integers(-25, 25)}"
        point = int(rng.integers(1, digits + 1))
        text = str(mantissa).zfill(digits + 1)
        yield f"{text[:-point].lstrip('0') or '0'}.{text[-point:]}"
    for scale, value in zip(rng.integers(0, 9, count), rng.random(count), strict=True):
        yield repr(value / 10.0**scale)  # zeros in front, which are no digits
        yield f"0.{'0' * scale}{int(value * 1e18)}"
    for _ in range(count):  # halfway between two floats, and one digit to each side
        value = float(rng.integers(2**52, 2**53)) * 2.0 ** int(rng.integers(-40, 12))
        middle = Fraction(value) + Fraction(np.spacing(value)) / 2
        scale = int(rng.integers(0, 12))
        scaled = middle * 10**scale
        for near in (int(scaled) - 1, int(scaled), int(scaled) + 1):
            yield f"{near}e-{scale}"
    yield from [
        "0",
        "0.0",
        "0e5",
        "0e-400",
        "1e-400",
        "5e-324",
        "2.4703282292062327e-324",
        "1e23",
        "8.5e22",
    ]
    yield from [
        "9007199254740993",
        "9007199254740992.5",
        "1.7976931348623157e308",
        "1.7976931348623159e308",
    ]
    yield from [
        "2.2250738585072014e-308",
        "2.225073858507201e-308",
        "9999999999999999999",
        "1e22",
        "1e-22",
    ]


def read_numbers(texts: list[str]) -> tuple[Cells, np.ndarray]:
    """The cells that the compiled reader makes of events with one number each."""
    event = Prediction(prediction_id="p", prediction=1.0)
    book = ShapeBook()
    assert book.learn(b'{"prediction_id":"p","prediction":1.0}', Kind.BARE, event)
    lines = [b'{"prediction_id":"p","prediction":' + text.encode() + b"}" for text in texts]
    data, start, end = spans(lines)
    kinds, keys = np.zeros(len(lines), np.uint8), np.zeros(len(lines), np.int64)
    cells = read_rows(data, start, end, kinds, keys, book.hints, book.packed, Workspace())
    return cells, cells.shape >= 0


@pytest.mark.parametrize("sign", ["", "-"])
def test_numbers_are_read_to_the_bits_of_float(sign: str) -> None:
    texts = [sign + text for text in hard(0, 20_000)]
    cells, is_read = read_numbers(texts)
    found = cells.numbers[cells.first[is_read] + 1]
    expected = np.array([float(text) for text, read in zip(texts, is_read, strict=True) if read])
    wrong = np.flatnonzero(found.view(np.uint64) != expected.view(np.uint64))
    assert [texts[i] for i in np.flatnonzero(is_read)[wrong[:5]]] == []
    assert is_read.mean() > 0.7  # many here are out of range or have more than 19 digits
    # What overflows, or is too long for 64 bits, is never answered.
    assert np.isfinite(found).all()


def test_short_numbers_are_read_alike_wherever_the_buffer_ends() -> None:
    """Eight bytes at once: of the last event there are fewer."""
    rng = np.random.default_rng(2)
    texts = [f"{x:.{n}f}" for n in range(8) for x in rng.normal(0, 30, 60).tolist()]
    texts += [str(x) for x in rng.integers(-(10**9), 10**9, 60).tolist()]
    texts += [
        "-0",
        "0",
        "-0.0",
        "5",
        "12345678",
        "1234567",
        "123.4567",
        "1e5",
        "1.5e3",
        "00",
        "1.",
        "-",
    ]
    together, is_read = read_numbers(texts)
    for text, first, read in zip(texts, together.first.tolist(), is_read.tolist(), strict=True):
        alone, is_same = read_numbers([text])
        assert is_same.tolist() == [read], text
        if read:
            assert bits(alone.numbers[1]) == bits(float(text)) == bits(together.numbers[first + 1])
            assert (
                alone.tags[1]
                == together.tags[first + 1]
                == (FLOAT if set(text) & {*".e"} else INTEGER)
            )
    assert [text for text, read in zip(texts, is_read, strict=True) if not read] == [
        "00",
        "1.",
        "-",
    ]


@pytest.mark.parametrize(
    "text", [repr, lambda x: f"{x:.12f}", lambda x: repr(float(np.float32(x)))]
)
def test_what_models_publish_is_read_by_the_fast_path(text: Callable[[float], str]) -> None:
    """Softmax scores of ten classes, most of them small, and inputs of all sizes."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 4, (3000, 10))
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    values = [*scores.ravel(), *rng.normal(size=3000), *rng.lognormal(0, 3, 3000)]
    _, is_read = read_numbers([text(float(value)) for value in values])
    assert is_read.mean() > 0.9999


@CHECKED
@given(st.integers(0, 2**64 - 1), st.integers(-400, 400))
def test_float_bits_are_those_of_float_or_undecided(mantissa: int, exponent: int) -> None:
    found = int(float_bits(np.uint64(mantissa), exponent, POWERS_OF_FIVE))
    assert found in (UNDECIDED, bits(float(f"{mantissa}e{exponent}")))


@CHECKED
@given(st.floats(min_value=1e-300, max_value=1e300))
def test_the_shortest_text_of_a_float_is_decided_unless_it_lies_between_floats_exactly(
    value: float,
) -> None:
    _, digits, exponent = Decimal(repr(value)).as_tuple()
    mantissa = int("".join(map(str, digits)))
    found = int(float_bits(np.uint64(mantissa), int(exponent), POWERS_OF_FIVE))
    if found == UNDECIDED:
        away = abs(Fraction(repr(value)) - Fraction(value))
        assert away / Fraction(np.spacing(value)) in (Fraction(1, 2), Fraction(1, 4))
    else:
        assert found == bits(value)


# ---- times ----


def parse(texts: list[str]) -> list[int]:
    data, start, end = spans([text.encode() for text in texts])
    return times_of(data, start, end).tolist()


MOMENTS = st.datetimes(datetime(1971, 1, 2), datetime(2261, 12, 30))  # noqa: DTZ001
ZONES = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda m: timezone(timedelta(minutes=m)))


@CHECKED
@given(MOMENTS, ZONES, st.integers(1, 6))
def test_times_are_those_of_the_standard_library(
    moment: datetime, zone: timezone, digits: int
) -> None:
    unit = 10 ** (6 - digits)
    time = moment.replace(microsecond=moment.microsecond // unit * unit, tzinfo=zone)
    text = time.isoformat(timespec="microseconds")
    text = text[: 20 + digits] + text[26:]
    assert datetime.fromisoformat(text) == time
    whole = time.replace(microsecond=0)
    texts = [
        text,
        whole.isoformat(timespec="seconds"),
        whole.astimezone(UTC).isoformat().replace("+00:00", "Z"),
    ]
    assert parse(texts) == [to_nanoseconds(t) for t in (time, whole, whole)]


def test_every_day_of_290_years_is_where_the_calendar_has_it() -> None:
    days = [datetime(1971, 1, 1, tzinfo=UTC) + timedelta(days=d) for d in range(291 * 365 + 70)]
    found = parse([day.strftime("%Y-%m-%dT00:00:00Z") for day in days])
    assert found == [to_nanoseconds(day) for day in days]
    assert days[-1].year == 2261


TIMES = [
    "2026-01-01T00:00:00Z", "2024-02-29T23:59:59.5Z", "2026-02-29T00:00:00Z", "2026-04-31T00:00:00Z",
    "2100-02-29T00:00:00Z", "2000-02-29T00:00:00Z", "2026-00-01T00:00:00Z", "2026-13-01T00:00:00Z",
    "2026-01-00T00:00:00Z", "2026-01-32T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T23:60:00Z",
    "2026-01-01T23:59:60Z", "2026-01-01T00:00:00", "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00.Z0",
    "2026-01-01T00:00:00.1234567Z", "2026-01-01T00:00:00.123456789+01:00", "2026-01-01t00:00:00z",
    "2026-01-01 00:00:00Z", "2026-01-01T00:00:00+24:00", "2026-01-01T00:00:00+23:59", "2026-01-01T00:00:00+00:60",
    "2026-01-01T00:00:00-00:00", "2026-01-01T00:00:00+0100", "2026-01-01T00:00:00+01", "2026-01-01T00:00:00ZZ",
    "2026-01-01T00:00:00Z ", " 2026-01-01T00:00:00Z", "2026-1-1T00:00:00Z", "20260101T000000Z", "\uff12026-01-01T00:00:00Z",
    "+026-01-01T00:00:00Z", "2026-01-01T00:00:0/Z", "2026-01-01T00:00:0:Z", "1970-12-31T23:59:59Z",
    "2262-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "", "Z", "now", "2026-01-01T00:00:00.5",
    "2026-01-01T00:00:00.123456", "2026-01-01T00:00:00.5+01:00", "2026-01-01T00:00:00.123456+01:00x",
]  # fmt: skip


def test_a_time_that_is_read_is_one_that_msgspec_reads_alike() -> None:
    """What the kernel leaves alone, msgspec judges; the two may never differ on what both read."""
    mutants = [
        text[:at] + new + text[at + 1 :]
        for text in ("2026-01-01T00:00:00Z", "2024-02-29T23:59:59.25-05:30")
        for at in range(len(text))
        for new in ("", "0", "9", "/", ":", "-", "+", ".", "T", "Z", " ", "x")
    ]
    texts = [*TIMES, *mutants]
    found = dict(zip(texts, parse(texts), strict=True))
    for text, time in found.items():
        if time != NO_TIME:
            assert time == to_nanoseconds(msgspec.convert(text, datetime)), text
    assert sum(time != NO_TIME for time in found.values()) > 30
    assert found["2026-01-01T00:00:00-00:00"] != NO_TIME
    assert found["2026-02-29T00:00:00Z"] == NO_TIME


def test_a_missing_time_is_no_time() -> None:
    nowhere = np.array([-1], np.int64)
    assert times_of(np.zeros(0, np.uint8), nowhere, nowhere).tolist() == [NO_TIME]
