"""Findings as a page of HTML that shows the samples."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Ints
from .finding import CONFLICT, QUARANTINED, Finding, listed

_SHOWN: Final = 24  # samples of a finding
_WIDTH: Final = 96  # of a picture on the page, in pixels
_MOST: Final = 384  # of it in the page, about; of larger ones each second row and column, or each third, and so on
_LONG: Final = 16  # times as long as wide is no picture
_NUMBERS: Final = 12  # of a sample that is no picture
_CHANNELS: Final = (1, 3, 4)
_STYLE: Final = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
h2 { font-size: 1.1rem; margin: 2rem 0 0.2rem } p { margin: 0.2rem 0 0.6rem } .aside, figcaption { font-size: 0.8rem; opacity: 0.8 } figcaption { margin-top: 4px }
.samples { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0; width: min-content; min-width: 6rem }
.shown { display: flex; gap: 6px } .picture { position: relative; align-self: start }
img { width: 96px; image-rendering: pixelated; display: block; outline: 1px solid #8888 } .part { position: absolute; outline: 2px solid #e0218a }
code { font-size: 0.8rem } .shown code { width: 12rem }
"""

_MAGENTA: Final = (255, 0, 255)  # of pixels that are not finite
_MARK: Final = "magenta is not finite"


class Read(Protocol):
    """Reads samples."""

    def __call__(
        self, rows: Ints, split: str = "", /
    ) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """Return the (n, ...) inputs and (n,) labels of samples, or of rows of another split that is named; None for what there is not."""
        ...


def page(findings: Iterable[Finding], read: Read | None) -> str:
    """Return the findings as HTML, with 24 samples of each: the most doubtful, or the first.

    Pictures are arrays of 2 axes, or of 3 with 1, 3 or 4 channels first or last; of others there are the first numbers.

    Parameters
    ----------
    read
        Reads samples; None for ones that cannot be read again, of which only the numbers are shown.

    Raises
    ------
    ImportError
        Pillow is not installed.
    """
    sections = [_section(one, read) for one in findings]
    body = "\n".join(sections) or "<p>nothing found</p>"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>What was found in the data</title><style>{_STYLE}</style>"
        f"<h1>What was found in the data</h1>\n{body}\n</html>\n"
    )


def _section(one: Finding, read: Read | None) -> str:
    rows = (one.order if len(one.order) else np.arange(len(one.samples)))[:_SHOWN]
    shown = one.samples[rows]
    inputs, labels = read(shown) if read is not None and len(shown) else (None, None)
    head = f"<h2>{escape(one.kind)}</h2><p>{escape(one.summary)}</p>"
    if inputs is None:
        return head + (f"<p>samples {listed(one.samples)}</p>" if len(shown) else "")
    if one.kind in QUARANTINED:
        head += '<p class="aside"><code>quarantine()</code> leaves them out</p>'
    else:
        head += f'<p class="aside">left out when asked for only: <code>quarantine("{one.kind}")</code></p>'
    # What a sample is a copy of is shown beside it.
    of = one.of[rows] if len(one.of) else None
    others, theirs = read(of, one.split) if read is not None and of is not None else (None, None)
    low, high = _range(inputs)
    figures: list[str] = []
    for k, (row, sample) in enumerate(zip(rows.tolist(), shown.tolist(), strict=True)):
        content = _content(inputs[k], low, high, one.part[row] if len(one.part) else None)
        caption = f"sample {sample}" + _label(labels, k)
        if len(one.rather):
            caption += f", the model prefers&nbsp;{one.rather[row]}"
        if of is not None:
            if others is not None:
                content += _content(others[k], low, high, None)
            word = "beside" if one.kind == CONFLICT else "of"
            where = f"row {of[k]} of {one.split}" if one.split else f"{word} {of[k]}"
            caption += f", {escape(where)}" + _label(theirs, k)
        if _MARK in content:
            caption += f"; {_MARK}"
        figures.append(
            f'<figure><div class="shown">{content}</div><figcaption>{caption}</figcaption></figure>'
        )
    rest = len(one.samples) - len(shown)
    more = f"<p>and {rest:,} more</p>" if rest else ""
    return f'{head}<div class="samples">{"".join(figures)}</div>{more}'


def _label(labels: NDArray[Any] | None, k: int) -> str:
    return "" if labels is None else f", label {labels[k]}"


def _range(inputs: NDArray[Any]) -> tuple[float, float]:
    """Return what is black and what is white: of numbers within [0, 1] or [0, 255] these, else the least and the greatest."""
    known = inputs[np.isfinite(inputs)]
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    for most in (1.0, 255.0):
        if low >= 0 and high <= most:
            return 0.0, most
    return low, high


def _content(x: NDArray[Any], low: float, high: float, box: Ints | None) -> str:
    picture = _picture(x)
    if picture is None:
        numbers = ", ".join(f"{v:.4g}" for v in x.reshape(-1)[:_NUMBERS].tolist())
        return f"<code>{numbers}{', ...' if x.size > _NUMBERS else ''}</code>"
    height, width = picture.shape[:2]
    step = max(1, max(height, width) // _MOST)
    part = picture[::step, ::step].astype(np.float64)
    grey = (np.nan_to_num((part - low) / (high - low or 1.0)) * 255).clip(0, 255).round()
    lost = ~np.isfinite(part)
    if lost.any():
        if grey.ndim == 2:
            grey, lost = np.stack([grey] * 3, axis=2), lost[:, :, None]
        grey[lost.any(axis=2), :3] = _MAGENTA
    mark = _MARK if lost.any() else ""
    inner = f'<img alt="{mark}" src="data:image/png;base64,{_png(grey.astype(np.uint8))}">'
    if box is not None:
        row, column, side = (_WIDTH * k / width for k in box.tolist())
        at = f"left:{column:.1f}px;top:{row:.1f}px;width:{side:.1f}px;height:{side:.1f}px"
        inner += f'<div class="part" style="{at}"></div>'
    return f'<div class="picture">{inner}</div>'


def _picture(x: NDArray[Any]) -> NDArray[Any] | None:
    """Return (height, width) or (height, width, channels) of a sample; None if it is no picture."""
    if x.ndim == 2 and min(x.shape) > 1:
        return None if _is_long(*x.shape) else x
    if x.ndim != 3 or not x.size:
        return None
    if x.shape[0] in _CHANNELS:
        x = np.moveaxis(x, 0, 2)
    if x.shape[2] not in _CHANNELS or _is_long(*x.shape[:2]):
        return None
    return x[:, :, 0] if x.shape[2] == 1 else x


def _is_long(height: int, width: int) -> bool:
    return max(height, width) > _LONG * min(height, width)


def _png(pixels: NDArray[np.uint8]) -> str:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "pictures need Pillow, which is not installed: pip install 'tocsin[training]'"
        ) from error
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
