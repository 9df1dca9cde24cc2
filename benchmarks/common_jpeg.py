"""What images are after JPEG, without a library for it."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

QUALITY: Final = 75
_LUMINANCE: Final = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)  # fmt: skip
_CHROMINANCE: Final = np.full((8, 8), 99)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
"""Tables K.1 and K.2 of the standard (ITU-T T.81, 1992)."""
_TO_YCC: Final = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)


def jpeg(
    images: NDArray[np.uint8], quality: int = QUALITY, *, subsampled: bool = False
) -> NDArray[np.uint8]:
    """Return what (n, h, w) or (n, h, w, 3) images are after JPEG, of even height and width where colours are subsampled, 4:2:0; its coding loses nothing."""
    if images.ndim == 3:
        x = _coded(images.astype(np.float64) - 128, _LUMINANCE, quality) + 128
        return np.clip(np.rint(x), 0, 255).astype(np.uint8)
    y, *colours = np.moveaxis(images @ _TO_YCC.T, 3, 0)
    y = _coded(y - 128, _LUMINANCE, quality) + 128
    if subsampled:
        n, h, w = y.shape
        small = [c.reshape(n, h // 2, 2, w // 2, 2).mean(axis=(2, 4)) for c in colours]
        small = [_coded(c, _CHROMINANCE, quality) for c in small]
        colours = [c.repeat(2, axis=1).repeat(2, axis=2) for c in small]
    else:
        colours = [_coded(c, _CHROMINANCE, quality) for c in colours]
    x = np.stack([y, *colours], axis=3) @ np.linalg.inv(_TO_YCC).T
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def _coded(
    plane: NDArray[np.float64], table: NDArray[np.int64], quality: int
) -> NDArray[np.float64]:
    """Return what is left of (n, h, w) values around 0."""
    n, h, w = plane.shape
    x = np.pad(plane, ((0, 0), (0, -h % 8), (0, -w % 8)), mode="edge")
    k = np.arange(8)
    dct = np.cos(np.pi * (2 * k + 1) * k[:, None] / 16) * np.where(k[:, None], 0.5, np.sqrt(1 / 8))
    scale = 200 - 2 * quality if quality >= 50 else 5000 / quality
    steps = np.clip(np.floor((table * scale + 50) / 100), 1, 255)
    blocks = x.reshape(n, x.shape[1] // 8, 8, x.shape[2] // 8, 8).swapaxes(2, 3)
    blocks = dct.T @ (np.rint(dct @ blocks @ dct.T / steps) * steps) @ dct
    found: NDArray[np.float64] = blocks.swapaxes(2, 3).reshape(x.shape)[:, :h, :w]
    return found
