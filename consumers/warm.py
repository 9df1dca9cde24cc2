"""Compiles and loads what the first events will need, before a worker joins its group.

Compilation takes seconds the first time on a machine; inside the loop they would count as silence.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from dataclasses import replace
from typing import Final

import numpy as np

from ..core.events import Tensor
from ..core.wire import Kind
from ..detectors import served_counts
from ..detectors.base import Observations
from ..detectors.e_process import ClientEvidence
from ..detectors.embedding import EmbeddingStreams
from ..detectors.leak_watch import BLOCK, LeakWatch
from ..detectors.logit_streams import LogitStreams
from ..detectors.stream_monitor import StreamMonitor
from .decode import Decoder
from .model_settings import BiasSettings, ModelSettings, PerformanceSettings
from .pipeline import PartitionPipeline
from .record_kernel import header_kinds, place_spans, record_spans
from .records import Partition, PlainRecord, Records
from .row_collector import RowCollector
from .time_kernel import times_of

_EVENT = (
    b'{"prediction_id":"%d","features":{"a":%d.5,"b":true,"c":"x"},"prediction":"1","label":"0",'
    b'"scores":{"0":0.25,"1":0.12345678901234567},"time":"2026-01-01T00:00:00Z"}'
)
_SHADOW = _EVENT[:-1] + b',"environment":"shadow"}'
_JUDGED = (
    b'{"prediction_id":"j%d","model":"%b","prediction":%b,"label":%b,"scores":{%b},'
    b'"segments":{"s":"%d"},"time":"2026-01-01T00:00:00Z"}'
)
_MALLOC: Final = {-3: 32 << 20, -1: 256 << 20}
"""M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc's `mallopt`, in bytes: what is as large is mapped by itself, what is free beyond is given back."""
_TIME = 1_767_225_600 * 10**9  # the same, in nanoseconds


def warm_up_records(event: bytes = _EVENT, begin: int = 0) -> list[Records]:
    """Return events twice, each in another kind of buffer; of the second ones the shape is known."""
    partition = Partition("warm", 0)
    made = []
    for offset in range(3):
        lines = b"\n".join(event % (i, i) for i in range(100 * offset, 100 * offset + 100))
        made.append(Records.of(partition, [PlainRecord(begin + offset, _TIME, b"k", lines)]))
        made[-1].kinds[:] = Kind.LINES
    return [made[0], Records.concat(made[1:])]


def shadow_records() -> list[Records]:
    """Return events of a shadow that come after the warm-up's, under the same ids, and once more: where blocks are cut is looked for then."""
    return [*warm_up_records(_SHADOW, begin=3), *warm_up_records(_SHADOW, begin=6)]


def judged_records(offset: int) -> Records:
    """Return predictions with labels: of two classes, of three and of numbers, enough for estimates of each."""
    rows: list[bytes] = []
    for i in range(400 * offset, 400 * offset + 400):
        kinds = [
            (b"two", b"1", b"%d" % (i % 2), b'"1":0.%d' % (1 + i % 9)),
            (b"three", b"1", b"%d" % (i % 3), b'"0":0.1,"1":0.7,"2":0.%d' % (1 + i % 3)),
            (b"numbers", b"%d.5" % (i % 50), b"%d.0" % (i % 7), b""),
        ]
        rows += [_JUDGED % (i, *kind, i // 2 % 2) for kind in kinds]
    record = PlainRecord(offset, _TIME, b"k", b"\n".join(rows))
    found = Records.of(Partition("warm", 0), [record])
    found.kinds[:] = Kind.LINES
    return found


def warm_leakage(records: Records) -> None:
    """Look events up among themselves, as if they were those of training."""
    for plain in Decoder().decode(records).predictions:
        embedding = np.random.default_rng(0).normal(size=(len(plain), 4))
        image = Tensor(dtype="uint8", shape=[8, 8], data=bytes(range(64)))
        batch = replace(plain, embedding=embedding, inputs=np.full(len(plain), image))
        collector = RowCollector(ModelSettings())
        collector.add(batch)
        codes = collector.rows().codes(batch)
        counts = np.zeros((1, served_counts.WIDTH + 1), np.int64)
        groups = np.zeros((len(batch), 1), np.int64)
        served_counts.count(counts[:, :-1], groups, np.ascontiguousarray(codes[:, 0]))


def keep_memory() -> None:
    """Let the C library keep what a batch has freed for the next one, where it is glibc.

    It gives back what is large, and taking it again costs a fault for each 4 KiB: a twentieth of a busy worker's time.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # musl has none
        for parameter, value in _MALLOC.items():
            library.mallopt(parameter, value)


def warm() -> None:
    """Run a few events through everything that is compiled."""
    keep_memory()
    settings = ModelSettings()
    pipeline = PartitionPipeline(Partition("warm", 0), lambda _: settings, decoder=Decoder())
    for records in [*warm_up_records(), *shadow_records()]:
        pipeline.process(records)
    pipeline.dirty()
    day = 86_400.0
    performance = PerformanceSettings(calibration_pairs=300, maturity=day)
    judged = ModelSettings(performance=performance, bias=BiasSettings(segments=["s"]))
    pipeline = PartitionPipeline(Partition("warm", 0), lambda _: judged, decoder=Decoder())
    for offset in range(2):  # estimates are made of what comes after they are known
        pipeline.process(judged_records(offset))
        pipeline.metrics()
        pipeline.dirty()
        while pipeline.is_behind:
            pipeline.series()
    for records in warm_up_records():
        warm_leakage(records)
    vectors, place = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60)
    EmbeddingStreams(50).update(vectors, None, place, place)
    LogitStreams(50).update(vectors, place, place)
    StreamMonitor().update(Observations.of(np.zeros((4, 2))))
    leaks, place = LeakWatch(), np.arange(BLOCK)
    leaks.see(["x"])
    values, labels = np.stack([place]).astype(np.float32), (place % 2).astype(np.float64)
    leaks.add(values, labels, place, place, place, is_regression=False)
    spans = np.empty((0, 8), np.int64)
    for buffer in (bytes(8), bytearray(8)):  # what was decompressed, and what came from a socket
        data = np.frombuffer(buffer, np.uint8)
        record_spans(data, 0, 8, 0, spans)
        place_spans(spans, 0, 0, 0, -1, 1, 1)
        header_kinds(data, spans)
        times_of(data, place[:0], place[:0])
    ClientEvidence(0.01, 1e6).update(np.zeros(0, np.uint8), np.zeros(0, np.int64))
    # What is loaded by now stays; the collector need not go through it again and again, which took a
    # tenth of a busy worker's time.
    gc.collect()
    gc.freeze()
