"""The reference that a training loop writes: as the command would of the events, and without a trace in the training."""

from __future__ import annotations

import doctest
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from tocsin import Publisher
from tocsin.cli.commands import app
from tocsin.consumers import (
    trained_estimates,
    trained_model,
    trained_performance,
    trained_vectors,
    training_reference,
    training_rows,
)
from tocsin.core.errors import ConfigError
from tocsin.producers import watch
from tocsin.training import (
    BaseMonitor,
    Monitors,
    ReferenceMonitor,
    WatchedLoader,
    weights_sha256,
)

pytestmark = pytest.mark.xdist_group("training reference")

NAMES = ["age", "rate", "size"]
CLASSES = ["cat", "cow", "dog"]


def rows(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=generator)
    noise = 0.5 * torch.randn(count, 3, generator=generator)
    return x, (x + noise).argmax(1)


def network(outputs: int = 3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, outputs)
        )


def batches(seed: int = 0, count: int = 2000) -> list[tuple[torch.Tensor, ...]]:
    x, y = rows(seed, count)
    return list(zip(x.split(250), y.split(250), strict=True))


def begun(model: nn.Module, held_out: Any = None, **options: Any) -> ReferenceMonitor:
    monitor = ReferenceMonitor(held_out, **options)
    monitor.initialize(model, [], nn.CrossEntropyLoss())
    return monitor


def segments(batch: Any) -> list[dict[str, str]]:
    return [{"sign": "plus" if plus else "minus"} for plus in (batch[0][:, 0] > 0).tolist()]


OPTIONS: dict[str, Any] = {
    "features": NAMES, "classes": CLASSES, "segments": segments, "embedding": "3", "version": "7",
}  # fmt: skip


def published(model: nn.Module, data: Iterable[tuple[torch.Tensor, ...]]) -> Iterator[bytes]:
    """Yield the events that a server sends, with their labels."""
    events = Publisher("127.0.0.1:9", model="m", version="7")
    events._start = lambda: None  # type: ignore[method-assign]
    watched = watch(model, events, embedding="3", classes=CLASSES)
    for number, (x, y) in enumerate(data):
        features = [dict(zip(NAMES, row, strict=True)) for row in x.tolist()]
        with (
            torch.inference_mode(),
            watched.request(
                ids=[f"{number}-{k}" for k in range(len(x))],
                features=features,
                segments=segments([x]),
            ),
        ):
            model(x)
        lines = list(events._encoded(list(events._queues["m"])))
        events._queues["m"].clear()
        for line, label in zip(lines, y.tolist(), strict=True):
            event = msgspec.json.decode(line)
            yield msgspec.json.encode(event | {"label": CLASSES[label]})
    watched.close()


def test_the_file_is_the_one_that_the_command_writes_of_what_the_server_would_send(
    tmp_path: Path,
) -> None:
    model = network().eval()
    lines, of_events, of_loop = (tmp_path / name for name in ("rows.jsonl", "a.npz", "b.npz"))
    lines.write_bytes(b"\n".join(published(model, batches())))
    arguments = ["reference", str(lines), str(of_events), "--without-fingerprints"]
    assert app(arguments, result_action="return_value") == 0
    begun(model, batches(), **OPTIONS).reference(of_loop)
    one, other = training_reference.read(of_events), training_reference.read(of_loop)
    assert one.samples.keys() == other.samples.keys()
    assert all((one.samples[name] == other.samples[name]).all() for name in one.samples)
    assert (one.population, one.missing, one.names) == (
        other.population,
        other.missing,
        other.names,
    )
    assert one.checksum == other.checksum
    own = {trained_model.PART, training_rows.LOSSES}  # the hash of weights; losses of training rows
    assert one.parts.keys() - own == other.parts.keys() - own
    for name in one.parts.keys() - own:
        assert one.parts[name] == other.parts[name], name
    found = trained_model.read(of_loop)
    assert found is not None
    assert (found.version, found.weights, found.rows) == ("7", weights_sha256(model), 2000)
    of_command = trained_model.read(of_events)
    assert of_command is not None
    assert (of_command.version, of_command.weights) == ("7", None)


def test_everything_is_in_the_file_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = network().eval(), tmp_path / "m.npz"
    written = begun(model, **OPTIONS).reference(file, batches(), trained_on=batches(1, 500))
    vectors = trained_vectors.read(file)
    assert vectors is not None
    assert vectors.scores is not None
    assert {kind: of.width for kind, of in vectors.streams.items()} == {"embedding": 8, "logits": 3}
    assert trained_estimates.read(file) is not None
    x, y = rows(0, 2000)
    with torch.inference_mode():
        hits = (model(x).argmax(1) == y).double()
    performance = trained_performance.read(file)
    plus = x[:, 0] > 0
    assert performance[""]["accuracy"][0] == pytest.approx(float(hits.mean()))
    assert performance["sign=plus"]["accuracy"][0] == pytest.approx(float(hits[plus].mean()))
    assert performance["sign=minus"]["accuracy"][0] == pytest.approx(float(hits[~plus].mean()))
    known = training_rows.read(file)
    assert known is not None
    assert set(known.laws) == {"exact", "near", "embedding"}
    assert app(["reference", str(file)], result_action="return_value") == 0
    shown = capsys.readouterr().out
    assert shown.strip() in str(written)
    for said in (
        f"version 7, weights {weights_sha256(model)}", "embedding of 8 numbers, version 7", "logits of 3 numbers",
        "thresholds of adversarial inputs", "estimates of performance", "fingerprints of rows", "accuracy 0.",
        "performance by group: sign=", "losses of 500 rows",
    ):  # fmt: skip
        assert said in shown


class Drawn(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Rows with noise of every generator that there is."""

    def __init__(self, seed: int, count: int) -> None:
        self._x, self._y = rows(seed, count)

    def __len__(self) -> int:
        return len(self._y)

    def __getitem__(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = random.random() + float(np.random.rand()) + torch.randn(3)  # noqa: NPY002 - as data sets do
        return self._x[k] + 0.01 * noise, self._y[k]


class Counting(nn.Module):
    """Changes a buffer of its own in evaluation as well, and one that it puts a new tensor in place of."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()
        self.register_buffer("passes", torch.zeros(()))
        self.register_buffer("latest", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(x)
        self.passes += 1  # type: ignore[operator]
        self.latest = found.detach().mean(0) + torch.rand(3)
        return found


def trained(folder: Path, *, writes: bool, fails: bool = False) -> tuple[list[Any], nn.Module]:
    """Train, and write references on the way or not; return all that training goes on from."""
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002 - the one that data sets draw from
    model, own = Counting(), torch.Generator().manual_seed(5)
    model.body[1].eval()  # a layer that is frozen
    train = DataLoader(Drawn(0, 200), 40, shuffle=True, generator=own)
    held_out = DataLoader(Drawn(1, 1600), 200, shuffle=True, generator=own)
    criterion, optimizer = nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), 0.01)
    monitor = ReferenceMonitor(held_out, embedding="body.3")
    with Monitors([monitor]) as monitors:
        monitors.initialize(model, train, criterion)
        for epoch in range(2):
            for x, y in train:
                optimizer.zero_grad()
                outputs = model(x)
                criterion(outputs, y).backward()
                optimizer.step()
                monitors.on_batch_end(outputs, (x, y))
            monitors.on_epoch_end(epoch)
            if writes:
                monitors.reference(folder / "m.npz", trained_on=train)
            if fails:
                with pytest.raises(ConfigError, match="features: found inputs"):
                    monitors.reference(folder / "m.npz", features=["a"])
    states: list[Any] = [tensor.clone() for tensor in model.state_dict().values()]
    states += [p.grad for p in model.parameters()] + [torch.get_rng_state(), own.get_state()]
    states += [torch.tensor([random.random(), np.random.rand()])]  # noqa: NPY002 - as above
    return states, model


@pytest.mark.parametrize("how", [{"writes": True}, {"writes": True, "fails": True}])
def test_training_goes_on_bit_for_bit_as_without(how: dict[str, bool], tmp_path: Path) -> None:
    expected, _ = trained(tmp_path, writes=False)
    found, model = trained(tmp_path, **how)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    modes = {name: module.training for name, module in model.named_modules()}
    assert modes.pop("body.1") is False
    assert all(modes.values())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(not buffer.is_inference() for buffer in model.buffers())


def test_monitors_write_it_wherever_the_monitor_is_or_if_there_is_none(tmp_path: Path) -> None:
    model = network().eval()
    held_out, written = batches(), []
    for number, of in enumerate(
        (
            Monitors([ReferenceMonitor(held_out, **OPTIONS)]),
            Monitors([BaseMonitor(), Monitors([ReferenceMonitor(held_out, **OPTIONS)])]),
            Monitors([BaseMonitor()]),
        )
    ):
        with of:
            of.initialize(model, [], nn.CrossEntropyLoss())
        file = tmp_path / f"{number}.npz"
        if number < 2:
            of.reference(file)
        else:
            of.reference(file, held_out, **OPTIONS)
        written.append(training_reference.read(file))
    assert len({of.checksum for of in written}) == 1
    assert written[0].parts == written[1].parts == written[2].parts


def two() -> list[tuple[torch.Tensor, ...]]:
    return [(x, (y == 1).float()) for x, y in batches()]


@pytest.mark.parametrize(
    ("criterion", "gives", "has_logits"),
    [
        (nn.BCEWithLogitsLoss(), lambda z: z, True),
        (nn.BCEWithLogitsLoss(), lambda z: z.squeeze(1), True),
        (nn.BCELoss(), torch.sigmoid, False),
    ],
)
def test_one_output_of_binary_cross_entropy_is_about_two_classes(
    criterion: nn.Module, gives: Any, has_logits: bool, tmp_path: Path
) -> None:
    model, file = network(1).eval(), tmp_path / "m.npz"
    monitor = ReferenceMonitor(two(), forward=lambda of, batch: gives(of(batch[0])))
    monitor.initialize(model, [], criterion)
    monitor.reference(file)
    found = training_reference.read(file)
    x, _ = rows(0, 2000)
    with torch.inference_mode():
        scores = model(x)[:, 0].sigmoid().double().numpy()
    assert np.allclose(np.sort(scores), found.samples["score"], atol=1e-6)
    assert set(found.samples["label"]) == {0.0, 1.0}
    assert (trained_vectors.read(file) is not None) == has_logits


@pytest.mark.parametrize("shape", ["column", "flat"])
def test_numbers_are_a_regression(shape: str, tmp_path: Path) -> None:
    model, file = network(1).eval(), tmp_path / "m.npz"
    data = [(x, x[:, :1].clone() if shape == "column" else x[:, 0].clone()) for x, _ in batches()]
    monitor = ReferenceMonitor(data, features=NAMES)
    monitor.initialize(model, [], nn.MSELoss())
    monitor.reference(file)
    found = training_reference.read(file)
    assert found.is_regression is True
    x, _ = rows(0, 2000)
    assert np.allclose(found.samples["label"], np.sort(x[:, 0].double().numpy()))
    with torch.inference_mode():
        error = (model(x)[:, 0] - x[:, 0]).abs().double().numpy()
    assert trained_performance.read(file)[""]["mae"][0] == pytest.approx(error.mean(), rel=1e-5)
    given = trained_estimates.read(file)
    assert given is not None
    assert given.is_regression


class Named(nn.Module):
    """As models of Hugging Face are: several inputs by name, logits in what they return."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, *, inputs: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.body(inputs * mask)}


def test_batches_may_be_dictionaries_and_outputs_too(tmp_path: Path) -> None:
    data = [{"inputs": x, "mask": torch.ones_like(x), "labels": y} for x, y in batches()]
    model, file = Named().eval(), tmp_path / "m.npz"
    begun(model, data).reference(file)
    begun(model.body, batches()).reference(tmp_path / "plain.npz")
    plain = training_reference.read(tmp_path / "plain.npz")
    assert training_reference.read(file).checksum == plain.checksum


def test_held_out_batches_may_be_those_of_a_watched_loader_and_named_tuples(tmp_path: Path) -> None:
    class Pair(NamedTuple):
        x: torch.Tensor
        y: torch.Tensor

    model = network().eval()
    held_out = DataLoader(DATA, 250)
    of_each = (
        held_out,
        WatchedLoader(held_out),
        [Pair(*of) for of in held_out],
        WatchedLoader(DataLoader(DATA, 250, collate_fn=lambda of: Pair(*default_collate(of)))),
    )
    checksums = set()
    for number, data in enumerate(of_each):
        file = tmp_path / f"{number}.npz"
        begun(model, data, features=NAMES).reference(file)
        checksums.add(training_reference.read(file).checksum)
    assert len(checksums) == 1


def test_features_may_be_what_the_server_says_of_a_batch(tmp_path: Path) -> None:
    def features(batch: Any) -> list[dict[str, Any]]:
        return [
            {"age": 50 + 10 * age, "kind": "a" if age > 0 else "b", "none": float("nan")}
            for age in batch[0][:, 0].tolist()
        ]

    file = tmp_path / "m.npz"
    begun(network().eval(), batches(), features=features).reference(file)
    found = training_reference.read(file)
    assert found.samples["feature:age"].mean() == pytest.approx(50, abs=1)
    assert set(found.names["category:kind"].values()) == {"a", "b"}
    assert "feature:none" not in found.samples


def test_rows_whose_outputs_are_not_finite_are_left_out_and_counted(tmp_path: Path) -> None:
    data = batches()
    data[0][0][:3] = float("nan")
    written = begun(network().eval(), data).reference(tmp_path / "m.npz")
    assert "3 rows are left out: what the model says of them is not finite" in str(written)
    found = trained_model.read(tmp_path / "m.npz")
    assert found is not None
    assert found.rows == 1997


def test_rows_without_a_label_and_labels_that_are_none_give_no_error(tmp_path: Path) -> None:
    data = [(x, torch.where(x[:, 0] > 0, y, -100)) for x, y in batches(0, 4000)]
    written = begun(network().eval(), data).reference(tmp_path / "m.npz")
    found = training_reference.read(tmp_path / "m.npz")
    assert 0.4 < found.missing["error"] < 0.6
    assert "no errors" not in str(written)
    unlabelled = [(x,) for x, _ in batches()]
    written = begun(network().eval(), unlabelled).reference(tmp_path / "none.npz")
    assert "no errors: they follow from labels and predictions" in str(written)
    assert "no estimates of performance without labels" in str(written)


DATA = TensorDataset(*rows(0, 2000))


@pytest.mark.parametrize(
    ("held_out", "options", "message"),
    [
        (None, {}, "found no held-out data; give reference"),
        ([], {}, "the held-out data gave no rows"),
        (batches(0, 999), {}, "needs 1000 values of some stream or more; the 999 rows have fewer"),
        (DataLoader(DATA, 10), {}, "found the data of training as held-out data"),
        (TensorDataset(*rows(1, 2000)), {}, r"found a TensorDataset .* give DataLoader\(data"),
        (rows(1, 2000)[0], {}, "found a Tensor as held-out data"),
        (batches(), {"embedding": "9"}, "embedding: found no layer '9', expected one of 0, 1, 2"),
        (batches(), {"classes": ["a"]}, "classes: found 1 names, expected 3"),
        (batches(), {"features": ["a"]}, r"found inputs of shape \(250, 3\), expected \(250, 1\)"),
        (batches(), {"features": lambda _: [{}]}, "features: found 1 rows, expected 250"),
        (batches(), {"segments": lambda _: [{}]}, "segments: found 1 rows, expected 250"),
        (batches(), {"forward": lambda *_: "x"}, "found no tensor of logits in outputs of type str"),
        (
            batches(),
            {"forward": lambda *_: torch.zeros(250, 3, 8, 8)},
            r"found outputs of shape \(250, 3, 8, 8\), expected \(n, classes\) logits",
        ),
        ([{"name": ["x"]}], {}, "found no inputs in a batch of type dict"),
        ([(x, x) for x, _ in batches()], {}, r"found targets of shape \(250, 3\), expected a class"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused(
    held_out: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    monitor = ReferenceMonitor(held_out, **options)
    monitor.initialize(network(), DataLoader(DATA, 20), nn.CrossEntropyLoss())
    with pytest.raises(ConfigError, match=message):
        monitor.reference(tmp_path / "m.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_monitor_without_a_model_and_a_bad_name_are_refused_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found no model; expected initialize"):
        ReferenceMonitor(batches()).reference(tmp_path / "m.npz")
    with pytest.raises(ConfigError, match=r"name must end in \.npz"):
        begun(network(), batches()).reference(tmp_path / "m.zip")
    with pytest.raises(ConfigError, match="No such file or directory"):
        begun(network(), batches()).reference(tmp_path / "no" / "m.npz")


def test_too_few_rows_are_said_before_the_training(caplog: pytest.LogCaptureFixture) -> None:
    rows = TensorDataset(torch.zeros(999, 2), torch.zeros(999).long())
    ReferenceMonitor(DataLoader(rows, batch_size=None)).initialize(
        network(), [], None
    )  # batches, perhaps
    assert "held-out" not in caplog.text
    ReferenceMonitor(DataLoader(rows, 100)).initialize(network(), [], None)
    assert "found 999 rows of held-out data; expected 1000 or more" in caplog.text


def test_the_examples_are_right() -> None:
    assert doctest.testmod(sys.modules[ReferenceMonitor.__module__]).failed == 0
    assert doctest.testmod(sys.modules[weights_sha256.__module__]).failed == 0


def test_the_hash_of_weights_is_theirs_alone() -> None:
    model = network()
    expected = weights_sha256(model)
    assert len(expected) == 64
    assert weights_sha256(network()) == expected
    assert weights_sha256(nn.DataParallel(network())) == expected
    assert weights_sha256(torch.compile(network(), backend="eager")) == expected  # type: ignore[arg-type]
    moved = network()
    with torch.no_grad():
        moved[0].weight.set_(
            moved[0].weight.t().contiguous().t()
        )  # other strides, the same numbers
    assert weights_sha256(moved) == expected
    changed = network()
    with torch.no_grad():
        changed[0].bias[0] += 1e-6
    others = [
        changed,
        network().double(),
        network(4),
        nn.Sequential(network()),
        network().bfloat16(),
    ]
    hashes = {weights_sha256(other) for other in others}
    assert len(hashes | {expected}) == len(others) + 1
    sparse = nn.Module()
    sparse.register_buffer("rare", torch.eye(2).to_sparse())
    with pytest.raises(ConfigError, match="rare of Module is a Tensor whose bytes are no weights"):
        weights_sha256(sparse)
