"""The error tree: the type of an error says who acts on it. No handling lives here."""

from __future__ import annotations

from typing import ClassVar


class TocsinError(Exception):
    """Base of every error of tocsin; never raised itself.

    Attributes
    ----------
    retriable
        Whether the same call can succeed later without a change by anyone.
    reason
        A short constant, used as the metric label and as the reason of a dead letter.
    """

    retriable: ClassVar[bool] = False
    reason: ClassVar[str] = "error"


class ConfigError(TocsinError, ValueError):
    """The user's to mend, raised at start only: names the key, the value and the fix (exit code 2)."""

    reason = "config"


class EventError(TocsinError, ValueError):
    """The sender's: this one event goes to the dead letters and is counted; the worker goes on.

    Messages name the field, what was found and what was expected. They never hold a value of the
    payload, which may be personal data.
    """

    reason = "event"


class DecodeError(EventError):
    """The bytes are not what their content type says."""

    reason = "decode"


class SizeError(EventError):
    """An event is larger than the configured limit."""

    reason = "size"


class SchemaError(EventError):
    """The bytes decode, but a field is missing, unknown, of the wrong type or of the wrong shape."""

    reason = "schema"

    def __init__(self, message: str, path: str = "$") -> None:
        super().__init__(message)
        self.path = path


class NonFiniteError(EventError):
    """A number is NaN or infinite, or too large for a 64-bit float."""

    reason = "non_finite"

    def __init__(self, message: str, path: str = "$") -> None:
        super().__init__(message)
        self.path = path


class DetectorError(TocsinError):
    """Ours: one detector failed. It is set aside, an alert says so, the others go on."""

    reason = "detector"


class StateError(DetectorError):
    """A snapshot that cannot be read: the detector starts clean, and that is said."""

    reason = "state"


class TransportError(TocsinError):
    """The network's: retried with bounds, then the worker stops with its offsets uncommitted."""

    retriable = True
    reason = "transport"


class FencedError(TransportError):
    """Another worker owns the partition, or the store was rolled back: drop memory, claim again."""

    reason = "fenced"


class StorageError(TocsinError):
    """The disk's: it is full, or refuses. What lay there before is as it was, so the same call can succeed once there is room."""

    retriable = True
    reason = "storage"
