"""A broker and a Redis server as child processes, from wheels: for the demo, tests and a first look.

Nothing here is meant for production: the broker keeps its log in memory.
"""

from .broker import Broker, EmbeddedBroker
from .process import Address, free_port
from .redis_server import EmbeddedRedis

__all__ = ["Address", "Broker", "EmbeddedBroker", "EmbeddedRedis", "free_port"]
