"""Monitors in the Trainer of Hugging Face: what they are told, and that its training stays the same."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own imports
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        LlamaConfig,
        LlamaForCausalLM,
        Trainer,
        TrainingArguments,
        ViTConfig,
        ViTForImageClassification,
    )

from tocsin.training import (
    BaseMonitor,
    GradientMonitor,
    LossMonitor,
    Monitor,
    Monitors,
    PerformanceMonitor,
    TrainingAlerts,
)
from tocsin.training.hugging_face import MonitorCallback

pytestmark = [
    pytest.mark.xdist_group("hugging_face"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.utils.data"),  # pin_memory, without a GPU
]

PAGE = (Path(__file__).parents[2] / "docs/training_monitors.md").read_text()
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
ROWS = 40


def sentences() -> list[dict[str, Any]]:
    tokens = torch.randint(1, 50, (ROWS, 6), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": int(row[0] > 25)} for row in tokens]


def bert() -> Any:
    torch.manual_seed(3)
    return BertForSequenceClassification(BertConfig(vocab_size=50, **SMALL))


def train(model: Any, folder: Path, data: list[dict[str, Any]], *callbacks: Any, rows: Any = None, **settings: Any) -> Trainer:  # fmt: skip
    settings = {"learning_rate": 0.01} | settings
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=4, num_train_epochs=2, report_to="none", use_cpu=True, save_strategy="no",
        disable_tqdm=True, logging_strategy="no", seed=5, **settings,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=rows, callbacks=list(callbacks))  # fmt: skip
    trainer.train()
    return trainer


def watched() -> tuple[list[BaseMonitor], TrainingAlerts]:
    of = [LossMonitor(), GradientMonitor(every=1), PerformanceMonitor()]
    return of, TrainingAlerts("net", show=False)


def hooks_of(module: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(m, kind)) for m in module.modules() for kind in kinds)


@pytest.mark.parametrize("accumulated", [1, 4])
def test_training_is_the_same_and_monitors_see_all_of_it(tmp_path: Path, accumulated: int) -> None:
    plain, model = bert(), bert()
    settings = {"gradient_accumulation_steps": accumulated, "max_grad_norm": 0.5}
    train(plain, tmp_path, sentences(), **settings)
    of, alerts = watched()
    loss, gradients, performance = of
    assert isinstance(loss, LossMonitor)
    assert isinstance(gradients, GradientMonitor)
    assert isinstance(performance, PerformanceMonitor)
    losses: list[float] = []
    seen: list[Any] = []

    class Sees(Monitor):
        def on_batch_end(self, outputs: Any, batch: Any) -> None:
            losses.append(float(nn.functional.cross_entropy(outputs["logits"], batch["labels"])))
            seen.append(batch)

    monitors = Monitors([*of, Sees()], alerts=alerts)
    train(model, tmp_path, sentences(), MonitorCallback(monitors), **settings)
    assert monitors.set_aside == {}
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert hooks_of(model) == 0
    assert [value for _, value in loss.history] == pytest.approx(losses, rel=1e-5)
    assert len(losses) == 20
    assert {tuple(batch["input_ids"].shape) for batch in seen} == {(4, 6)}
    assert "num_items_in_batch" not in seen[0]
    steps = [step for step, _ in gradients.history]
    # The last batches of an epoch make a step of fewer.
    assert steps == (list(range(20)) if accumulated == 1 else [3, 7, 9, 13, 17, 19])
    assert all(0 < norm < 0.5 + 1e-5 for _, norm in gradients.history), "as they were clipped"
    assert [row["epoch"] for row in performance.history] == [0, 1]
    assert performance.history[1]["accuracy"] > 0.5


@pytest.mark.parametrize("kind", ["tokens", "pictures"])
def test_the_loss_of_a_part_is_that_of_its_own_labels(tmp_path: Path, kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(3)
    if kind == "tokens":
        model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=50, **SMALL))
        tokens = torch.randint(1, 50, (ROWS, 6), generator=generator)
        tokens[::3, 4:] = -100
        data = [{"input_ids": row.clamp(min=0), "labels": row} for row in tokens]
    else:
        model = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3, **SMALL))  # fmt: skip
        pixels = torch.randn(ROWS, 3, 8, 8, generator=generator)
        data = [{"pixel_values": x, "labels": k % 3} for k, x in enumerate(pixels)]
    loss, batches = LossMonitor(), []

    class Sees(Monitor):
        def on_batch_end(self, outputs: Any, batch: Any) -> None:
            batches.append(batch)
            assert ("logits" in outputs) == (kind == "pictures")

    monitors = Monitors([loss, Sees()], alerts=TrainingAlerts(show=False))
    settings = {"gradient_accumulation_steps": 4, "learning_rate": 0.0}  # the weights stay
    train(model, tmp_path, data, MonitorCallback(monitors), **settings)
    assert monitors.set_aside == {}
    with torch.no_grad():
        own = [float(model(**batch).loss) for batch in batches]
    assert [value for _, value in loss.history] == pytest.approx(own, rel=1e-5)
    assert len(own) == 20


def test_what_is_evaluated_after_an_epoch_belongs_to_it(tmp_path: Path) -> None:
    of, alerts = watched()
    performance = of[2]
    assert isinstance(performance, PerformanceMonitor)
    monitors = Monitors(of, alerts=alerts)
    model = bert()
    trainer = train(model, tmp_path, sentences(), MonitorCallback(monitors), rows=sentences(), eval_strategy="epoch")  # fmt: skip
    assert monitors.set_aside == {}
    said = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert [row["val_loss"] for row in performance.history] == pytest.approx(said, rel=1e-5)
    assert all("val_accuracy" in row for row in performance.history)


def test_a_second_training_begins_anew_and_one_that_fails_can_be_closed(tmp_path: Path) -> None:
    of, alerts = watched()
    callback = MonitorCallback(Monitors(of, alerts=alerts))
    loss = of[0]
    assert isinstance(loss, LossMonitor)
    for _ in range(2):
        model = bert()
        train(model, tmp_path, sentences(), callback)
        assert [step for step, _ in loss.history] == list(range(20))
        assert hooks_of(model) == 0

    class Broken(list[dict[str, Any]]):
        def __getitem__(self, k: Any) -> Any:
            if k == 7:
                raise RuntimeError("a broken row")
            return super().__getitem__(k)

    model = bert()
    with pytest.raises(RuntimeError, match="a broken row"):
        train(model, tmp_path, Broken(sentences()), callback)
    callback.close()
    assert hooks_of(model) == 0


def test_what_is_compiled_is_watched_by_its_gradients(tmp_path: Path) -> None:
    of, alerts = watched()
    _, gradients, performance = of
    assert isinstance(gradients, GradientMonitor)
    assert isinstance(performance, PerformanceMonitor)
    monitors = Monitors(of, alerts=alerts)
    train(bert(), tmp_path, sentences(), MonitorCallback(monitors), torch_compile_backend="eager")
    assert monitors.set_aside == {}
    assert len(gradients.history) == 20
    assert performance.history == [{"epoch": 0.0}, {"epoch": 1.0}]


def test_the_snippet_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (code,) = [block for block in blocks if "training.hugging_face" in block]
    names: dict[str, Any] = {"model": bert(), "data": sentences()}
    exec(code, names)
    (loss, _) = names["callback"].monitors.monitors
    assert len(loss.history) == 15, "three epochs of batches of eight"


def test_a_run_that_is_resumed_goes_on_with_its_epochs(tmp_path: Path) -> None:
    class Breaks(BertForSequenceClassification):
        is_broken = False

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            found = super().forward(*args, **kwargs)
            return {"loss": found.loss * torch.nan, "logits": found.logits} if self.is_broken else found  # fmt: skip

    torch.manual_seed(3)
    model = Breaks(BertConfig(vocab_size=50, **SMALL))
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=4, num_train_epochs=1, report_to="none", use_cpu=True, save_strategy="epoch",
        disable_tqdm=True, logging_strategy="no", seed=5, remove_unused_columns=False,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=sentences()).train()
    model.is_broken, arguments.num_train_epochs = True, 2
    alerts = TrainingAlerts("net", show=False)
    callback = MonitorCallback(Monitors([LossMonitor()], alerts=alerts))
    Trainer(model, arguments, train_dataset=sentences(), callbacks=[callback]).train(
        resume_from_checkpoint=True
    )
    assert alerts.alerts[0].prediction_id == "batch 0 of epoch 1"
