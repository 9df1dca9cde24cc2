"""What an event costs a worker, from the broker to the committed state, beside its rivals.

One worker process on the embedded broker; JSON events of 20 features (about 450 bytes) of 8 models, one
a record; ADWIN and Page-Hinkley on the score and on the errors; a commit every 200 ms. Rivals on the
same topic in the same run: Quix Streams, exactly once, with a plain counter, committing as often; and
kafka-python's own poll, which decodes nothing. All is processor time of the consuming process per event;
the median of three runs in turn.
"""

from __future__ import annotations

import statistics

from tocsin.embedded import EmbeddedBroker, EmbeddedRedis

from .common import Figures, child, fill

COUNT = 200_000
MODELS = 8
ROUNDS = 3


def main() -> None:
    figures = Figures("spine")
    costs: dict[str, list[float]] = {"worker": [], "poll": [], "quix": [], "worker_all": []}
    with EmbeddedRedis() as store, EmbeddedBroker() as broker:
        for k in range(ROUNDS):
            topic = f"spine-{k}"
            size = fill(broker.bootstrap, topic, COUNT, MODELS)
            if k == 0:
                figures.report("bytes_per_event", size)
            worker = [broker.bootstrap, store.url, topic, COUNT]
            costs["worker"].append(child("spine_worker", [*worker, "none"])["cpu_us"])
            costs["poll"].append(child("spine_poll", [broker.bootstrap, topic, COUNT])["cpu_us"])
            costs["quix"].append(
                child("spine_quix", [broker.bootstrap, topic, COUNT // 4])["cpu_us"]
            )
            costs["worker_all"].append(child("spine_worker", [*worker, "all"])["cpu_us"])
    median = {name: statistics.median(values) for name, values in costs.items()}
    figures.report("worker_cpu_us_per_event", median["worker"])
    figures.report("kafka_python_poll_cpu_us_per_event", median["poll"])
    figures.report("quix_exactly_once_cpu_us_per_event", median["quix"])
    figures.report("quix_over_worker", median["quix"] / median["worker"], least=4.0)
    figures.report("worker_over_poll", median["worker"] / median["poll"], most=0.6)
    figures.report("worker_all_features_cpu_us_per_event", median["worker_all"])
    figures.exit()


if __name__ == "__main__":
    main()
