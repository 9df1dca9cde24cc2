"""What model servers use: the publisher, the PyTorch hook, and streams with known changes.

Importing this package loads no torch, and kafka-python only when something is published.
"""

from .publisher import Publisher
from .watch import watch

__all__ = ["Publisher", "watch"]
