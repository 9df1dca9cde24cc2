"""Files that are there whole or not at all, whenever the machine stops. What they hold is others' business."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..core.errors import StorageError

TEMPORARY = ".tocsin-tmp"


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a temporary path in the same folder; what is written there takes the name when the block ends.

    Guarantees: until the block ends the file that had the name is untouched; afterwards the new one is on the
    disk, and so is its name. A block that raises leaves nothing.

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
        _sync(path.parent)
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


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
