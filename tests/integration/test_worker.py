"""A worker between a real broker and a real Redis: what goes in, what comes out, and how it ends."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import redis
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError
from kafka.structs import TopicPartition

from tocsin import Publisher
from tocsin.core import cloudevents as ce
from tocsin.core.events import Label, Prediction
from tocsin.core.wire import encode, record_headers
from tocsin.embedded import EmbeddedRedis

START = datetime(2026, 1, 1, tzinfo=UTC)
Wait = Callable[..., Any]


def shifted(model: str, count: int = 1200, at: int = 800, seed: int = 0) -> list[Prediction]:
    """Predictions whose input jumps by four standard deviations."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=count) + np.where(np.arange(count) >= at, 4.0, 0.0)
    return [
        Prediction(
            prediction_id=f"{model}-{k}", model=model, features={"x": round(float(v), 4)},
            prediction="ok", time=START + timedelta(seconds=k),
        )
        for k, v in enumerate(values)
    ]  # fmt: skip


def send(bootstrap: str, topic: str, records: Iterable[tuple[bytes | None, bytes, Any]]) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for key, value, headers in records:
        producer.send(topic, value=value, key=key, headers=headers)
    producer.flush(20)
    producer.close()


def read_all(bootstrap: str, topic: str, count: int) -> list[Any]:
    consumer = KafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=None,
        consumer_timeout_ms=10_000,
    )  # fmt: skip
    found = []
    for record in consumer:
        found.append(record)
        if len(found) == count:
            break
    consumer.close()
    return found


def test_every_wire_form_becomes_the_same_alert(site: Any) -> None:
    """Publisher, bare JSON, CloudEvents one by one, and Arrow: same rows, same verdicts."""
    site.start()
    with Publisher(site.broker.bootstrap, topic=site.topic, linger=0.01) as events:
        for event in shifted("packed"):
            events.prediction(
                event.prediction_id, model="packed", time=event.time, prediction="ok",
                features=dict(event.features),
            )  # fmt: skip
        rows = shifted("arrow")
        events.predictions(
            {
                "prediction_id": [e.prediction_id for e in rows],
                "time": np.array([e.time.replace(tzinfo=None) for e in rows], "datetime64[us]"),
                "prediction": ["ok"] * len(rows),
                "features": {"x": np.array([e.features["x"] for e in rows], np.float64)},
            },
            model="arrow",
        )
        assert events.flush(20)
        assert events.counts.sent == 2400
    bare = (
        (b"bare", b'{"prediction_id":"%s","model":"bare","features":{"x":%r},"prediction":"ok",'
        b'"time":"%s"}' % (e.prediction_id.encode(), e.features["x"], e.time.isoformat().encode()), [])
        for e in shifted("bare")
    )  # fmt: skip
    send(site.broker.bootstrap, site.topic, ((k, v, h) for k, v, h in bare))
    single = (
        (b"single", encode(e), record_headers(e, id=e.prediction_id, source="//test"))
        for e in shifted("single")
    )
    send(site.broker.bootstrap, site.topic, single)
    site.caught_up()
    found: dict[str, list[Any]] = {}
    for alert in site.alerts():
        found.setdefault(alert.model, []).append(
            (alert.state, alert.kind, alert.subject, alert.prediction_id, alert.statistic,
             alert.detected_at, alert.delay_events)
        )  # fmt: skip
    assert set(found) == {"packed", "arrow", "bare", "single"}
    own = {
        model: [(s, k, sub, p.removeprefix(model), *rest) for s, k, sub, p, *rest in alerts]
        for model, alerts in found.items()
    }
    assert own["packed"] == own["arrow"] == own["bare"] == own["single"]
    state, kind, subject, which, *_ = own["packed"][0]
    assert (state, kind, subject) == ("firing", "data drift", "feature:x")
    assert 800 <= int(which.removeprefix("-")) < 850


def test_what_is_refused_goes_to_the_dead_letters_as_it_came_and_the_worker_goes_on(
    site: Any,
) -> None:
    good = encode(Prediction(prediction_id="good", model="m", features={"x": 1.0}))
    refused = [
        (b"m", b'{"prediction_id":"p","features":{"x":NaN}}', [], b"x"),
        (b"m", b'{"prediction_id":"p","features":{"x":1e999}}', [], b"x"),
        (b"m", b"\xff\xfe not json at all", [("my", b"header")], b""),
        (None, b'{"prediction_id":17}', [], b"prediction_id"),
        (b"m", b'{"prediction_id":"p","featurs":{}}', [], b"featurs"),
        (b"m", b"{" * 50_000, [], b""),
        (b"m", encode(Label(prediction_id="p", label=1)), [("ce_type", b"nonsense"), ("ce_specversion", b"1.0")], b"ce_type"),
        (b"m", b'{"prediction_id":"p","x":"' + b"y" * 900_000 + b'"}', [], b"x"),
    ]  # fmt: skip
    records = [(b"m", good, [])]
    for key, value, headers, _ in refused:
        records += [(key, value, headers), (b"m", good, [])]
    site.start()
    send(site.broker.bootstrap, site.topic, records)
    site.caught_up()  # a letter is written before the offset of what it is about
    letters = read_all(site.broker.bootstrap, site.dead_letters, len(refused))
    assert len(letters) == len(refused)
    by_value = {letter.value: letter for letter in letters}
    for key, value, headers, field in refused:
        letter = by_value[value]
        about = dict(letter.headers)
        assert letter.key == key
        assert all(about[name] == data for name, data in headers)
        assert about["tocsin_topic"] == site.topic.encode()
        assert int(about["tocsin_offset"]) >= 0
        assert int(about["tocsin_partition"]) in (0, 1)
        assert about["tocsin_reason"] in (b"schema", b"decode", b"non_finite", b"size")
        assert field in about["tocsin_error"]
        assert b"yyyy" not in about["tocsin_error"], "a message holds the payload"
    assert site.metrics()["m"]["predictions"] == len(refused) + 1
    said = f"refused and count for nothing: each is in the topic {site.dead_letters}"
    shown = site.run("status").stdout
    of_model = sum(key == b"m" for key, *_ in refused)
    assert f"events_refused {of_model}\n" in shown
    assert f"{len(refused)} events were {said}" in shown
    assert f"{of_model} events were {said}" in site.run("metrics", "m").stdout
    assert f"dead letters, topic {site.dead_letters}; the last at".encode() in site.log.read_bytes()


def test_labels_join_and_wrong_ones_become_concept_drift(site: Any) -> None:
    site.start()
    rng = np.random.default_rng(1)
    with Publisher(site.broker.bootstrap, topic=site.topic, model="m", linger=0.01) as events:
        for k in range(2000):
            time = START + timedelta(seconds=k)
            right = int(rng.integers(2))
            events.prediction(f"p{k}", prediction=right, time=time)
            wrong = rng.random() < (0.5 if k > 1200 else 0.05)
            events.label(f"p{k}", 1 - right if wrong else right, observed_at=time)
        assert events.flush(20)
    site.caught_up()
    (firing,) = [a for a in site.alerts() if a.state == "firing"]
    assert firing.kind == "concept drift"
    figures = site.metrics()["m"]
    assert figures["labels_joined"] == 2000
    assert 0.4 < figures["accuracy"] < 0.9
    assert {"precision:macro", "recall:macro", "f1:macro"} <= set(figures)


def test_offsets_are_committed_to_kafka_too_for_lag_tools(site: Any, wait_until: Wait) -> None:
    site.start()
    with Publisher(site.broker.bootstrap, topic=site.topic, model="m") as events:
        for k in range(50):
            events.prediction(f"p{k}", features={"x": 1.0})
    site.caught_up()
    admin = KafkaAdminClient(bootstrap_servers=site.broker.bootstrap)

    def committed() -> dict[int, int]:
        (offsets,) = admin.list_group_offsets([f"{site.topic}-t"]).values()
        return {tp.partition: found.offset for tp, found in offsets.items()}

    wait_until(
        lambda: (
            {p: o for p, o in committed().items() if o > 0}
            == {p: o for p, o in site.offsets().items() if o > 0}
        )
    )
    admin.close()


def test_sigterm_ends_a_busy_worker_within_five_seconds_and_loses_nothing(
    site: Any, wait_until: Wait
) -> None:
    worker = site.start()
    with Publisher(site.broker.bootstrap, topic=site.topic, model="m", linger=0.005) as events:
        for k in range(20_000):
            events.prediction(f"p{k}", features={"x": 1.0, "y": float(k % 7)})
            if k == 10_000:
                events.flush()
                wait_until(lambda: any(site.offsets().values()))
                worker.send_signal(signal.SIGTERM)
                begin = time.monotonic()
        assert worker.wait(10) == 0
        assert time.monotonic() - begin < 5
        assert events.flush(20)
    site.start()
    site.caught_up()
    assert site.metrics()["m"]["predictions"] == 20_000


def test_sigterm_ends_a_worker_whose_redis_is_gone(
    make_site: Any, store: EmbeddedRedis, wait_until: Wait
) -> None:
    site = make_site(store.url)
    worker = site.start()
    with Publisher(site.broker.bootstrap, topic=site.topic, model="m") as events:
        events.prediction("p", features={"x": 1.0})
    site.caught_up()
    store.kill()
    with Publisher(site.broker.bootstrap, topic=site.topic, model="m") as events:
        events.prediction("q", features={"x": 1.0})
    wait_until(lambda: b"nothing is processed until it does" in site.log.read_bytes())
    worker.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    worker.wait(10)
    assert time.monotonic() - begin < 5
    store.start()
    assert sum(site.offsets().values()) == 1


def test_without_a_topic_the_worker_says_what_to_do(site: Any) -> None:
    ended = site.run("worker", TOCSIN_KAFKA__TOPIC="nowhere-to-be-found")
    assert ended.returncode == 2
    assert "tocsin topics create" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_plain_redis_subscribers_get_plain_json(site: Any) -> None:
    plain = redis.Redis.from_url(site.url).pubsub(ignore_subscribe_messages=True)
    plain.subscribe("tocsin:alerts", "tocsin:alerts:m")
    # The default tenant: the channel that the README names.
    site.start(tenant="default")
    send(site.broker.bootstrap, site.topic, ((b"m", encode(e), []) for e in shifted("m")))
    site.caught_up("default")
    found: dict[bytes, list[Any]] = {}
    expected = 2 * len(site.alerts("default"))
    for _ in range(expected + 2):  # two confirmations
        message = plain.get_message(timeout=5)
        if message is not None:
            found.setdefault(message["channel"], []).append(json.loads(message["data"]))
    plain.close()
    assert found[b"tocsin:alerts"] == found[b"tocsin:alerts:m"]
    firing = found[b"tocsin:alerts"][0]
    assert (firing["state"], firing["kind"], firing["model"]) == ("firing", "data drift", "m")
    assert firing["previous_id"] == "0-0"
    assert firing["stream_id"]


def test_both_ways_to_read_give_the_same_alerts(site: Any) -> None:
    lines = [encode(e) for e in shifted("m")]
    headers = ce.headers(type=ce.EVENTS, source="//t", id="1", content_type=ce.LINES)
    records = [(b"m", b"\n".join(lines[k : k + 60]), headers) for k in range(0, 1200, 60)]
    send(site.broker.bootstrap, site.topic, records)
    for columnar in ("auto", "off"):
        site.start(tenant=columnar, TOCSIN_WORKER__COLUMNAR=columnar)
        site.caught_up(columnar)
    assert site.alerts("auto")
    assert site.alerts("auto") == site.alerts("off")


def test_events_that_the_broker_removed_unread_are_said_and_the_others_go_on(
    site: Any, wait_until: Wait
) -> None:
    worker = site.start()
    send(site.broker.bootstrap, site.topic, ((b"m", encode(e), []) for e in shifted("m", 100)))
    site.caught_up()
    (partition,) = [p for p in site.partitions if site.offsets()[p.number] == 100]
    # Stopped, as a laptop's lid or a slow disk would do it, while more comes and is removed.
    worker.send_signal(signal.SIGSTOP)
    send(site.broker.bootstrap, site.topic, ((b"m", encode(e), []) for e in shifted("m", 300)))
    admin = KafkaAdminClient(bootstrap_servers=site.broker.bootstrap)
    try:
        admin.delete_records({TopicPartition(*partition): 250})
    except KafkaError as error:
        worker.send_signal(signal.SIGCONT)
        pytest.skip(f"this broker does not remove records: {error!r}")
    finally:
        admin.close()
    time.sleep(0.5)
    worker.send_signal(signal.SIGCONT)
    wait_until(lambda: site.offsets()[partition.number] == 400)
    wait_until(lambda: b"events were removed before they were read" in site.log.read_bytes())
    assert site.metrics()["m"]["predictions"] + site.metrics()["m"]["predictions_repeated"] >= 250
