"""Decoding: any bytes become rows or refusals, and every faster path gives what one event at a time gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.consumers import decode as decode_module
from tocsin.consumers.decode import Decoder
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.core import cloudevents as ce
from tocsin.core import wire
from tocsin.core.batch import EventBatch, LabelBatch
from tocsin.core.cloudevents import to_nanoseconds
from tocsin.core.errors import EventError
from tocsin.core.events import ENVIRONMENTS, Event, Label, Prediction
from tocsin.core.json_scan import scalars
from tocsin.core.limits import Limits
from tocsin.core.wire import Kind

PARTITION = Partition("t", 0)
BASE = 1_767_225_600_000_000_000  # 2026-01-01
LIMITS = Limits(json_bytes=4000, features=6, batch_rows=50)
CHECKED = settings(derandomize=True, deadline=None, database=None, max_examples=250)

Found = tuple[dict[str, list[Any]], dict[str, list[Any]], list[Any]]

# ---- what a log should decode to: each record by its headers, each event by the reference ----


def expected(log: Sequence[PlainRecord]) -> Found:
    predictions: dict[str, list[Any]] = {}
    labels: dict[str, list[Any]] = {}
    refused: list[Any] = []
    for index, record in enumerate(log):
        try:
            kind, time = Records.of(PARTITION, [record]).kind(0)
        except EventError as error:
            refused.append((index, -1, record.value, repr(error)))
            continue
        base = max(record.timestamp, 0) if time < 0 else time
        value = record.value or b""
        texts = wire.lines(value) if kind == Kind.LINES else [value]
        for row, text in enumerate(texts):
            of = Kind.BARE if kind == Kind.LINES else kind
            try:
                event = wire.decode(text, of, LIMITS)
                at = event_time(event, base)
                decode_module._refuse_future(at, record.timestamp, LIMITS)
            except EventError as error:
                place = row if kind == Kind.LINES else -1
                refused.append((index, place, text, repr(error)))
                continue
            into = predictions if isinstance(event, Prediction) else labels
            into.setdefault(event.model, []).append(as_row((record.offset, row, at), event))
    return predictions, labels, sorted(refused, key=repr)


def event_time(event: Event, base: int) -> int:
    own = event.time if isinstance(event, Prediction) else event.observed_at
    return base if own is None else to_nanoseconds(own)


def as_row(place: tuple[int, int, int], event: Event) -> tuple[Any, ...]:
    if isinstance(event, Label):
        return (*place, event.prediction_id, one(event.label), event.revision)
    return (
        *place, event.prediction_id, event.environment, event.version, event.client,
        {name: one(v) for name, v in event.features.items() if v is not None},
        one(event.prediction), one(event.label),
        {name: float(v) for name, v in (event.scores or {}).items()},
        list(event.logits or ()), list(event.embedding or ()),
        event.segments or {}, event.sample_rate,
    )  # fmt: skip


def one(value: Any) -> Any:
    """Columns hold numbers as floats and do not know the sign of an integer's zero."""
    return value if value is None or isinstance(value, str) else float(value)


# ---- what a decoder made of it ----


def found(decoder: Decoder, log: Sequence[PlainRecord], cuts: Sequence[int] = ()) -> Found:
    predictions: dict[str, list[Any]] = {}
    labels: dict[str, list[Any]] = {}
    refused: list[Any] = []
    for begin, end in zip([0, *cuts], [*cuts, len(log)], strict=True):
        decoded = decoder.decode(Records.of(PARTITION, log[begin:end]))
        for batch in decoded.predictions:
            predictions.setdefault(batch.model, []).extend(rows_of(batch))
        for batch in decoded.labels:
            labels.setdefault(batch.model, []).extend(label_rows_of(batch))
        refused += [(r.record + begin, r.row, r.raw, repr(r.error)) for r in decoded.refused]
    return predictions, labels, sorted(refused, key=repr)


def rows_of(batch: EventBatch) -> list[tuple[Any, ...]]:
    plain = [c.tolist() for c in (batch.offsets, batch.rows, batch.times)]
    features, scores = batch.features.tolist(), batch.scores.tolist()
    prediction, label = batch.prediction.to_list(), batch.label.to_list()
    rows = []
    for i in range(len(batch)):
        of = dict(zip(batch.feature_names, features[i], strict=True))
        of = {name: value for name, value in of.items() if value == value}  # NaN is missing
        texts = {name: column[i] for name, column in batch.texts.items()}
        of |= {name: text for name, text in texts.items() if text is not None}
        scored = dict(zip(batch.score_names, scores[i], strict=True))
        segments = {name: column[i] for name, column in batch.segments.items()}
        rows.append(
            (
                *(column[i] for column in plain), batch.prediction_id[i],
                ENVIRONMENTS[batch.environment[i]], batch.version[i], batch.client[i], of,
                one(prediction[i]), one(label[i]),
                {name: value for name, value in scored.items() if value == value},
                [] if batch.logits is None else batch.logits[i].tolist(),
                [] if batch.embedding is None else batch.embedding[i].tolist(),
                {name: text for name, text in segments.items() if text is not None},
                batch.sample_rate[i],
            )
        )  # fmt: skip
    return rows


def label_rows_of(batch: LabelBatch) -> list[tuple[Any, ...]]:
    values = [one(value) for value in batch.label.to_list()]
    columns = [batch.offsets, batch.rows, batch.times]
    ids, revisions = batch.prediction_id.to_list(), batch.revision.tolist()
    return list(zip(*(c.tolist() for c in columns), ids, values, revisions, strict=True))


# ---- logs: a few shapes, each filled by several events, so that the compiled reader gets to read ----

# Good ones are read by the compiled reader; odd ones are left to the reference, or refused by it.
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_characters='"\\', min_codepoint=32), max_size=5
).map('"{}"'.format)
ODD_TEXTS = st.builds(json.dumps, st.text(st.characters(codec="utf-8")), ensure_ascii=st.booleans())
NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(2**63), 2**64).map(str),
    st.sampled_from(["0", "-0", "-0.0", "1E5", "1.50", "1e-400", "123456789012345678.5e-9"]),
)
SCALARS = st.one_of(NUMBERS, TEXTS, st.sampled_from(["true", "false", "null"]))
ODD_SCALARS = [
    "NaN", "-Infinity", "1e999", "9" * 400, "01", "1.", "+1", "tru", "[]", "{}", "[1]", "5e-324",
    "1" * 25, "0." + "3" * 30, '"\\ud800"',
]  # fmt: skip
ODD = ODD_TEXTS | st.sampled_from(ODD_SCALARS)
TIMES = st.sampled_from(
    [
        '"2026-01-01T00:00:00Z"', '"2025-12-31T23:59:59.123456+05:30"', '"2025-02-28T00:00:00.5-00:00"',
        '"2025-12-31T23:59:59.1234567Z"', '"2025-12-31 23:59:59z"', "null", '"2000-02-29T00:00:00Z"',
    ]
)  # fmt: skip
NO_TIMES = st.sampled_from(
    [
        '"2025-02-29T00:00:00Z"', '"2025-12-31T23:59:59"', '"1969-12-31T00:00:00Z"', "5", '""',
        '"2261-12-31T00:00:00Z"', '"2262-01-01T00:00:00Z"',
    ]
)  # fmt: skip
LONG = ODD_TEXTS | st.sampled_from(
    ['""', '"' + "x" * 257 + '"', '"' + "é" * 150 + '"', "null", "7"]
)

# What a field may hold, and what else is put there now and then.
Pool = tuple[st.SearchStrategy[str], st.SearchStrategy[str]]
IDS: Pool = (TEXTS.filter(lambda text: text != '""'), LONG)
CLASSES: Pool = (SCALARS, ODD)
VECTOR: Pool = (NUMBERS, ODD | SCALARS)
MODELS: Pool = (
    st.sampled_from(['"a"', '"b"', '"modèle"']),
    st.sampled_from(['"x y"', "null", '""']),
)
MAPS: dict[str, Pool] = {"features": CLASSES, "scores": VECTOR, "segments": (TEXTS, SCALARS)}
PLAIN: dict[str, Pool] = {
    "model": MODELS, "version": (TEXTS | st.just("null"), LONG), "time": (TIMES, NO_TIMES),
    "client": (TEXTS | st.just("null"), LONG), "prediction": CLASSES, "label": CLASSES,
    "environment": (st.sampled_from([f'"{name}"' for name in ENVIRONMENTS]), TEXTS),
    "sample_rate": (st.sampled_from(["1", "0.5", "1e-9"]), st.sampled_from(["0", "2", "null"])),
    "logits": (st.just("null"), ODD), "scores": (st.just("null"), ODD),
    "input": (
        st.just("null"),
        st.sampled_from([f'{{"dtype":"int8","shape":[{n}],"data":"AAAA"}}' for n in (3, 4)]),
    ),
}  # fmt: skip
OF_LABEL: dict[str, Pool] = {
    "model": MODELS, "label": CLASSES, "observed_at": (TIMES, NO_TIMES),
    "revision": (st.integers(0, 2**31 - 1).map(str), st.sampled_from(["-1", "1.0", str(2**31)])),
}  # fmt: skip


@st.composite
def shapes(draw: st.DrawFn) -> tuple[list[str], list[Pool]]:
    """An event with its scalars cut out: literals, and what may stand between them."""
    blank = draw(st.sampled_from(["", "", " ", "\t "]))
    is_label = draw(st.integers(0, 3)) == 3
    fields: list[tuple[str, Any]] = [("prediction_id", IDS)]
    names = draw(st.lists(st.sampled_from(list(OF_LABEL if is_label else PLAIN)), unique=True))
    if is_label:
        fields += [(name, OF_LABEL[name]) for name in {**dict.fromkeys(names), "label": None}]
        fields.append(("type", (st.just('"label"'),) * 2))
    else:
        fields += [(name, PLAIN[name]) for name in names]
        if draw(st.booleans()):
            fields.append(("type", (st.just('"prediction"'),) * 2))
        for name in draw(st.sets(st.sampled_from(list(MAPS)))):
            entries = st.lists(st.sampled_from(["x", "y", "z", "ü\\", "type", ""]), max_size=4)
            fields.append((name, dict.fromkeys(draw(entries), MAPS[name])))
        for name in draw(st.sets(st.sampled_from(["logits", "embedding"]))):
            fields.append((name, [VECTOR] * draw(st.integers(0, 3))))
    if draw(st.integers(0, 20)) == 20:
        fields.append(draw(st.sampled_from(fields)))  # a field twice
    text, pools = [], []
    for name, inner in draw(st.permutations(fields)):
        if isinstance(inner, dict):
            inside = (
                "{"
                + ",".join(f"{json.dumps(entry, ensure_ascii=False)}:\0" for entry in inner)
                + "}"
            )
            pools += inner.values()
        elif isinstance(inner, list):
            inside = "[" + ",".join("\0" for _ in inner) + "]"
            pools += inner
        else:
            inside = "\0"
            pools.append(inner)
        text.append(f'"{name}":{blank}{inside}')
    return ("{" + f",{blank}".join(text) + blank + "}").split("\0"), pools


@st.composite
def events(draw: st.DrawFn) -> list[bytes]:
    """Events of a few shapes, mixed; now and then a value that must be refused, or judged slowly."""
    random = Random(draw(st.integers(0, 2**32)))
    filled = []
    for literals, pools in draw(st.lists(shapes(), min_size=1, max_size=3)):
        good = [draw(st.lists(pool, min_size=1, max_size=4)) for pool, _ in pools]
        odd = draw(st.integers(0, len(pools)))
        for _ in range(draw(st.integers(1, 12))):
            values = [random.choice(choice) for choice in good]
            if odd < len(pools) and random.random() < 0.3:
                values[odd] = draw(pools[odd][1])
            joined = "".join(part for pair in zip(literals, values, strict=False) for part in pair)
            filled.append((joined + literals[-1]).encode())
    random.shuffle(filled)
    return filled


GOOD_HEADERS = st.sampled_from(
    [
        [], [("content-type", ce.JSON.encode())], [("x", None)], [("ce_time", b"2026-01-01T00:30:00Z")],
        ce.headers(type=ce.PREDICTION, source="s", id="1", content_type=ce.JSON),
        ce.headers(type=ce.LABEL, source="s", id="1", content_type=ce.JSON),
    ]
)  # fmt: skip
BAD_HEADERS = st.sampled_from(
    [
        [("ce_time", b"9999-12-31T23:59:59Z")], [("ce_time", b"soon")], [("ce_type", b"x")],
        [("ce_type", ce.LABEL.encode())], [("content-type", b"text/plain")],
    ]
)  # fmt: skip
PACKED = st.sampled_from(
    [
        [("content-type", ce.LINES.encode())],
        ce.headers(type=ce.EVENTS, source="s", id="1", content_type=ce.LINES),
    ]
)


@st.composite
def logs(draw: st.DrawFn, texts: st.SearchStrategy[list[bytes]]) -> list[PlainRecord]:
    """Records with gaps between their offsets: single events, and packed ones with blank lines."""
    log, offset = [], draw(st.integers(0, 5))
    waiting = draw(texts)
    while waiting:
        key = draw(st.sampled_from([None, b"a", b"b", b"\xff"]))
        time = draw(st.sampled_from([BASE, BASE, BASE, -1]))
        if draw(st.booleans()):
            many = draw(st.integers(1, len(waiting)))
            glue = draw(st.sampled_from([b"\n", b"\r\n", b"\n \t\n\n"]))
            value, headers = (
                glue.join(waiting[:many]) + draw(st.sampled_from([b"", b"\n"])),
                draw(PACKED),
            )
        else:
            many, value = 1, waiting[0]
            headers = draw(BAD_HEADERS if draw(st.integers(0, 20)) == 20 else GOOD_HEADERS)
        log.append(PlainRecord(offset, time, key, value, headers))
        waiting = waiting[many:]
        offset += draw(st.integers(1, 3))
    return log


@st.composite
def cuts(draw: st.DrawFn, log: list[PlainRecord]) -> list[int]:
    return sorted(draw(st.lists(st.integers(0, len(log)), max_size=4)))


@CHECKED
@given(logs(events()), st.data())
def test_both_paths_and_any_cut_give_what_one_event_at_a_time_gives(log, data) -> None:
    want = expected(log)
    assert found(Decoder(LIMITS, compiled=False), log) == want
    decoder = Decoder(LIMITS)
    assert found(decoder, log) == want  # while it learns the shapes
    assert found(decoder, log) == want  # with the shapes learned
    assert found(decoder, log, data.draw(cuts(log))) == want
    assert found(Decoder(LIMITS), log, range(1, len(log))) == want


# ---- bytes that are no events, or nearly ----

WHOLE = (
    b'{"prediction_id":"p","model":"a","time":"2026-01-01T00:00:00Z","features":{"x":1.5,"y":"t",'
    b'"z":null},"scores":{"0":0.25},"logits":[1,2e3],"segments":{"s":"\xc3\xa9"},"label":true}'
)
LABEL = (
    b'{"prediction_id":"p","label":"1","type":"label","model":"a","revision":1,'
    b'"observed_at":"2026-01-01T00:00:00Z"}'
)
TOKENS = st.sampled_from(
    [
        b"NaN", b"-Infinity", b"1e999", b"9" * 500, b"\\ud800", b"\\u0041", b"\xed\xa0\x80", b"\xff", b"\0",
        b"[" * 300, b"{" * 300, b'{"a":' * 300, b'"features":{},', b'"model":"b",', b'"scores":7,', b"[]",
        b"{}", b'"', b"\\", b"\n", b",", b":", b"null", b"-", b"0", b"\xef\xbb\xbf", b'"time":"z",', b'"x":[],',
    ]
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    text = bytearray(draw(st.sampled_from([WHOLE, LABEL])))
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(text)))
        end = draw(st.sampled_from([begin, begin + 1, begin + 4, len(text)]))
        text[begin:end] = draw(TOKENS | st.binary(max_size=3))
    return bytes(text)


@CHECKED
@given(logs(st.lists(mutated() | st.binary(max_size=40) | st.just(WHOLE), min_size=1, max_size=12)))
def test_broken_events_are_refused_alike_on_both_paths(log) -> None:
    want = expected(log)
    decoder = Decoder(LIMITS)
    found(decoder, [PlainRecord(k, BASE, b"a", text) for k, text in enumerate([WHOLE, LABEL])])
    assert found(decoder, log) == want
    assert found(Decoder(LIMITS, compiled=False), log) == want


# One scalar of a learned shape at a time is replaced by each of these.
REPLACED = [
    *ODD_SCALARS, "0", "-0", "-1", "1.0", "0.5", "1e0", "1E+2", "1e-99999", "1e1000", "true", "null", '""',
    '"x"', '"\t"', '"\n"', '"\x1f"', '"\x7f"', '"é"', '"\\u0041"', '"\\/"', '"x y"', '"shadow"', "-", "--1",
    "1e", "1.e1", ".5", "00", "0x1", "18446744073709551616", "9007199254740993", "2147483648", "nul",
    "truely", '"x', 'x"', "'x'", "1 ", " 1", "1,", "1}", '"' + "x" * 200 + '"', '"' + "x" * 201 + '"',
    '"' + "é" * 128 + '"', '"' + "é" * 129 + '"', '"2026-01-01T00:00:00+25:00"', '"2026-01-01T02:00:00Z"',
]  # fmt: skip
RAW = [b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\xe0\x80\x80"', b'"\xf4\x90\x80\x80"', b'"\xc3"',
       b'"\xf0\x9f\x98\x80"', b'"\xe2\x82"', b'"\0"']  # fmt: skip


@pytest.mark.parametrize("whole", [WHOLE, LABEL], ids=["prediction", "label"])
def test_an_odd_scalar_in_a_known_shape_is_judged_as_the_reference_does(whole: bytes) -> None:
    log = []
    for scalar in scalars(whole):
        for odd in [*(text.encode() for text in REPLACED), *RAW]:
            text = whole[: scalar.start] + odd + whole[scalar.end :]
            log.append(PlainRecord(len(log), BASE, b"a", text))
    decoder = Decoder(LIMITS)
    found(decoder, [PlainRecord(0, BASE, b"a", whole)])
    assert found(decoder, log) == expected(log)


def test_what_decodes_without_the_compiled_reader_is_only_what_it_has_not_seen(monkeypatch) -> None:
    calls: list[bytes | memoryview] = []
    plain = wire.decode
    monkeypatch.setattr(
        wire, "decode", lambda raw, *rest: (calls.append(raw), plain(raw, *rest))[1]
    )
    decoder = Decoder()
    text = '{{"prediction_id":"{0}","features":{{"x":{0}.25,"y":"é{0}"}},"scores":{{"0":1e-{0}}}}}'
    log = [PlainRecord(i, BASE, b"a", text.format(i).encode()) for i in range(1, 200)]
    rows = found(decoder, log, range(5, 199, 5))[0]["default"]
    assert [row[3] for row in rows] == [str(i) for i in range(1, 200)]
    assert len(calls) == 1


@pytest.mark.parametrize(
    "text", [b'{"x":' * 10_000 + b"[1" + b",1" * 5000, b"[" * 30_000 + b"1," * 5000]
)
def test_what_is_nested_is_not_walked_to_the_bottom(text: bytes) -> None:
    """Explaining a refusal must stay cheap: a path costs its depth, each time."""
    assert list(scalars(text)) == []
    with pytest.raises(EventError):
        wire.decode(text, Kind.BARE, Limits())


def test_features_that_nobody_reads_are_not_in_batches_and_all_else_is() -> None:
    text = '{{"prediction_id":"{0}","model":"{1}","features":{{"x":{0}.5,"c":"t"}},"scores":{{"1":0.{0}}}}}'
    log = [PlainRecord(i, BASE, b"a", text.format(i, "ab"[i % 2]).encode()) for i in range(40)]
    decoder = Decoder()
    whole = decoder.decode(Records.of(PARTITION, log))
    known = decoder.decode(Records.of(PARTITION, log), lambda model: model == "a")
    for every, few in zip(whole.predictions, known.predictions, strict=True):
        assert (few.feature_names, [*few.texts]) == (
            (("x",), ["c"]) if few.model == "a" else ((), [])
        )
        assert few.features.shape == (20, len(few.feature_names))
        rows = [(*row[:7], *row[8:]) for row in rows_of(every)]
        assert [(*row[:7], *row[8:]) for row in rows_of(few)] == rows
