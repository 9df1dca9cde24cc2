"""What monitors have seen, shown: plots, scalars for TensorBoard, the progress bar."""

from __future__ import annotations

import io
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from tocsin.core.verdict import Verdict
from tocsin.training import (
    ActivationMonitor,
    BaseMonitor,
    BiasMonitor,
    CalibrationMonitor,
    FindingsMonitor,
    GradientMonitor,
    LossMonitor,
    Monitor,
    Monitors,
    PerformanceMonitor,
    ReferenceMonitor,
    TrainingAlerts,
)
from tocsin.training.curve import Curve
from tocsin.training.finding import detector_of
from tocsin.training.loop import Place
from tocsin.training.progress import ProgressBar
from tocsin.training.series import headline, state_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own imports
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter


PAGE = (Path(__file__).parents[2] / "docs/training_monitors.md").read_text()


def train(
    monitor: BaseMonitor, *, nan_at: int = -1, epochs: int = 2, dead: bool = False
) -> list[torch.Tensor]:
    """Train on twenty batches an epoch; return the weights."""
    torch.manual_seed(0)
    x = torch.randn(640, 8)
    y = (x[:, 0] > 0).long()
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    if dead:
        model[0].bias.data[0] = -1000.0
    criterion, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), 0.1)
    monitor.initialize(model, [None] * 20, criterion)
    for epoch in range(epochs):
        for batch, rows in enumerate(torch.randperm(640).split(32)):
            inputs = x[rows] * (float("nan") if epoch * 20 + batch == nan_at else 1.0)
            outputs = model(inputs)
            loss = criterion(outputs, y[rows])
            optimizer.zero_grad()
            if epoch * 20 + batch != nan_at:
                loss.backward()
                optimizer.step()
            monitor.on_batch_end(outputs, (inputs, y[rows]))
        monitor.on_epoch_end(epoch)
    monitor.close()
    return [p.detach().clone() for p in model.parameters()]


def of() -> list[BaseMonitor]:
    return [LossMonitor(), GradientMonitor(), PerformanceMonitor(), ActivationMonitor(every=1)]


def lines(axes: Any) -> dict[str, Any]:
    found = {line.get_label(): line for line in axes.lines}
    return {name: line for name, line in found.items() if not name.startswith("_")}


def test_scalars_are_in_the_file_that_tensorboard_reads(tmp_path: Path) -> None:
    monitors = of()
    with SummaryWriter(str(tmp_path)) as writer:
        train(Monitors(monitors, alerts=TrainingAlerts(show=False), writer=writer))
    read = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0, "scalars": 0})
    read.Reload()
    tags = set(read.Tags()["scalars"])
    assert tags >= {
        "loss/batch",
        "gradients/norm",
        "performance/accuracy",
        "activations/dead:1",
        "gradients/update:0",
    }
    loss, _, performance, _ = monitors
    assert isinstance(loss, LossMonitor)
    assert isinstance(performance, PerformanceMonitor)
    written = [(e.step, e.value) for e in read.Scalars("loss/batch")]
    assert [step for step, _ in written] == list(range(40))
    assert [value for _, value in written] == pytest.approx([v for _, v in loss.history], rel=1e-6)
    accuracy = [(e.step, e.value) for e in read.Scalars("performance/accuracy")]
    assert [step for step, _ in accuracy] == [20, 40]
    said = [row["accuracy"] for row in performance.history]
    assert [value for _, value in accuracy] == pytest.approx(said, rel=1e-6)


def test_a_writer_that_fails_is_set_aside_and_one_that_is_none_refused() -> None:
    class Full:
        def add_scalar(self, tag: str, value: float, step: int) -> None:
            raise OSError(28, "No space left on device")

    alerts = TrainingAlerts(show=False)
    monitors = Monitors([LossMonitor()], alerts=alerts, writer=Full())
    train(monitors)
    assert list(monitors.set_aside) == ["ScalarMonitor 1"]
    assert alerts.alerts[0].kind == "pipeline"
    with pytest.raises(
        TypeError, match=r"found a writer of type str, expected one with add_scalar"
    ):
        Monitors([LossMonitor()], writer="runs")  # type: ignore[arg-type]


def test_of_a_history_that_is_thinned_each_batch_is_written_once() -> None:
    class Thins(Monitor):
        def __init__(self) -> None:
            self.history: list[tuple[int, float]] = []

        def on_batch_end(self, outputs: Any, batch: Any) -> None:
            self.history.append((self.history[-1][0] + 1 if self.history else 0, 1.0))
            if len(self.history) == 9:
                del self.history[1::2]

    class Takes:
        def __init__(self) -> None:
            self.seen: list[tuple[str, int]] = []

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            self.seen.append((tag, step))

    writer = Takes()
    train(Monitors([Thins(), Thins()], writer=writer), epochs=1)
    for tag in ("thins/value", "thins_2/value"):
        assert [step for name, step in writer.seen if name == tag] == list(range(20))


def test_what_shows_changes_nothing(tmp_path: Path) -> None:
    plain = train(Monitor())
    with SummaryWriter(str(tmp_path)) as writer:
        monitors = Monitors(of(), alerts=TrainingAlerts(show=False), writer=writer, progress=True)
        shown = train(monitors)
    assert monitors.set_aside == {}
    assert all(torch.equal(a, b) for a, b in zip(plain, shown, strict=True))


def test_each_monitor_has_its_plot_with_what_it_claims() -> None:
    monitors = of()
    together = Monitors(monitors, alerts=TrainingAlerts(show=False))
    train(together, nan_at=25)
    loss, gradients, performance, activations = monitors
    (axes,) = loss.plot().axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("batch", "loss")
    line = lines(axes)["batch"]
    assert isinstance(loss, LossMonitor)
    y = [value for _, value in loss.history]
    assert np.array_equal(line.get_ydata(), y, equal_nan=True)
    assert [text.get_text() for text in axes.texts] == ["non-finite"]
    assert axes.texts[0].xy[0] == 25
    axes, by_layer, updates = gradients.plot().axes
    assert set(lines(by_layer)) == {"norm:0", "norm:2"}
    assert updates.get_ylabel() == "update by weights"
    assert [text.get_text() for text in axes.texts] == ["non-finite"]
    figure = performance.plot()
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "accuracy",
        "F1, mean over classes",
        "loss",
    ]
    assert list(lines(figure.axes[0])["accuracy"].get_xdata()) == [0.0, 1.0]
    said = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert said == {"no finite value"}, "others claimed"
    assert set(lines(activations.plot().axes[0])) == {"dead:1"}
    assert len(together.plot().axes) == 9


def test_claims_of_epochs_are_marked_at_their_epoch_and_lines_beyond_eight_are_grey() -> None:
    monitor = ActivationMonitor(every=1, dead=0.05)
    alerts = monitor.alerts = TrainingAlerts(show=False)
    train(monitor, dead=True)
    axes = monitor.plot().axes[0]
    marks = [text.xy[0] for text in axes.texts]
    assert marks == [c.place.epoch for c in alerts.claims]
    assert marks
    monitor.history = [{"epoch": 0.0, **{f"dead:{k}": k / 20 for k in range(12)}}]
    axes = monitor.plot().axes[0]
    assert [t.get_text() for t in axes.get_legend().texts] == [f"dead:{k}" for k in range(4, 12)]
    assert len(axes.lines) == 12 + len(alerts.claims)
    named = {str(lines(axes)[f"dead:{k}"].get_color()) for k in range(4, 12)}
    assert len(named) == 8
    assert "C7" not in named, "grey is for lines without a name"


def test_what_changes_by_factors_has_a_logarithmic_axis_if_it_can() -> None:
    monitor = LossMonitor()
    for values, scale in (([1.0, 30.0], "log"), ([1.0, 15.0], "linear"), ([-1.0, 99.0], "linear")):
        monitor.history = Curve()
        monitor.history.extend(enumerate(values))
        assert monitor.plot().axes[0].get_yscale() == scale


def test_no_spike_is_lost_in_the_plot_of_a_long_training(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    monitor = LossMonitor()
    values = rng.normal(1.0, 0.1, 30_000)
    values[12_345], values[777] = 9.0, np.inf
    monitor.history = Curve(50_000)
    monitor.history.extend(enumerate(values.tolist()))
    figure = monitor.plot()
    raw, trend = figure.axes[0].lines
    assert len(raw.get_xdata()) <= 2000
    assert raw.get_ydata().max() == 9.0
    assert raw.get_xdata()[raw.get_ydata().argmax()] == 12_345
    assert trend.get_ydata() == pytest.approx(np.ones(60), abs=0.05)
    figure.savefig(tmp_path / "loss.svg")
    assert (tmp_path / "loss.svg").stat().st_size > 1000


def claim(alerts: TrainingAlerts, place: Place, detector: str, subject: str, change: str) -> None:
    verdict = Verdict(detector=detector, subject=subject, offset=place.step, row=0, statistic=9.0, threshold=8.0, change=change)  # fmt: skip
    alerts.claim(verdict, f"{subject}: {change}", place)


def test_changes_at_one_place_are_one_text_above_the_curves() -> None:
    monitor = LossMonitor(alerts=TrainingAlerts(show=False))
    assert monitor.alerts is not None
    monitor.history.extend((k, 1.0 + k) for k in range(100))
    for step, change in ((50, "spike"), (51, "divergence"), (60, "plateau"), (99, "divergence")):
        claim(monitor.alerts, Place(step, 0, step), "loss_curve", "loss", change)
    (axes,) = monitor.plot().axes
    said = [(text.get_text(), text.xy[0]) for text in axes.texts]
    assert said == [("spike; divergence", 50), ("plateau", 60), ("divergence", 99)]
    rows = [text.xyann[1] for text in axes.texts]
    assert rows[0] < rows[1], "it would begin in the first one"
    assert rows[2] == rows[0]
    assert all(text.get_position()[1] > 0 and text.xy[1] == 1.0 for text in axes.texts)
    assert [text.get_horizontalalignment() for text in axes.texts] == ["left", "left", "right"]


def test_many_findings_of_an_epoch_are_in_rows_that_break_none() -> None:
    monitor = FindingsMonitor(alerts=TrainingAlerts(show=False))
    assert monitor.alerts is not None
    kinds = ["non-finite input", "input out of range", "same input, other label", "duplicate"]
    monitor.history = [{"epoch": 0.0, **dict.fromkeys(kinds, 1.0)}]
    for kind in kinds:
        claim(monitor.alerts, Place(9, 0, 9), detector_of(kind), f"samples:{kind}", kind)
    (axes,) = monitor.plot().axes
    rows = sorted((-text.xyann[1], text.get_text()) for text in axes.texts)
    assert "; ".join(said.removesuffix(";") for _, said in rows) == "; ".join(kinds)
    assert len(rows) == 2


def test_a_claim_is_in_the_plot_of_its_subject() -> None:
    alerts = TrainingAlerts(show=False)
    performance, gradients = PerformanceMonitor(alerts=alerts), GradientMonitor(alerts=alerts)
    performance.history = [
        {"epoch": k, "loss": 1.0, "accuracy": 0.5, "val_accuracy": 0.6} for k in (0.0, 1.0)
    ]
    gradients.history.extend([(0, 1.0), (1, 2.0)])
    gradients.by_layer = {"norm:0": Curve(), "update:0": Curve()}
    for curve in gradients.by_layer.values():
        curve.append((0, 1.0))
    claim(alerts, Place(9, 1, 4), "epoch_accuracy", "val_accuracy", "rate down")
    for change in ("update", "exploding", "dead"):
        claim(alerts, Place(1, 0, 1), "gradient_flow", "gradient:0", change)

    def said(monitor: BaseMonitor) -> list[list[str]]:
        return [[text.get_text() for text in axes.texts] for axes in monitor.plot().axes]

    assert said(performance) == [["rate down"], []]
    bias = BiasMonitor(alerts=alerts)
    bias.history = [{"epoch": 0.0, "gap:accuracy:a/b|c": 0.1, "gap:loss:a/b|c": 0.2}]
    claim(alerts, Place(9, 1, 4), "group_gaps", "gap:loss:a/b|c", "gap up")
    assert said(bias) == [[], ["gap up"]]
    assert said(gradients) == [["exploding"], ["dead"], ["update"]]


def test_where_nothing_is_finite_the_plot_goes_on_and_is_grey() -> None:
    loss, calibration = LossMonitor(), CalibrationMonitor()
    loss.history.extend((k, 1.0 if k < 30 else np.nan) for k in range(100))
    calibration.history = [{"epoch": float(k)} for k in range(4)]
    calibration.history[1]["calibration_error"] = 0.1
    for monitor, (begin, end) in ((loss, (29.5, 99.5)), (calibration, (1.5, 3.5))):
        (axes,) = monitor.plot().axes
        (grey,) = [found for found in axes.collections if len(found.get_paths())]
        (path,) = grey.get_paths()
        assert path.get_extents().intervalx.tolist() == [begin, end]
        assert axes.get_xlim()[1] >= end - 0.5
        assert [text.get_text() for text in axes.texts] == ["no finite value"]
    together = Monitors([loss, calibration, GradientMonitor()]).plot()
    assert [axes.get_title(loc="left") for axes in together.axes] == [
        "LossMonitor",
        "CalibrationMonitor",
    ]


def test_a_norm_that_is_not_finite_is_told_as_such() -> None:
    gradients = GradientMonitor(alerts=TrainingAlerts(show=False))
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    gradients.initialize(model, [], None)
    for value in (1.0, float("nan")):
        optimizer.zero_grad()
        outputs = model(torch.full((4, 2), value))
        outputs.mean().backward()
        optimizer.step()
        gradients.on_batch_end(outputs, [])
    gradients.close()
    assert headline(gradients) == "gradients nan"
    assert [step for step, _ in gradients.history] == [0, 1]


def test_one_point_has_an_axis_about_it_and_nothing_known_no_plot() -> None:
    monitor = ActivationMonitor()
    monitor.history = [{"epoch": 0.0, "dead:1": 0.0, "shift:1": float("nan")}]
    (axes,) = monitor.plot().axes
    assert axes.get_xlim() == (-0.5, 0.5)
    assert axes.get_ylim()[1] > 1.0


def test_a_line_without_a_trend_is_drawn_in_full() -> None:
    monitor = LossMonitor()
    monitor.history.extend((k, 1.0) for k in range(50))
    (line,) = monitor.plot().axes[0].lines
    assert line.get_alpha() is None


def test_many_plots_are_in_two_columns() -> None:
    monitors = of()
    train(Monitors(monitors, alerts=TrainingAlerts(show=False)))
    figure = Monitors(monitors).plot()
    assert figure.get_size_inches().tolist() == [14.0, 2.4 * 5]
    assert len(figure.axes) == 9
    places = [axes.get_subplotspec().colspan.start for axes in figure.axes]
    assert sorted(places) == [0] * 5 + [1] * 4


def test_without_anything_to_plot_the_figure_says_so_and_without_matplotlib_the_error_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silent = FindingsMonitor()
    silent.history = [{"epoch": 0.0}]
    for monitor, said in (
        (LossMonitor(), "nothing to show yet"),
        (Monitors(of()), "nothing to show yet"),
        (ReferenceMonitor(), "nothing to show: there is no history"),
        (silent, "nothing was found"),
    ):
        figure = monitor.plot()
        assert [text.get_text() for text in figure.texts] == [said]
        assert figure.axes == []
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'tocsin\[plot\]'"):
        LossMonitor().plot()


def test_the_largest_of_gaps_is_shown_without_its_sign() -> None:
    monitor = BiasMonitor()
    monitor.history = [{"epoch": 0.0, "gap:accuracy:a|b": -0.25, "gap:accuracy:c|d": 0.1}]
    assert headline(monitor) == "gap of rates up to 0.25"


def test_shares_are_percent_and_of_findings_the_number_is_that_of_the_one_claimed() -> None:
    monitor, data = ActivationMonitor(), FindingsMonitor()
    monitor.history = [{"epoch": 0.0, "dead:1": 1.0, "dead:3": float("nan")}]
    assert headline(monitor) == "dead units up to 100 %"
    data.history = [{"epoch": 0.0, "same input, other label": 4.0, "in another split": 2.0}]
    assert headline(data) == "samples named up to 4"
    assert headline(data, "in another split") == "samples named 2"


def test_the_time_of_each_epoch_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("tocsin.training.progress.time.monotonic", lambda: now)
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120, color_system=None)
    bar = ProgressBar([], {}, console)
    bar.initialize(nn.Linear(1, 1), [None] * 4, None)
    for epoch, seconds in enumerate((2.0, 10.0, 1.0)):
        for _ in range(4):
            now += seconds
            bar.on_batch_end(None, None)
        bar.on_epoch_end(epoch)
        last = text.getvalue().rpartition("epoch ")[2]
        assert f"4/4 0:00:{4 * seconds:02.0f}" in last
    bar.close()
    assert "4/4 0:00:04" in text.getvalue().rpartition("epoch ")[2]


@pytest.mark.parametrize("name", ["lightning", "hugging_face"])
def test_a_callback_without_its_trainer_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"tocsin.training.{name}", raising=False)
    with pytest.raises(ImportError, match=rf"pip install 'tocsin\[{name.replace('_', '-')}\]'"):
        __import__(f"tocsin.training.{name}")


def test_where_there_is_no_terminal_each_epoch_is_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    monitors = Monitors(of(), alerts=TrainingAlerts(show=False), progress=True)
    train(monitors, nan_at=25)
    assert monitors.set_aside == {}
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("epoch 0: 20 batches, loss 0.")
    assert ", gradients " in first
    assert ", accuracy 0." in first
    assert ", dead units up to " in first
    assert "non-finite" not in first
    assert "loss 0." in second
    assert second.count("non-finite") == 2


def test_the_bar_shows_numbers_claims_and_who_was_set_aside() -> None:
    class Broken(Monitor):
        def on_epoch_end(self, epoch: int) -> None:
            raise KeyError("mine")

    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120, color_system=None)
    alerts = TrainingAlerts("net", show=False)
    monitors = Monitors([LossMonitor(), Broken()], alerts=alerts)
    bar = ProgressBar(tuple(monitors.monitors), monitors.set_aside, console)
    monitors.monitors.append(bar)
    train(monitors, nan_at=38)
    assert list(monitors.set_aside) == ["Broken 1"]
    last = text.getvalue().rpartition("epoch ")[2]
    assert last.startswith("1 ")
    assert "20/20" in last
    assert "non-finite" in last
    assert "Broken 1 set aside" in last
    assert text.getvalue().rstrip("\n").endswith("\x1b[?25h"), "the cursor is there"


def test_a_state_is_over_with_its_incident() -> None:
    monitor = LossMonitor(alerts=TrainingAlerts(show=False))
    assert monitor.alerts is not None
    claim(monitor.alerts, Place(7, 0, 7), "loss_curve", "loss", "spike")
    assert state_of(monitor, 107) == "spike"
    assert state_of(monitor, 108) is None
    assert state_of(GradientMonitor(alerts=monitor.alerts), 8) is None


def test_the_snippet_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (code,) = [block for block in blocks if "SummaryWriter" in block]
    names: dict[str, Any] = {
        "Monitors": Monitors,
        "LossMonitor": LossMonitor,
        "GradientMonitor": GradientMonitor,
    }
    exec(code, names)
    train(names["monitors"])
    names["writer"].close()
    assert list((tmp_path / "runs/digits").glob("events.*"))
