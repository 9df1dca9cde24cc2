"""The page of what was found: each sample beside what it is a copy of, the most doubtful first, and what is no picture."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from tocsin.training import WatchedLoader
from tocsin.training.finding import LABEL, NOT_FINITE, Finding
from tocsin.training.pictures import page

DRAW = torch.Generator().manual_seed(0)
X, Y = torch.rand(200, 1, 16, 16, generator=DRAW), torch.arange(200) % 3
OTHER = torch.rand(40, 1, 16, 16, generator=DRAW)


def written(tmp_path: Path, **options: Any) -> str:
    x, y = X.clone(), Y.clone()
    x[17, 0, 3, 4] = torch.nan
    x[18] = OTHER[5]
    x[40] = x[20]
    y[20], y[40] = 2, 1
    x[61] = x[60]
    y[61] = y[60]
    loader = WatchedLoader(DataLoader(TensorDataset(x, y), 32), **options)
    loader.look()
    loader.report(tmp_path / "page.html")
    return (tmp_path / "page.html").read_text("utf-8")


def captions(html: str, kind: str) -> list[str]:
    (section,) = re.findall(rf"<h2>{kind}</h2>(.*?)(?:<h2>|</html>)", html, re.DOTALL)
    return re.findall(r"<figcaption>(.*?)</figcaption>", section)


@pytest.mark.parametrize(
    ("split", "label"),
    [
        (OTHER, ""),
        (TensorDataset(OTHER, torch.arange(40)), ", label 5"),
        (DataLoader(TensorDataset(OTHER, torch.arange(40))), ", label 5"),
    ],
    ids=["tensor", "data set", "loader"],
)
def test_what_is_in_another_split_is_beside_its_row_there(
    split: Any, label: str, tmp_path: Path
) -> None:
    html = written(tmp_path, references={"a<b": split})
    assert captions(html, "in another split") == [f"sample 18, label 0, row 5 of a&lt;b{label}"]
    (figure,) = re.findall(r"<figure>((?:(?!<figure>).)*?)<figcaption>sample 18,", html, re.DOTALL)
    first, second = re.findall(r"base64,([^\"]+)", figure)
    assert first == second


def test_of_equal_inputs_each_is_beside_one_with_another_label(tmp_path: Path) -> None:
    html = written(tmp_path)
    assert captions(html, "same input, other label") == [
        "sample 20, label 2, beside 40, label 1",
        "sample 40, label 1, beside 20, label 2",
    ]
    assert captions(html, "duplicate")[1] == "sample 61, label 0, of 60, label 0"


def test_pixels_that_are_not_finite_are_magenta(tmp_path: Path) -> None:
    html = written(tmp_path)
    assert captions(html, NOT_FINITE) == ["sample 17, label 2; magenta is not finite"]
    data = re.findall(r"base64,([^\"]+)", html)[0]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    is_magenta = (pixels == (255, 0, 255)).all(axis=2)
    assert np.argwhere(is_magenta).tolist() == [[3, 4]]


def test_the_most_doubtful_labels_come_first_with_the_class_that_is_preferred() -> None:
    def read(rows: Any, split: str = "") -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((len(rows), 2)), rows % 10

    many = np.arange(100, 130)
    found = Finding(LABEL, "many", many, order=np.arange(30)[::-1], rather=many % 7)
    html = page([found], read)
    told = captions(html, LABEL)
    assert len(told) == 24
    assert told[0] == "sample 129, label 9, the model prefers&nbsp;3"
    assert told[-1] == "sample 106, label 6, the model prefers&nbsp;1"
    assert 'left out when asked for only: <code>quarantine("doubtful label")</code>' in html
    assert "<code>quarantine()</code> leaves them out" not in html


def test_labels_that_are_wrong_are_ranked_by_their_loss() -> None:
    loader = WatchedLoader(DataLoader(TensorDataset(X, Y), 50))
    logits = 4.0 * torch.nn.functional.one_hot(Y, 3)
    logits[[7, 90, 150]] = torch.tensor([[0.0, 3.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 6.0]])
    wrong = [k for k in range(200) if logits[k].argmax() != Y[k]]
    more = [k for k in (10, 11, 12, 13, 14, 15) if k not in wrong]
    logits[more] = 5.0 * torch.nn.functional.one_hot((Y[more] + 1) % 3, 3)
    for _ in range(3):
        for batch in loader:
            loader.observe(logits[batch.samples], batch)
    (found,) = [one for one in loader.findings() if one.kind == LABEL]
    losses = loader.suspicion()[found.samples[found.order]]
    assert (np.diff(losses) <= 0).all()
    assert found.rather.tolist() == logits[found.samples].argmax(1).tolist()
