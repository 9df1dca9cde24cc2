"""The training loop: monitors, checkpoints and watched data loaders."""

from .activations import ActivationMonitor
from .alerts import TrainingAlerts
from .gradients import GradientMonitor
from .loss import LossMonitor
from .monitor import BaseMonitor, Monitor
from .monitors import Monitors
from .performance import PerformanceMonitor

__all__ = [
    "ActivationMonitor",
    "BaseMonitor",
    "GradientMonitor",
    "LossMonitor",
    "Monitor",
    "Monitors",
    "PerformanceMonitor",
    "TrainingAlerts",
]
