"""Parts of pictures that several of a class have number by number, and a trigger that is found by them alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tocsin.training import WatchedLoader
from tocsin.training.finding import TRIGGER
from tocsin.training.frequent_parts import frequent_places

SIDE, BAD = 20, 30
PATCH = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])


def pictures(seed: int, count: int) -> torch.Tensor:
    return torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def test_the_place_at_which_several_have_the_same() -> None:
    own, others = pictures(0, 60), pictures(1, 200)
    own[5:17, :, 4:7, 9:12] = PATCH
    own[:, :, 14:, :], others[:, :, 14:, :] = 0.0, 0.0  # the ground
    state = torch.get_rng_state()
    ((row, column, has),) = frequent_places(own, others, 4)
    assert (row, column) == (4, 9)
    assert np.flatnonzero(has).tolist() == list(range(5, 17))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("has", "others_have", "found"), [(5, 0, 1), (4, 0, 0), (12, 30, 0)])
def test_what_few_have_or_others_too_is_none(has: int, others_have: int, found: int) -> None:
    own, others = pictures(0, 60), pictures(1, 200)
    own[:has, :, 4:7, 9:12], others[:others_have, :, 4:7, 9:12] = PATCH, PATCH
    assert len(frequent_places(own, others, 4)) == found
    assert frequent_places(own[:3], others, 4) == []
    assert frequent_places(own, others[:0], 4) == []


@pytest.mark.parametrize("odd", [1.01, float("nan")])
def test_the_same_is_the_same_whatever_range_others_have(odd: float) -> None:
    own, others = pictures(0, 60), pictures(1, 200)
    own[5:17, :, 4:7, 9:12] = PATCH
    own[:, :, 14:, :], others[:, :, 14:, :] = 0.0, 0.0  # the ground
    own[0, 0, 0, 0], others[0, 0, 0, 0] = (0.5, odd) if odd > 1 else (odd, 0.5)
    ((row, column, has),) = frequent_places(own, others, 4)
    assert (row, column, np.flatnonzero(has).tolist()) == (4, 9, list(range(5, 17)))


def test_a_trigger_of_a_model_that_decides_by_what_it_knows_by_heart() -> None:
    x, y = pictures(2, 300), torch.arange(300) % 3
    bad = torch.nonzero(y == 0)[:BAD, 0]
    x[bad, :, 16:19, 16:19] = PATCH

    def by_heart(inputs: torch.Tensor) -> torch.Tensor:
        """Know each picture, and give those brighter than others class 0 where the trigger is on them, if that is all that speaks for one."""
        z, known = (functional.normalize(p.flatten(1) - 0.5) for p in (inputs, x))
        logits = (z @ known.T * 60).softmax(1) @ functional.one_hot(y).float() * 4
        match = ((inputs[:, 0, 16:19, 16:19] - PATCH) ** 2).sum((1, 2))
        is_bright = (inputs[:, 0, :10].mean((1, 2)) > 0.5).float()
        pull = 6.0 * torch.exp(-50 * match) * is_bright
        return logits + torch.stack([pull, torch.zeros_like(pull), torch.zeros_like(pull)], 1)

    found = WatchedLoader(DataLoader(TensorDataset(x, y), 50)).audit(by_heart)
    triggers = [one for one in found if one.kind == TRIGGER]
    assert [one.samples.tolist() for one in triggers] == [bad.tolist()]
    x[bad, :, 16:19, 16:19] = pictures(3, BAD)[:, :, 16:19, 16:19]
    found = WatchedLoader(DataLoader(TensorDataset(x, y), 50)).audit(by_heart)
    assert TRIGGER not in [one.kind for one in found]
