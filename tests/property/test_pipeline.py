"""One partition's pipeline: how the log is cut, and where it is taken up again, changes nothing that comes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.pending import _COLUMNS, _SCORES
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.core.alert import Alert
from tocsin.core.cloudevents import LINES, from_nanoseconds
from tocsin.core.limits import Limits
from tocsin.core.snapshot import unpack

PARTITION = Partition("t", 3)
START = 1_767_225_600_000_000_000  # 2026-01-01
SETTINGS = ModelSettings(
    drift={"warmup_values": 40, "adwin_delta": 0.002, "page_hinkley_threshold": 15},
    attack={"fit_events": 60, "calibration_events": 350, "alpha": 0.03, "budget_events": 1000},
    labels={"window": 400, "early": 20, "max_pending": 600, "max_early": 30},
    incidents={"merge_events": 60, "resolve_events": 150},
    performance_window=200,
)
DIRTY = (
    b'{"prediction_id":"d","model":"steady","features":{"x":NaN}}', b"\xff{", b"", b"{}",
    b'{"prediction_id":"d","model":"steady","features":{"x":1e999}}',
    b'{"prediction_id":"d","model":"crowded"}',
)  # fmt: skip


class Generator:
    """A log of three models: one with everything, one of regression, one that changes its shape."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.due: list[tuple[int, dict[str, Any]]] = []

    def log(self, records: int) -> list[PlainRecord]:
        return [self.record(number, number / records) for number in range(records)]

    def record(self, number: int, done: float) -> PlainRecord:
        rng = self.rng
        lines: list[bytes] = []
        for row in range(int(rng.integers(1, 9))):
            name = ("steady", "amounts", "motley")[int(rng.integers(3))]
            event = getattr(self, name)(done)
            event |= {"prediction_id": f"{number}-{row}", "model": name}
            again = 0.5 if event.get("environment") == "shadow" else 0.05  # production's ids
            if rng.random() < again:
                event["prediction_id"] = f"{max(0, number - 3)}-{row}"
            at = number + float(rng.uniform(-5, 5))
            event["time"] = from_nanoseconds(START + int(at * 1e9)).isoformat()
            lines.append(msgspec.json.encode(event))
            truth = event.get("prediction", 1)
            if rng.random() < 0.1 + 0.6 * (done > 0.5):
                truth = f"class {rng.integers(20)}" if name == "motley" else -7
            for revision in range(int(rng.choice([0, 1, 1, 2]))):
                label = {
                    "type": "label", "prediction_id": event["prediction_id"], "model": name,
                    "label": truth if revision == 0 else 1, "revision": revision,
                }  # fmt: skip
                if rng.random() < 0.05:
                    label["prediction_id"] = f"nobody-{number}-{row}"
                self.due.append((number + int(rng.choice([-1, 1, 30, 500])), label))
        lines += [msgspec.json.encode(label) for at, label in self.due if at <= number]
        self.due = [(at, label) for at, label in self.due if at > number]
        if rng.random() < 0.1:
            lines.append(DIRTY[int(rng.integers(len(DIRTY)))])
        rng.shuffle(lines)
        headers = [("content-type", LINES.encode())]
        # Compaction and transactions leave holes in the offsets.
        return PlainRecord(2 * number, START + number * 10**9, b"k", b"\n".join(lines), headers)

    def steady(self, done: float) -> dict[str, Any]:
        """Drifts a third of the way in; later one client sends inputs at the edge."""
        rng = self.rng
        logits = rng.normal(0, 1, 4)
        logits[rng.integers(4)] += 7
        client = f"client-{rng.integers(3)}"
        if done > 0.6 and rng.random() < 0.4:
            client, logits = "edge", np.array([5.0, 5.0, 0.0, 0.0]) + rng.normal(0, 0.01, 4)
        share = float(rng.beta(2, 5))
        return {
            "features": {"x": float(rng.normal() + 3 * (done > 0.3)), "flag": bool(rng.random() < 0.3)},
            "prediction": int(logits.argmax()), "scores": {"0": share, "1": 1 - share},
            "logits": logits.tolist(), "client": client,
            "version": "v1" if rng.random() < 0.9 else "v2",
            "environment": "shadow" if rng.random() < 0.1 else "production",
        }  # fmt: skip

    def amounts(self, done: float) -> dict[str, Any]:
        """A regression; the first events have no prediction, some have their label with them."""
        rng = self.rng
        amount = float(rng.gamma(3, 10) * (1 + (done > 0.7)))
        found: dict[str, Any] = {"features": {"amount": amount, "huge": 1e150}}
        if rng.random() < 0.95 and done > 0.02:
            found["prediction"] = amount + 0.25
        if rng.random() < 0.2:
            found["label"] = amount
        return found

    def motley(self, done: float) -> dict[str, Any]:
        """Features that come and go, are null, or change their type."""
        rng = self.rng
        choices: dict[str, Sequence[Any]] = {
            "a": (float(rng.normal()), None), "b": (1, "one", None), "c": ("red", "blue", None),
            "d": (True, False), f"new-{int(done * 6)}": (float(rng.normal()),),
        }  # fmt: skip
        names = [name for name in choices if rng.random() < 0.6]
        rng.shuffle(names)
        features = {name: choices[name][int(rng.integers(len(choices[name])))] for name in names}
        found: dict[str, Any] = {
            "features": features,
            "prediction": str(rng.choice(["yes", "3", f"class {rng.integers(20)}"])),
        }
        if rng.random() < 0.5:
            found["scores"] = {"yes": float(rng.random())}
        return found


class Run:
    """A pipeline, what came out of it, and the store that it is taken up again from."""

    def __init__(self) -> None:
        self.alerts: list[Alert] = []
        self.letters: list[tuple[int, int, bytes | None, str]] = []
        self.metrics: dict[str, dict[str, float]] = {}
        self.stored: dict[str, bytes] = {}
        self.pipeline = self.fresh()

    def fresh(self) -> PartitionPipeline:
        return PartitionPipeline(PARTITION, lambda _: SETTINGS, Limits(models=3))

    def take(self, records: Sequence[PlainRecord]) -> None:
        out = self.pipeline.process(Records.of(PARTITION, records))
        self.alerts += out.alerts
        self.letters += [
            (one.offset, one.row, one.value, repr(one.error)) for one in out.dead_letters
        ]

    def commit(self) -> None:
        self.metrics.update(self.pipeline.metrics())
        for name, state in self.pipeline.dirty().items():
            if state is None:
                self.stored.pop(name, None)
            else:
                self.stored[name] = state

    def restart(self) -> None:
        self.commit()
        position = self.pipeline.position
        self.pipeline = self.fresh()
        assert self.pipeline.restore(position, self.stored) == []

    def state(self) -> dict[str, Any]:
        """Return the fields; of the pending table and the features what they hold, for how it is cut is free."""
        free = (
            "pending/",
            *(f"{code}/leakage_{of}" for code in range(4) for of in ("waiting", "sample")),
        )
        fields = {n: s for n, s in self.stored.items() if not n.startswith(free)}
        held: dict[str, Any] = {}
        for model, monitor in self.pipeline._models.items():
            table = monitor.join.table
            names = table.ids(table.first, table.count).to_list()
            kept = slice(table.first, table.count)
            columns = {name: table.at(name, kept).tolist() for name in (*_COLUMNS, _SCORES)}
            held[f"pending|{model}"] = repr((table.first, names, columns))
            held[f"join|{model}"], _ = unpack("join", 1, fields[f"join|{model}"])
            del held[f"join|{model}"]["fields"]
            for code, own in monitor._leaks._environments.items():
                pending, times, values = (column.tolist() for column in own.sample.kept())
                held[f"features {code}|{model}"] = repr(
                    (own.sample._figures.tolist(), pending, times, values)
                )
        return fields | held


def uninterrupted(log: Sequence[PlainRecord]) -> Run:
    run = Run()
    run.take(log)
    run.commit()
    return run


@pytest.mark.parametrize("seed", range(3))
def test_any_cut_and_any_restart_gives_what_one_run_gives(seed: int) -> None:
    log = Generator(seed).log(700)
    expected = uninterrupted(log)
    rng = np.random.default_rng([seed, 1])
    for cuts, restarts in ((12, 1.0), (60, 0.3), (400, 0.02)):
        at = np.sort(rng.choice(np.arange(1, 700), cuts, replace=False)).tolist()
        run = Run()
        for begin, end in zip([0, *at], [*at, 700], strict=True):
            run.take(log[max(0, begin - int(rng.integers(3))) : end])  # some come twice
            if rng.random() < restarts:
                run.restart()
            elif rng.random() < 0.3:
                run.commit()
        run.commit()
        assert run.alerts == expected.alerts
        assert run.letters == expected.letters
        assert run.metrics == expected.metrics
        assert run.state() == expected.state()


def test_the_log_above_holds_what_a_log_can_hold() -> None:
    run = uninterrupted(Generator(0).log(700))
    firing = {(alert.model, alert.kind) for alert in run.alerts if alert.state == "firing"}
    assert firing >= {
        ("steady", "data drift"), ("steady", "concept drift"), ("steady", "adversarial input"),
        ("amounts", "data drift"), ("amounts", "concept drift"), ("motley", "concept drift"),
    }  # fmt: skip
    refused = run.metrics.pop("")
    assert sum(refused.values()) > 0
    assert set(run.metrics) == {"steady", "steady@shadow", "amounts", "motley"}
    # The log is too short for regimes, and so for e-detectors to speak; and no detector fails.
    late = {
        "streams_exchangeable", "streams_autocorrelated", "streams_ordered", "drift_alarms", "detectors_set_aside",
    }  # fmt: skip
    for name in set().union(*run.metrics.values()) - late:
        assert any(figures.get(name, 0) > 0 for figures in run.metrics.values()), name
    assert {error.partition("(")[0] for *_, error in run.letters} == {
        "DecodeError", "SchemaError", "NonFiniteError", "SizeError",
    }  # fmt: skip


def test_alerts_come_in_the_order_of_the_log_and_each_has_its_own_id() -> None:
    run = Run()
    log = Generator(1).log(700)
    for begin in range(0, 700, 10):
        run.take(log[begin : begin + 10])
    places = [(alert.offset, alert.row) for alert in run.alerts]
    assert places == sorted(places)
    assert len({alert.id for alert in run.alerts}) == len(run.alerts)


def test_a_commit_writes_only_what_changed() -> None:
    run = uninterrupted(Generator(2).log(300))
    label = b'{"type":"label","model":"amounts","prediction_id":"nobody-knows-it","label":1}'
    run.take([PlainRecord(600, START, b"k", label)])
    fields = run.pipeline.dirty()
    assert {name.partition("|")[2] for name in fields} == {"amounts"}
    assert set(fields) == {"join|amounts", "0/series|amounts"}
    assert run.pipeline.dirty() == {}
    assert run.pipeline.metrics() == {}
