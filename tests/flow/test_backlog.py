"""A hostile backlog of labels against the labels as they are in the end, counted by scikit-learn; and a series that depends on the log alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn import metrics as reference

from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.core.cloudevents import LINES
from tocsin.core.metric_row import MetricRow, decode

START = datetime(2026, 1, 1, tzinfo=UTC)
PARTITION = Partition("t", 0)
WINDOW = 90  # days
COHORTS = 8
Event = dict[str, Any]
Series = dict[str, MetricRow]


def at(day: float) -> str:
    return (START + timedelta(days=day)).isoformat()


def records(events: Sequence[Event], each: int = 5) -> list[PlainRecord]:
    lines = [msgspec.json.encode(event) for event in events]
    headers, now = [("content-type", LINES.encode())], int(START.timestamp() + 2e7) * 10**9
    parts = [lines[i : i + each] for i in range(0, len(lines), each)]
    return [PlainRecord(k, now, b"m", b"\n".join(part), headers) for k, part in enumerate(parts)]


def run(
    log: Sequence[PlainRecord], cuts: Sequence[int], settings: ModelSettings, restarts: float = 0
) -> Series:
    """Return the series after all records and all that is left to write, taken in at these cuts."""
    rng = np.random.default_rng(len(cuts))
    stored: dict[str, bytes] = {}
    series: dict[str, bytes] = {}
    pipeline = PartitionPipeline(PARTITION, lambda _: settings)

    def commit() -> None:
        for into, fields in ((stored, pipeline.dirty()), (series, pipeline.series().get("m", {}))):
            for name, state in fields.items():
                if state is None:
                    into.pop(name, None)
                else:
                    into[name] = state

    for begin, end in zip([0, *cuts], [*cuts, len(log)], strict=True):
        pipeline.process(Records.of(PARTITION, log[begin:end]))
        commit()
        if rng.random() < restarts:
            position, pipeline = pipeline.position, PartitionPipeline(PARTITION, lambda _: settings)
            assert pipeline.restore(position, dict(stored)) == []
    while pipeline.is_behind:
        commit()
    return {name: decode(row) for name, row in series.items()}


class Backlog:
    """Predictions of 16 days, some long before the one before them; then their labels, with all that can be wrong with them."""

    def __init__(self, kind: str, seed: int, count: int = 1200) -> None:
        rng = self.rng = np.random.default_rng(seed)
        self.kind = kind
        self.predictions: list[Event] = []
        self.labels: list[Event] = []
        for i in range(count):
            day = 16 * i / count - (float(rng.choice([0.5, 3, 12])) if rng.random() < 0.1 else 0)
            event = {"prediction_id": f"p{i}", "model": "m", "time": at(day), **self.content()}
            self.predictions.append(event)
            self.labels += self.of(event, day)
            if rng.random() < 0.05:
                self.predictions.append(event | self.content() | {"time": at(day - 1)})
        self.labels += [
            self.label("nobody", 1, 0, 0), {**self.label("p1", 1, 0, 9), "label": None}
        ]  # fmt: skip

    def content(self) -> Event:
        rng = self.rng
        event: Event = {"segments": {"sex": str(rng.choice(["F", "M"]))}}
        if self.kind == "binary":
            score = float(rng.random())
            return event | {"prediction": int(score > 0.4), "scores": {"1": score}}
        if self.kind == "classes":
            shares = rng.dirichlet(np.ones(4))
            scores = dict(zip("abcd", shares.tolist(), strict=True))
            return event | {"prediction": "abcd"[int(shares.argmax())], "scores": scores}
        if self.kind == "many":
            return event | {"prediction": f"class {rng.zipf(1.3) % 90}"}
        return event | {"prediction": float(rng.normal() * 10.0 ** rng.integers(-3, 4))}

    def truth(self) -> Any:
        """Return a label: now and then one that no prediction is like."""
        rng = self.rng
        odd = rng.random() < 0.02
        if self.kind == "binary":
            return [0, 1, "0", "1", True, False][int(rng.integers(6))]
        if self.kind == "classes":
            return "zebra" if odd else "abcd"[int(rng.integers(4))]
        if self.kind == "many":
            return "" if odd else f"class {rng.zipf(1.3) % 90}"
        return "n/a" if odd else float(rng.normal() * 10.0 ** rng.integers(-3, 4))

    def label(self, name: str, label: Any, revision: int, day: float) -> Event:
        return {
            "type": "label", "prediction_id": name, "model": "m", "label": label,
            "revision": revision, "observed_at": at(day),
        }  # fmt: skip

    def of(self, event: Event, day: float) -> list[Event]:
        rng, name = self.rng, event["prediction_id"]
        first, seen = self.truth(), day + float(rng.choice([-1, 2, 20])) * rng.random()
        history: dict[str, list[Any]] = {
            "never": [], "once": [first], "corrected": [first, self.truth()],
            "twice": [first, self.truth(), self.truth()], "back": [first, self.truth(), first],
            "reversed": [first, self.truth()], "too late": [first],
        }  # fmt: skip
        weights = [0.2, 0.5, 0.06, 0.06, 0.06, 0.06, 0.06]
        what = str(rng.choice(list(history), p=weights))
        if what == "reversed":  # the label of the greater revision was seen first
            return [
                self.label(name, label, 7 - k, seen + k) for k, label in enumerate(history[what])
            ]
        told = [self.label(name, label, k, seen + k) for k, label in enumerate(history[what])]
        if what == "too late" or rng.random() < 0.02:
            told.append(self.label(name, self.truth(), 9, day + WINDOW + 1))
        return told + [one for one in told if rng.random() < 0.1]

    def log(self, seed: int) -> list[Event]:
        """Return the events: one label in twenty somewhere among the predictions, all others afterwards, in an order of their own."""
        rng = np.random.default_rng(seed)
        labels = [self.labels[k] for k in rng.permutation(len(self.labels)).tolist()]
        # Of labels that wait for one prediction the greatest is kept, so none that turns out to be too late.
        labels.sort(key=lambda label: label["observed_at"] > at(WINDOW))
        few = len(labels) // 20
        places = rng.integers(0, len(self.predictions), few).tolist()
        early = sorted(zip(places, labels[:few], strict=True), key=lambda one: one[0])
        events = list(self.predictions)
        for place, label in reversed(early):
            events.insert(place, label)
        again = [
            self.predictions[k] | {"scores": None} for k in range(0, 300, 9)
        ]  # after its label
        return events + labels[few:] + again

    def final(self) -> list[Event]:
        """Return each prediction that is counted, as it came first, with the `label` it has in the end if it has one."""
        first: dict[str, Event] = {}
        for event in self.predictions:
            first.setdefault(event["prediction_id"], event)
        kept: list[str] = []
        for event in first.values():
            day = event["time"][:10]
            if day not in kept and (len(kept) < COHORTS or day > min(kept)):
                kept = sorted([*kept, day])[-COHORTS:]
        best: dict[str, tuple[int, str, Any]] = {}
        for label in self.labels:
            name, observed = label["prediction_id"], label["observed_at"]
            if name not in first or label["label"] is None:
                continue
            lag = datetime.fromisoformat(observed) - datetime.fromisoformat(first[name]["time"])
            mine = (label["revision"], observed, label["label"])
            if lag <= timedelta(days=WINDOW) and (name not in best or mine[:2] > best[name][:2]):
                best[name] = mine
        return [
            event | ({"label": one(best[name][2])} if name in best else {})
            for name, event in first.items()
            if event["time"][:10] in kept
        ]


def one(label: Any) -> Any:
    """Return what a label is the same as: 1, "1" and true are one class."""
    if isinstance(label, bool) or (isinstance(label, str) and label in "01" and label):
        return int(label)
    return label


def expected(kind: str, pairs: list[Event]) -> dict[str, float]:
    """Return what scikit-learn and NumPy say of pairs."""
    label = [pair["label"] for pair in pairs]
    said = [pair["prediction"] for pair in pairs]
    if kind == "numbers":
        good = [k for k, value in enumerate(label) if isinstance(value, float)]
        if not good:
            return {}
        true, told = np.array([label[k] for k in good]), np.array([said[k] for k in good])
        return {
            "mae": float(np.abs(told - true).mean()),
            "rmse": float(np.sqrt(((told - true) ** 2).mean())),
            "mean_error": float((told - true).mean()),
        }
    if not pairs:
        return {}
    found = {"accuracy": float(np.mean([a == b for a, b in zip(label, said, strict=True)]))}
    if kind == "binary":
        score = np.array([pair["scores"]["1"] for pair in pairs])
        found["brier"] = float(np.mean((score - label) ** 2))
        found["log_loss"] = float(reference.log_loss(label, score, labels=[0, 1]))
        if any(label):
            found["recall"] = float(reference.recall_score(label, said))
        if any(said):
            found["precision"] = float(reference.precision_score(label, said))
        if 0 < sum(label) < len(label):
            found["roc_auc"] = float(reference.roc_auc_score(label, score))
        return found
    seen = sorted({*label, *said})
    f1 = reference.f1_score(label, said, labels=seen, average=None, zero_division=np.nan)
    if kind == "classes":
        found |= {f"f1:{name}": float(value) for name, value in zip(seen, f1, strict=True)}
        found["f1:macro"] = float(np.nanmean(f1))
        if "zebra" not in label:
            shares = [[pair["scores"][name] for name in "abcd"] for pair in pairs]
            found["log_loss"] = float(reference.log_loss(label, shares, labels=list("abcd")))
    return found


def settings(**performance: Any) -> ModelSettings:
    of = {"segments": ["sex"], "cohorts": COHORTS, "close_after": "5.3d", **performance}
    labels = {"window": f"{WINDOW}d", "early": "300d"}
    return ModelSettings(features="none", performance=of, labels=labels)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", ["binary", "classes", "many", "numbers"])
def test_a_hostile_backlog_ends_as_what_is_said_of_its_last_labels(kind: str, seed: int) -> None:
    backlog = Backlog(kind, seed)
    rows = backlog.final()
    told: list[Series] = []
    for order in (0, 1):
        log = records(backlog.log(10 * seed + order))
        cuts = sorted(backlog.rng.choice(np.arange(1, len(log)), 8, replace=False).tolist())
        told.append(run(log, cuts, settings(), restarts=0.5 * order))
    series = told[0]
    days = {row["time"][:10] for row in rows}
    assert len(days) == COHORTS
    of_cohorts = [row for row in series.values() if not row.window]
    assert {(row.begin[:10], row.group) for row in of_cohorts} == {
        (day, group) for day in days for group in ("", "sex=F", "sex=M")
    }
    assert len(series) == len(of_cohorts) + 3
    checked = 0
    for row in of_cohorts:
        of = [one for one in rows if one["time"][:10] == row.begin[:10]]
        of = [one for one in of if row.group in ("", f"sex={one['segments']['sex']}")]
        pairs = [one for one in of if "label" in one]
        assert (row.predictions, row.labels) == (len(of), len(pairs))
        for name, value in expected(kind, pairs).items():
            if np.isnan(value):
                assert name not in row.metrics
                continue
            metric = row.metrics[name]
            assert abs(metric[0] - value) <= metric[3] + 1e-9 * max(1, abs(value)), (name, row)
            checked += 1
    assert checked >= len(of_cohorts)
    # The order in which labels came, and so that of classes, changes no number.
    for name, row in told[1].items():
        ours, theirs = msgspec.to_builtins(series[name]), msgspec.to_builtins(row)
        for one in (ours, theirs):
            del (
                one["revised"],
                one["counts"],
            )  # the history, not the labels; in the order of classes
        if kind == "many":  # which of them are told apart is up to the order
            ours["metrics"], theirs["metrics"] = (
                {"accuracy": found["metrics"].get("accuracy")} for found in (ours, theirs)
            )
        metrics = ours.pop("metrics"), theirs.pop("metrics")
        assert ours == theirs
        assert metrics[0].keys() == metrics[1].keys()
        for key in metrics[0]:
            assert metrics[0][key] == pytest.approx(metrics[1][key], rel=1e-12)


def late_group(k: int, event: Event) -> Event:
    """A fourth value of a segment, on the last day: from then on groups are compared with all others."""
    if event["type"] == "label":
        return event
    region = str(k % 3) if k < 1100 else "new"
    return event | {"segments": event["segments"] | {"region": region}}


def late_class(k: int, event: Event) -> Event:
    """A third class, in the last of the labels."""
    return event | ({"label": 2} if event["type"] == "label" and k % 97 == 0 and k > 2000 else {})


def late_scores(k: int, event: Event) -> Event:
    """Scores that come with the last day only."""
    return event if k > 1100 else {name: of for name, of in event.items() if name != "scores"}


@pytest.mark.parametrize(
    ("changed", "of"),
    [
        (None, {"maturity": "6d"}),
        (None, {"maturity": "6.3d", "unlabelled": "negative"}),
        (late_group, {"cohorts": 90}),
        (late_class, {"cohorts": 90}),
        (late_scores, {"cohorts": 90}),
    ],
    ids=["correction", "rule", "group", "class", "scores"],
)
def test_the_series_depends_on_the_log_not_on_when_it_was_written(
    changed: Callable[[int, Event], Event] | None, of: dict[str, Any]
) -> None:
    """What one event says of all rows is written to all of them, also to those that were told before."""
    events = Backlog("binary", 3).log(3)
    if changed is not None:
        events = [changed(k, {"type": "prediction", **event}) for k, event in enumerate(events)]
    log = records(events)
    whole = settings(**of, segments=["sex", "region"])
    whole = whole.model_copy(
        update={"bias": whole.bias.model_copy(update={"segments": ["region"]})}
    )
    at_once = run(log, [], whole)
    assert any(row.corrected for row in at_once.values()) == ("maturity" in of)
    for cuts, restarts in ((len(log) // 7, 0.0), (len(log) // 25, 0.4)):
        series = run(log, list(range(cuts, len(log), cuts)), whole, restarts)
        assert series.keys() == at_once.keys()
        assert [name for name in series if series[name] != at_once[name]] == []
