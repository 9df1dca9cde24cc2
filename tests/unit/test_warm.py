"""What a worker runs before its first event, so that nothing is compiled or loaded after it."""

from __future__ import annotations

from tocsin.consumers.model_settings import BiasSettings, ModelSettings, PerformanceSettings
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.series import Fields
from tocsin.consumers.warm import judged_records, shadow_records, warm_up_records
from tocsin.core.metric_row import decode


def test_the_events_of_the_warm_up_reach_the_detectors() -> None:
    first, second = warm_up_records()
    settings = ModelSettings()
    pipeline = PartitionPipeline(first.partition, lambda _: settings)
    outputs = [pipeline.process(records) for records in (first, second)]
    assert [output.dead_letters for output in outputs] == [[], []]
    (figures,) = pipeline.metrics().values()
    assert figures["labels_joined"] == 300
    assert first.data.flags.writeable != second.data.flags.writeable
    for records in shadow_records():
        assert pipeline.process(records).dead_letters == []
    assert {name: of["labels_joined"] for name, of in pipeline.metrics().items()} == {
        "default": 300, "default@shadow": 300,
    }  # fmt: skip


def test_the_judged_events_of_the_warm_up_reach_all_that_counts() -> None:
    performance = PerformanceSettings(calibration_pairs=300)
    settings = ModelSettings(performance=performance, bias=BiasSettings(segments=["s"]))
    pipeline = PartitionPipeline(judged_records(0).partition, lambda _: settings)
    for offset in range(2):
        assert pipeline.process(judged_records(offset)).dead_letters == []
        pipeline.dirty()
        series: dict[str, Fields] = {}
        while pipeline.is_behind:
            for model, fields in pipeline.series().items():
                series.setdefault(model, {}).update(fields)
    rows = {model: [decode(row) for row in of.values() if row] for model, of in series.items()}
    assert set(rows) == {"two", "three", "numbers"}
    told = {model: {name for row in of for name in row.metrics} for model, of in rows.items()}
    assert {"roc_auc", "gap:recall"} <= told["two"]
    assert "log_loss" in told["three"]
    assert "mae" in told["numbers"]
    assert all(any(row.estimated for row in of) for of in rows.values())
