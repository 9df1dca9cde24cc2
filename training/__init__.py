"""The training loop: monitors, checkpoints and watched data loaders."""

from .activations import ActivationMonitor
from .alerts import TrainingAlerts
from .batch import BatchInfo
from .finding import Finding
from .gradients import GradientMonitor
from .loader import WatchedLoader
from .loss import LossMonitor
from .monitor import BaseMonitor, Monitor
from .monitors import Monitors
from .performance import PerformanceMonitor

__all__ = [
    "ActivationMonitor",
    "BaseMonitor",
    "BatchInfo",
    "Finding",
    "GradientMonitor",
    "LossMonitor",
    "Monitor",
    "Monitors",
    "PerformanceMonitor",
    "TrainingAlerts",
    "WatchedLoader",
]
