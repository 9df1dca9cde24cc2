"""A PyTorch forward hook that publishes what the model has just computed; no second forward pass."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..core.events import Prediction, Scalar
from ..core.wire import encode
from .delivery import Deferred
from .publisher import Publisher

if TYPE_CHECKING:
    import torch


class Request:
    """What a server knows of a batch and the model does not: ids, clients, features, segments."""

    def __init__(
        self,
        ids: Sequence[str] | None = None,
        clients: Sequence[str] | str | None = None,
        features: Sequence[Mapping[str, Scalar]] | None = None,
        segments: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        self.ids = ids
        self.clients = clients
        self.features = features
        self.segments = segments


class Watch:
    """A watched module; see `watch`."""

    def __init__(
        self,
        module: torch.nn.Module,
        publisher: Publisher,
        embedding: str | None,
        classes: Sequence[str] | None,
        logits: Callable[[Any], torch.Tensor] | None,
        training: bool,
    ) -> None:
        self._module = module
        self._publisher = publisher
        self._classes = None if classes is None else list(classes)
        self._logits = logits or _find_logits
        self._training = training
        self._request: ContextVar[Request | None] = ContextVar("tocsin_request", default=None)
        self._local = threading.local()
        self._handles = [module.register_forward_hook(self._after_model)]
        if embedding is not None:
            layers = dict(module.named_modules())
            if embedding not in layers:
                self.close()
                raise ValueError(
                    f"the module has no layer {embedding!r}; it has "
                    f"{', '.join(name for name in layers if name)}"
                )
            self._handles.append(layers[embedding].register_forward_hook(self._after_layer))

    @contextmanager
    def request(
        self,
        *,
        ids: Sequence[str] | None = None,
        clients: Sequence[str] | str | None = None,
        features: Sequence[Mapping[str, Scalar]] | None = None,
        segments: Sequence[Mapping[str, str]] | None = None,
    ) -> Generator[None]:
        """Say what the forward passes inside `with` are about; safe with threads and asyncio.

        Parameters
        ----------
        ids
            The rows' prediction ids; random ones where None.
        clients
            Who asked, for each row or for all of them.
        features, segments
            For each row; see `tocsin.Prediction`.
        """
        token = self._request.set(Request(ids, clients, features, segments))
        try:
            yield
        finally:
            self._request.reset(token)

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _after_layer(self, _module: object, _inputs: object, output: Any) -> None:
        self._local.embedding = output

    def _after_model(self, module: torch.nn.Module, _inputs: object, output: Any) -> None:
        """Copy what was computed, and leave the rest to the publisher's thread."""
        try:
            embedding = getattr(self._local, "embedding", None)
            self._local.embedding = None
            if module.training and not self._training:
                return
            logits = self._logits(output).detach().clone()
            hidden = None if embedding is None else embedding.detach().flatten(1).clone()
            request = self._request.get() or Request()
            batch = _Batch(logits, hidden, request, datetime.now(UTC))
            self._publisher.defer(
                Deferred(
                    logits.element_size()
                    * (logits.numel() + (0 if hidden is None else hidden.numel())),
                    len(logits),
                    lambda: self._encoded(batch),
                )
            )
        except Exception as error:  # nothing may reach the model's caller
            self._publisher.failed(error)

    def _encoded(self, batch: _Batch) -> Iterator[bytes]:
        logits = batch.rows()
        count, width = logits.shape
        scores = logits.softmax(1)
        names = self._classes or [str(k) for k in range(width)]
        if len(names) != width:
            raise ValueError(f"the model gives {width} logits, classes names {len(names)}")
        best = logits.argmax(1).tolist()
        columns = logits.tolist(), scores.tolist()
        hidden = None if batch.hidden is None else batch.hidden.float().cpu().tolist()
        request = batch.request
        clients = request.clients
        ids = request.ids or [uuid.uuid4().hex for _ in range(count)]
        for i in range(count):
            event = Prediction(
                prediction_id=ids[i],
                model=self._publisher.model,
                version=self._publisher.version,
                time=batch.time,
                features=dict(request.features[i]) if request.features else {},
                prediction=names[best[i]],
                scores=dict(zip(names, columns[1][i], strict=True)),
                logits=columns[0][i],
                embedding=None if hidden is None else hidden[i],
                client=clients if clients is None or isinstance(clients, str) else clients[i],
                segments=dict(request.segments[i]) if request.segments else None,
                environment=self._publisher.environment,
                sample_rate=self._publisher.sample_rate,
            )
            try:
                self._publisher.names.check(
                    event.prediction_id, event.model, event.version, event.environment, event.client,
                    event.segments,
                )  # fmt: skip
            except (TypeError, ValueError) as error:  # of this row alone
                self._publisher.failed(error)
                continue
            if not self._publisher.is_left_out(event.prediction_id):
                yield encode(event)


class _Batch:
    """A batch's tensors on their way; on a GPU the copy is waited for by the publisher's thread."""

    def __init__(
        self,
        logits: torch.Tensor,
        hidden: torch.Tensor | None,
        request: Request,
        time: datetime,
    ) -> None:
        self.logits = logits
        self.hidden = hidden
        self.request = request
        self.time = time
        self._copied: Any = None
        if logits.is_cuda:
            import torch

            self._copied = torch.cuda.current_stream(logits.device).record_event()

    def rows(self) -> torch.Tensor:
        """Return (n, classes) logits on the CPU; one logit a row stands for two classes."""
        if self._copied is not None:
            self._copied.synchronize()
        logits = self.logits.float().cpu()
        if logits.ndim == 1:
            logits = logits[:, None]
        if logits.shape[1] == 1:
            logits = logits.new_zeros(len(logits), 2).index_copy_(
                1, logits.new_ones(1).long(), logits
            )
        return logits


def watch(
    module: torch.nn.Module,
    publisher: Publisher,
    *,
    embedding: str | None = None,
    classes: Sequence[str] | None = None,
    logits: Callable[[Any], torch.Tensor] | None = None,
    training: bool = False,
) -> Watch:
    """Publish logits, prediction, scores and an embedding of every forward pass of a module.

    Parameters
    ----------
    module
        A classifier whose output is (n, classes) logits, or (n,) or (n, 1) for two classes.
    publisher
        Where to.
    embedding
        Name of the layer whose output is published, flattened, as `named_modules` has it.
    classes
        Names of the classes; 0, 1, 2, ... where None.
    logits
        Finds the logits in the module's output; by default the output itself, its attribute or its
        entry `logits`.
    training
        Whether passes in training mode are published too.

    Returns
    -------
    Watch
        `request` says what a pass is about; `close` removes the hooks.

    Raises
    ------
    ValueError
        There is no such layer.

    Notes
    -----
    Costs the forward pass a copy of its output; conversion and encoding happen in the publisher's
    thread. Nothing raises into the pass. Gradients are not touched.
    """
    return Watch(module, publisher, embedding, classes, logits, training)


def _find_logits(output: Any) -> torch.Tensor:
    import torch

    if isinstance(output, torch.Tensor):
        return output
    found = output["logits"] if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(found, torch.Tensor):
        return found
    raise TypeError(f"no logits in an output of type {type(output).__name__}; pass logits=...")
