"""kill -9 of the worker and of Redis in the middle of a backlog of labels: every number is that of an undisturbed run, and the truth."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import msgspec
import numpy as np
import redis
from kafka import KafkaProducer

from tocsin.core.cloudevents import LINES
from tocsin.core.keys import Keys
from tocsin.core.metric_row import MetricRow
from tocsin.embedded import EmbeddedRedis

START = datetime(2025, 1, 1, tzinfo=UTC)
DAYS, WINDOW, EARLY = 90, 60, 1
BLOCK = 1024  # predictions, or labels, between two looks at what is too old
SETTINGS = f"""
defaults:
  features: none
  labels: {{window: {WINDOW}d, early: {EARLY}d}}
models:
  risk:
    performance: {{cohort: 3d, segments: [sex, region, sex*region], maturity: 20d, close_after: 9.5d}}
    bias: {{segments: [sex, region]}}
  fraud:
    performance: {{cohort: 2d, segments: [], maturity: 30d, unlabelled: negative}}
  price:
    task: regression
    performance: {{cohort: 5d, segments: [sex]}}
"""
MODELS = {"risk": (0, 20), "fraud": (1, 6), "price": (1, 4)}
"""The partition of each model, and its predictions in blocks."""
Event = dict[str, Any]
Wait = Callable[..., Any]


class Log:
    """The predictions of one model, evenly over the days, then its labels, long after."""

    def __init__(self, model: str, seed: int) -> None:
        rng = self.rng = np.random.default_rng(seed)
        self.model = model
        count = MODELS[model][1] * BLOCK
        self.first: list[Event] = []
        self.backlog: list[Event] = []
        predictions: list[Event] = []
        for i in range(count):
            if rng.random() < 0.01 and predictions:
                self.first.append(predictions[-1])  # once more
                continue
            event = self.prediction(i, DAYS * i / count)
            predictions.append(event)
            if rng.random() < 0.005:  # its label stands before it
                self.first.append(self.label(event, 0, 0.01))
            self.first.append(event)
            if rng.random() < 0.005 and i < 0.8 * count:
                self.first.append(self.label(event | {"prediction_id": f"nobody-{i}"}, 0, 0.0))
        order = rng.permutation(len(predictions)).tolist()
        labels: list[tuple[int, Event]] = []
        for place, i in enumerate(order):
            event = predictions[i]
            if rng.random() < 0.25:
                continue
            late = rng.random() < 0.03
            lag = WINDOW + 1 if late else min(float(rng.lognormal(1.5, 1)), WINDOW - 2)
            told = self.label(event, 0, lag, wrong=0.45 if place > 0.7 * count else 0.1)
            labels.append((place, told))
            if rng.random() < 0.05:
                labels.append((place + int(rng.integers(count // 2)), told))
            if rng.random() < 0.02:
                other = self.label(event, 1, lag + 1, wrong=0.5)
                labels.append((place + int(rng.integers(-count // 2, count // 2)), other))
        self.backlog = [label for _, label in sorted(labels, key=lambda one: one[0])]

    def prediction(self, i: int, day: float) -> Event:
        rng = self.rng
        event: Event = {
            "prediction_id": f"{self.model}-{i}", "model": self.model, "time": at(day),
            "segments": {"sex": "FM"[int(rng.integers(2))], "region": str(rng.integers(3 + (day > 70)))},
        }  # fmt: skip
        if self.model == "price":
            return event | {"prediction": round(float(rng.normal(100, 10)), 3)}
        score = round(float(rng.beta(1, 3)), 4)
        return event | {"prediction": int(score > 0.4), "scores": {"1": score, "0": 1 - score}}

    def label(self, event: Event, revision: int, lag: float, wrong: float = 0.1) -> Event:
        rng, said = self.rng, event["prediction"]
        if self.model == "price":
            label = said + round(float(rng.normal(0, 100 * wrong)), 3)
        elif self.model == "fraud" and not said:
            label = int(rng.random() < 0.1)
        else:
            label = (
                1 - said if rng.random() < wrong * (1 + (event["segments"]["sex"] == "F")) else said
            )
        observed = datetime.fromisoformat(event["time"]) + timedelta(days=lag)
        return {
            "type": "label", "prediction_id": event["prediction_id"], "model": self.model,
            "label": label, "revision": revision, "observed_at": observed.isoformat(),
        }  # fmt: skip


def at(day: float) -> str:
    return (START + timedelta(days=day)).isoformat()


def when(event: Event) -> datetime:
    return datetime.fromisoformat(event.get("time") or event["observed_at"])


class Truth:
    """What becomes of a model's events, one after another, in dicts."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.counts: Counter[str] = Counter()
        self.every: dict[str, Event] = {}
        self.known: dict[str, Event] = {}
        self.best: dict[str, Event] = {}
        self.waiting: dict[str, Event | None] = {}
        self.now = START
        self.times: list[datetime] = []
        for event in events:
            if event.get("type") == "label":
                self.counts["labels"] += 1
                if event["prediction_id"] in self.known:
                    self.label(event)
                else:
                    self.wait(event)
                if self.counts["labels"] % BLOCK == 0:
                    self.give_up()
            else:
                self.predict(event)

    def predict(self, event: Event) -> None:
        name = event["prediction_id"]
        self.counts["predictions"] += 1
        self.counts["predictions_repeated"] += name in self.known
        self.now = max(self.now, when(event))
        self.every.setdefault(name, event)
        self.known.setdefault(name, event)
        if (label := self.waiting.get(name)) is not None:
            self.waiting[name] = None
            self.label(label)
        if self.counts["predictions"] % BLOCK == 0:
            for name, known in list(self.known.items()):
                if when(known) + timedelta(days=WINDOW) >= self.now:
                    break
                del self.known[name]
                self.counts["predictions_expired"] += name not in self.best
            self.give_up()

    def wait(self, event: Event) -> None:
        name = event["prediction_id"]
        self.counts["labels_early"] += 1
        known = self.waiting.get(name)
        self.counts["labels_repeated"] += known is not None
        if known is None or rank(event) > rank(known):
            self.waiting[name] = event

    def give_up(self) -> None:
        for name, event in list(self.waiting.items()):
            if event is not None and when(event) + timedelta(days=EARLY) >= self.now:
                break
            del self.waiting[name]
            self.counts["labels_unmatched"] += event is not None

    def label(self, event: Event) -> None:
        name = event["prediction_id"]
        if when(event) - when(self.known[name]) > timedelta(days=WINDOW):
            self.counts["labels_late"] += 1
        elif name not in self.best:
            self.counts["labels_joined"] += 1
            self.best[name] = event
        else:
            is_greater = rank(event) > rank(self.best[name])
            is_other = event["label"] != self.best[name]["label"]
            self.counts["labels_corrected" if is_greater and is_other else "labels_repeated"] += 1
            if is_greater:
                self.best[name] = event

    def check(self, model: str, row: MetricRow) -> None:
        """Compare a row of the series, of all predictions or of a segment's, with the events."""
        wanted = dict(part.split("=") for part in row.group.split())
        begin, end = datetime.fromisoformat(row.begin), datetime.fromisoformat(row.end)
        of = [
            event
            for event in self.between(begin, end)
            if wanted.items() <= event["segments"].items()
        ]
        labelled = [event for event in of if event["prediction_id"] in self.best]
        pairs = [(e["prediction"], self.best[e["prediction_id"]]["label"]) for e in labelled]
        assert (row.predictions, row.labels) == (len(of), len(pairs))
        if model == "fraud" and end + timedelta(days=30) <= self.now:
            pairs += [(e["prediction"], 0) for e in of if e["prediction_id"] not in self.best]
        if model == "price":
            errors = [abs(said - label) for said, label in pairs]
            assert not pairs or abs(row.metrics["mae"][0] - float(np.mean(errors))) < 1e-9
        elif pairs:
            hits = sum(said == label for said, label in pairs)
            assert abs(row.metrics["accuracy"][0] - hits / len(pairs)) < 1e-12

    def between(self, begin: datetime, end: datetime) -> list[Event]:
        """Return the predictions of some time; they stand in the order of theirs."""
        if not self.times:
            self.times = [when(event) for event in self.every.values()]
        low, high = bisect_left(self.times, begin), bisect_left(self.times, end)
        return list(islice(self.every.values(), low, high))


def rank(event: Event) -> tuple[int, str]:
    return event["revision"], event["observed_at"]


class Feed:
    """The records of all models: predictions, and the backlog, in which models stand side by side."""

    def __init__(self, bootstrap: str, topic: str, logs: Sequence[Log]) -> None:
        self._broker, self._topic = bootstrap, topic
        self.predictions = [r for log in logs for r in self._records(log.model, log.first, 200)]
        shares = [self._records(log.model, log.backlog, 20) for log in logs]
        places = [(k / len(share), n) for n, share in enumerate(shares) for k in range(len(share))]
        takes = [iter(share) for share in shares]
        self.backlog = [next(takes[n]) for _, n in sorted(places)]

    @staticmethod
    def _records(model: str, events: list[Event], each: int) -> list[tuple[str, bytes]]:
        lines = [msgspec.json.encode(event) for event in events]
        return [(model, b"\n".join(lines[i : i + each])) for i in range(0, len(lines), each)]

    def send(self, records: Sequence[tuple[str, bytes]], seconds: float = 0.0) -> None:
        """Send records, evenly over so many seconds."""
        producer = KafkaProducer(bootstrap_servers=self._broker)
        for k, (model, value) in enumerate(records):
            producer.send(
                self._topic, value=value, key=model.encode(), partition=MODELS[model][0],
                headers=[("content-type", LINES.encode())],
            )  # fmt: skip
            if seconds and k % 10 == 9:
                producer.flush(20)
                time.sleep(10 * seconds / len(records))
        producer.flush(20)
        producer.close()


def written(url: str, tenant: str) -> dict[str, bytes]:
    """Return all rows and figures as they stand in Redis."""
    client = redis.Redis.from_url(url)
    found: dict[str, bytes] = {}
    for key in (Keys(tenant).metrics, *(Keys(tenant).series(model) for model in MODELS)):
        of: Any = client.hgetall(key)
        found.update((f"{key.rpartition('}')[2]} {name.decode()}", row) for name, row in of.items())
    client.close()
    return found


def test_a_worker_and_redis_killed_in_a_backlog_of_labels_change_no_number(
    make_site: Any, broker: Any, store: EmbeddedRedis, wait_until: Wait, tmp_path: Any
) -> None:
    (tmp_path / "tocsin.yaml").write_text(SETTINGS)
    logs = [Log(model, 10 + k) for k, model in enumerate(MODELS)]
    rng = np.random.default_rng(5)
    with EmbeddedRedis() as calm:
        quiet = make_site(calm.url)
        quiet.start(tenant="undisturbed")
        site = make_site(store.url)
        site.topic, site.partitions = quiet.topic, quiet.partitions
        worker = site.start(tenant="killed")
        feed = Feed(broker.bootstrap, quiet.topic, logs)
        feed.send(feed.predictions)
        truths = {log.model: Truth(log.first + log.backlog) for log in logs}
        site.caught_up("killed")
        before = sum(site.offsets("killed").values())

        sent = 0
        for share in (rng.uniform(0.1, 0.3), rng.uniform(0.4, 0.6), rng.uniform(0.7, 0.9)):
            upto = int((share + 0.08) * len(feed.backlog))
            part = feed.backlog[sent:upto]
            sender = threading.Thread(target=feed.send, args=(part, 1.0), daemon=True)
            sender.start()
            wanted, sent = before + int(share * len(feed.backlog)), upto
            wait_until(lambda wanted=wanted: sum(site.offsets("killed").values()) >= wanted)
            worker.kill()
            worker.wait()
            if share < 0.4:
                store.kill()
                time.sleep(rng.uniform(0.1, 0.4))
                store.start()
            worker = site.start(tenant="killed")
            sender.join()
        feed.send(feed.backlog[sent:])
        quiet.caught_up("undisturbed")
        site.caught_up("killed")

        def differing() -> list[str]:
            killed, undisturbed = written(store.url, "killed"), written(calm.url, "undisturbed")
            names = killed.keys() | undisturbed.keys()
            return sorted(n for n in names if killed.get(n) != undisturbed.get(n))

        # What was changed but not yet in the series when a worker died is written by the next one.
        deadline = time.monotonic() + 20
        while differing() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert differing() == []
        rows: list[MetricRow] = []
        for model, truth in truths.items():
            figures = quiet.metrics("undisturbed")[model]
            assert {name: figures[name] for name in truth.counts} == dict(truth.counts)
            of = quiet.series(model, "undisturbed")
            for row in of:
                if "|" not in row.group:  # no gap
                    truth.check(model, row)
            rows += of
        assert len(rows) > 600
        assert sum(bool(row.corrected) for row in rows) > 300
        assert {"sex=F|M", "region=3|rest"} <= {row.group for row in rows}
        assert all(truths["risk"].counts.values())
        for model in MODELS:
            expected = [a for a in quiet.alerts("undisturbed") if a.model == model]
            assert [a for a in site.alerts("killed") if a.model == model] == expected
        kinds = {a.kind for a in quiet.alerts("undisturbed")}
        assert {"concept drift", "bias"} <= kinds
