"""`tocsin schema`: the contract of the wire, as AsyncAPI and JSON Schema."""

from __future__ import annotations

from pathlib import Path

from ..core.schema import asyncapi, documents


def run(write: Path | None) -> int:
    """Print the AsyncAPI document, or write all documents into a folder."""
    if write is None:
        print(asyncapi())
        return 0
    for name, text in documents().items():
        path = write / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0
