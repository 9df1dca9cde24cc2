"""The forward hook: what the model computed is what is published, and the pass is left alone."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tocsin import Prediction, Publisher
from tocsin.core.limits import Limits
from tocsin.core.wire import Kind, decode
from tocsin.embedded import free_port
from tocsin.producers import watch
from tocsin.producers.delivery import Deferred


class Net(nn.Module):
    """Counts its passes."""

    def __init__(self, outputs: int = 3, wrap: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
        self.head = nn.Linear(5, outputs)
        self.wrap = wrap
        self.passes = 0

    def forward(self, x: torch.Tensor) -> Any:
        self.passes += 1
        logits = self.head(self.body(x))
        return self.wrap(logits) if self.wrap else logits


@pytest.fixture
def events() -> Publisher:
    publisher = Publisher(f"127.0.0.1:{free_port()}", model="net", version="3")
    publisher._start = lambda: None  # type: ignore[method-assign]
    return publisher


def published(publisher: Publisher) -> list[Prediction]:
    items = list(publisher._queues.get("net", []))
    assert all(isinstance(item, Deferred) for item in items)
    found = [decode(line, Kind.BARE, Limits()) for line in publisher._encoded(items)]
    assert all(isinstance(event, Prediction) for event in found)
    return found  # type: ignore[return-value]


def test_logits_scores_prediction_and_embedding_are_those_of_the_pass(events: Publisher) -> None:
    model = Net().eval()
    watch(model, events, embedding="body", classes=["a", "b", "c"])
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    logits = model(x)
    assert model.passes == 1
    found = published(events)
    assert model.passes == 1, "a second forward pass"
    assert torch.allclose(torch.tensor([e.logits for e in found]), logits, atol=1e-6)
    hidden = torch.tensor([e.embedding for e in found])
    assert torch.allclose(hidden, model.body(x), atol=1e-6)
    scores = torch.tensor([list(e.scores.values()) for e in found])  # type: ignore[union-attr]
    assert torch.allclose(scores, logits.softmax(1), atol=1e-6)
    assert [e.prediction for e in found] == ["abc"[k] for k in logits.argmax(1)]
    assert {(e.model, e.version) for e in found} == {("net", "3")}
    assert len({e.prediction_id for e in found}) == 6


def test_the_output_its_gradients_and_later_changes_of_it_stay_apart(events: Publisher) -> None:
    model = Net().eval()
    plain = model(torch.ones(2, 4)).detach().clone()
    watch(model, events)
    logits = model(torch.ones(2, 4))
    logits.sum().backward()
    assert torch.equal(logits.detach(), plain)
    assert model.head.weight.grad is not None
    with torch.no_grad():
        logits.mul_(0)  # the server works on in place before the publisher's thread comes to it
    assert torch.allclose(torch.tensor([e.logits for e in published(events)]), plain, atol=1e-6)


def test_a_request_names_the_rows(events: Publisher) -> None:
    model = Net().eval()
    watched = watch(model, events)
    with watched.request(
        ids=["r1", "r2"], clients="alice", features=[{"n": 1}, {"n": 2}],
        segments=[{"country": "NL"}, {"country": "DE"}],
    ):  # fmt: skip
        model(torch.ones(2, 4))
    model(torch.ones(1, 4))
    with watched.request(segments=[{"a*b": "x"}, {"a": "x"}]):
        model(torch.ones(2, 4))
    first, second, third, fourth = published(events)
    assert fourth.segments == {"a": "x"}  # the row before has a name that no group can have
    assert events.counts.failed == 1
    assert (first.prediction_id, second.prediction_id) == ("r1", "r2")
    assert (first.client, third.client) == ("alice", None)
    assert (second.features, second.segments) == ({"n": 2}, {"country": "DE"})
    assert third.features == {}


def test_requests_of_threads_do_not_meet(events: Publisher) -> None:
    model = Net().eval()
    watched = watch(model, events, embedding="body")
    start = threading.Barrier(4)

    def serve(thread: int) -> None:
        start.wait()
        for k in range(50):
            with watched.request(ids=[f"{thread}-{k}"]):
                model(torch.full((1, 4), float(thread)))

    threads = [threading.Thread(target=serve, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {n: Net().eval()(torch.full((1, 4), float(n)))[0] for n in range(4)}
    found = published(events)
    assert len({e.prediction_id for e in found}) == 200
    for event in found:
        own = expected[int(event.prediction_id[0])]
        assert torch.allclose(torch.tensor(event.logits), own, atol=1e-6)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: {"logits": logits},
        lambda logits: SimpleNamespace(logits=logits),
    ],
    ids=["mapping", "attribute"],
)
def test_logits_are_found_in_what_libraries_return(events: Publisher, wrap: Any) -> None:
    watch(Net(wrap=wrap).eval(), events)._module(torch.ones(2, 4))
    assert len(published(events)) == 2


def test_a_function_finds_them_elsewhere(events: Publisher) -> None:
    model = Net(wrap=lambda logits: (None, logits)).eval()
    watch(model, events, logits=lambda output: output[1])
    model(torch.ones(2, 4))
    assert len(published(events)) == 2


@pytest.mark.parametrize("flat", [False, True])
def test_one_logit_stands_for_two_classes(events: Publisher, flat: bool) -> None:
    model = Net(outputs=1, wrap=(lambda t: t[:, 0]) if flat else None).eval()
    watch(model, events, classes=["no", "yes"])
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    probability = torch.sigmoid(torch.as_tensor(model(x)).reshape(-1))
    for event, p in zip(published(events), probability.tolist(), strict=True):
        assert event.scores is not None
        assert event.scores["yes"] == pytest.approx(p, abs=1e-6)
        assert event.prediction == ("yes" if p > 0.5 else "no")


def test_training_passes_are_published_only_where_asked(events: Publisher) -> None:
    model = Net().train()
    first = watch(model, events)
    model(torch.ones(2, 4))
    assert published(events) == []
    first.close()
    watch(model, events, training=True)
    model(torch.ones(2, 4))
    assert len(published(events)) == 2


def test_nothing_raises_into_the_pass(events: Publisher) -> None:
    model = Net(wrap=lambda logits: "nothing like logits").eval()
    watch(model, events)
    assert model(torch.ones(2, 4)) == "nothing like logits"
    assert events.counts.failed == 1


def test_wrong_classes_are_counted_when_encoded(events: Publisher) -> None:
    model = Net().eval()
    watch(model, events, classes=["only", "two"])
    model(torch.ones(2, 4))
    assert published(events) == []
    assert events.counts.failed == 2


def test_a_layer_that_is_not_there_is_refused_with_those_that_are(events: Publisher) -> None:
    model = Net()
    with pytest.raises(ValueError, match=r"no layer 'hidden'; it has body, body\.0, body\.1, head"):
        watch(model, events, embedding="hidden")
    model(torch.ones(1, 4))
    assert isinstance(events._queues, Mapping)
    assert not events._queues, "the hook of a refused watch is still there"


def test_close_removes_the_hooks(events: Publisher) -> None:
    model = Net().eval()
    watch(model, events, embedding="body").close()
    model(torch.ones(1, 4))
    assert not events._queues
    assert not model._forward_hooks
    assert not model.body._forward_hooks
