"""Runs one worker over a topic and prints its processor time per event: BOOTSTRAP REDIS TOPIC COUNT FEATURES."""

from __future__ import annotations

import json
import sys

from tocsin.consumers.dead_letters import KafkaDeadLetters
from tocsin.consumers.kafka_source import KafkaSource
from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.redis_store import RedisStore, connect
from tocsin.consumers.settings import KafkaSettings, RedisSettings, Settings
from tocsin.consumers.warm import warm
from tocsin.consumers.worker import Worker
from tocsin.core.keys import Keys
from tocsin.embedded.broker import CLIENT_SETTINGS

from .common import Cpu


def main() -> None:
    bootstrap, url, topic, count, features = sys.argv[1:]
    settings = Settings(
        kafka=KafkaSettings(bootstrap=bootstrap, topic=topic, group=f"{topic}-{features}"),
        redis=RedisSettings(url=url),
        tenant=f"{topic}-{features}",
        defaults=ModelSettings(features=features),  # type: ignore[arg-type]
    )
    warm()
    source = KafkaSource(settings, CLIENT_SETTINGS)
    store = RedisStore(connect(url), Keys(settings.tenant))
    worker = Worker(settings, source, store, KafkaDeadLetters(settings.kafka))
    while not worker._owned:
        worker.step()
    cpu = Cpu()
    while worker.records < int(count) or any(owned.is_dirty for owned in worker._owned.values()):
        worker.step()
    print(json.dumps({"cpu_us": cpu.microseconds() / int(count), "refused": worker.refused}))
    worker._leave()


if __name__ == "__main__":
    main()
