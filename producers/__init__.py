"""What model servers use: the publisher and the PyTorch hook; and files as events.

Importing this package loads neither torch nor kafka-python.
"""

from .publisher import Publisher
from .watch import watch

__all__ = ["Publisher", "watch"]
