"""The training loop: monitors, checkpoints and watched data loaders."""

from .activations import ActivationMonitor
from .alerts import TrainingAlerts, TrainingClaim
from .batch import BatchInfo
from .bias import BiasMonitor
from .calibration import CalibrationMonitor
from .checkpoint import ModelCheckpoint
from .events import TrainingEvents
from .finding import Finding
from .findings import FindingsMonitor
from .gradients import GradientMonitor
from .loader import WatchedLoader
from .loss import LossMonitor
from .monitor import BaseMonitor, Monitor
from .monitors import Monitors
from .performance import PerformanceMonitor
from .reference import ReferenceMonitor
from .saved_checkpoint import SavedCheckpoint
from .streams import DriftMonitor
from .threshold import Crossing
from .weights import weights_sha256

__all__ = [
    "ActivationMonitor",
    "BaseMonitor",
    "BatchInfo",
    "BiasMonitor",
    "CalibrationMonitor",
    "Crossing",
    "DriftMonitor",
    "Finding",
    "FindingsMonitor",
    "GradientMonitor",
    "LossMonitor",
    "ModelCheckpoint",
    "Monitor",
    "Monitors",
    "PerformanceMonitor",
    "ReferenceMonitor",
    "SavedCheckpoint",
    "TrainingAlerts",
    "TrainingClaim",
    "TrainingEvents",
    "WatchedLoader",
    "weights_sha256",
]
