"""The training loop: monitors, checkpoints and watched data loaders."""

from .batch import BatchInfo
from .finding import Finding
from .loader import WatchedLoader
from .monitor import BaseMonitor, Monitor

__all__ = ["BaseMonitor", "BatchInfo", "Finding", "Monitor", "WatchedLoader"]
