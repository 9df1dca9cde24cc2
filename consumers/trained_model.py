"""Which model a training reference is of: its version, the hash of its weights, the rows. A part of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from .. import __version__
from ..core.errors import ConfigError
from . import training_reference

PART: Final = "model"
"""The part's name in the file."""


class TrainedModel(msgspec.Struct, frozen=True, kw_only=True):
    """Which model it is.

    Parameters
    ----------
    version
        As its events have it; None where they have none, or several.
    weights
        SHA-256 of its weights in hexadecimal digits, see `tocsin.training.weights_sha256`; None where nobody knew them.
    rows
        Rows that the streams are of.
    tocsin_version
        Who wrote it.
    """

    version: str | None
    weights: str | None
    rows: int
    tocsin_version: str = __version__


def encode(of: TrainedModel) -> bytes:
    """Return the part."""
    return msgspec.json.encode(of)


@training_reference.remembered
def read(file: Path) -> TrainedModel | None:
    """Return which model a reference file is of; None in files that do not say.

    Raises
    ------
    ConfigError
        The file, or its part, cannot be read.
    """
    part = training_reference.read(file).parts.get(PART)
    if part is None:
        return None
    try:
        return msgspec.json.decode(part, type=TrainedModel)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"drift.reference {file}: what it says of its model cannot be read ({error}): write it anew"
        ) from None
