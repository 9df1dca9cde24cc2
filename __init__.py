"""tocsin watches deployed PyTorch models for drift and attacks: events on Kafka, alerts on Redis.

Importing this package loads what publishing and subscribing need, and neither torch, river, numba nor
pyarrow.
"""

from typing import TYPE_CHECKING, Any

from .core.alert import Alert
from .core.events import Label, Prediction, Tensor

if TYPE_CHECKING:
    from .consumers.subscriber import AlertSubscriber
    from .producers.publisher import Publisher

__version__ = "0.1.0"
__all__ = ["Alert", "AlertSubscriber", "Label", "Prediction", "Publisher", "Tensor", "__version__"]

_LAZY = {"AlertSubscriber": ".consumers.subscriber", "Publisher": ".producers.publisher"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name], __name__), name)
