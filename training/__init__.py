"""The training loop: monitors, checkpoints and watched data loaders."""

from .monitor import BaseMonitor, Monitor

__all__ = ["BaseMonitor", "Monitor"]
