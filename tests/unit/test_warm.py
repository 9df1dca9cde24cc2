"""What a worker runs before its first event, so that nothing is compiled or loaded after it."""

from __future__ import annotations

from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.warm import warm_up_records


def test_the_events_of_the_warm_up_reach_the_detectors() -> None:
    first, second = warm_up_records()
    settings = ModelSettings()
    pipeline = PartitionPipeline(first.partition, lambda _: settings)
    outputs = [pipeline.process(records) for records in (first, second)]
    assert [output.dead_letters for output in outputs] == [[], []]
    (figures,) = pipeline.metrics().values()
    assert figures["labels_joined"] == 300
    assert first.data.flags.writeable != second.data.flags.writeable
