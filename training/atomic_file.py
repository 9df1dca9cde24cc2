"""Files that are there whole or not at all, whenever the machine stops. What they hold is others' business."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..core.errors import StorageError

TEMPORARY = ".tocsin-tmp"

_log = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a temporary path in the same folder; what is written there takes the name when the block ends.

    Guarantees: until the block ends the file that had the name is untouched; afterwards the new one is on the
    disk, and so is its name. A block that raises leaves nothing. A folder that cannot be written through, as on some network file systems, is
    said in the log: the new file is there, and a power cut may bring back the one before.

    Raises
    ------
    StorageError
        The disk is full, or refuses.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    try:
        yield temporary
        if not temporary.is_symlink():
            _sync(temporary)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}. Files that were there before are as they were;"
            " make room, or give another dirpath"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    try:
        _sync(path.parent)
    except OSError as error:
        _log.warning("%s is written, and may not survive a power cut: %s", path, error)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
