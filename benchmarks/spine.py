"""What an event costs a worker, from the broker to the committed state, beside its rivals.

One worker process on the embedded broker; JSON events of 20 features (about 440 bytes) of 8 models, one
a record; ADWIN and Page-Hinkley on the score and on the errors; a commit every 200 ms. Rivals on the
same topic in the same run: Quix Streams, exactly once, with a plain counter, committing as often; and
kafka-python's own poll, which decodes nothing. All is processor time of the consuming process per event;
figures are medians of five rounds, ratios medians of the rounds' ratios.
"""

from __future__ import annotations

import statistics

from tocsin.embedded import EmbeddedBroker, EmbeddedRedis

from .common import Figures, child, fill

COUNT = 200_000
MODELS, MANY_MODELS = 8, 50
ROUNDS = 5


def main() -> None:
    figures = Figures("spine")
    rounds = []
    with EmbeddedRedis() as store:
        for k in range(ROUNDS):
            with EmbeddedBroker() as broker:  # its log is in memory: a fresh one each round
                rounds.append(one_round(broker.bootstrap, store.url, k))

    def median(name: str) -> float:
        return statistics.median(found[name] for found in rounds)

    def ratio(above: str, below: str) -> float:
        return statistics.median(found[above] / found[below] for found in rounds)

    figures.report("bytes_per_event", median("size"))
    figures.report("worker_cpu_us_per_event", median("worker"))
    figures.report("kafka_python_poll_cpu_us_per_event", median("poll"))
    figures.report("quix_exactly_once_cpu_us_per_event", median("quix"))
    figures.report("quix_over_worker", ratio("quix", "worker"), least=4.0)
    figures.report("worker_over_poll", ratio("worker", "poll"), most=0.6)
    figures.report("worker_all_features_cpu_us_per_event", median("all"))
    figures.report("worker_50_models_cpu_us_per_event", median("many"))
    figures.exit()


def one_round(bootstrap: str, url: str, number: int) -> dict[str, float]:
    """Return processor time per event, in microseconds, of each contestant."""
    topic, many = f"spine-{number}", f"spine-many-{number}"
    size = fill(bootstrap, topic, COUNT, MODELS)
    fill(bootstrap, many, COUNT, MANY_MODELS)
    worker = [bootstrap, url, topic, COUNT]
    return {
        "size": size,
        "worker": child("spine_worker", [*worker, "none"])["cpu_us"],
        "poll": child("spine_poll", [bootstrap, topic, COUNT])["cpu_us"],
        "quix": child("spine_quix", [bootstrap, topic, COUNT // 4])["cpu_us"],
        "all": child("spine_worker", [*worker, "all"])["cpu_us"],
        "many": child("spine_worker", [bootstrap, url, many, COUNT, "none"])["cpu_us"],
    }


if __name__ == "__main__":
    main()
