"""The training loop: monitors, checkpoints and watched data loaders."""

from .checkpoint import ModelCheckpoint
from .monitor import BaseMonitor, Monitor
from .saved_checkpoint import SavedCheckpoint
from .threshold import Crossing

__all__ = ["BaseMonitor", "Crossing", "ModelCheckpoint", "Monitor", "SavedCheckpoint"]
