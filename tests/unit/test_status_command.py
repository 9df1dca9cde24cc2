"""What `tocsin status` says of a model."""

from __future__ import annotations

import doctest

from tocsin.cli import status
from tocsin.cli.status import line


def test_examples() -> None:
    assert doctest.testmod(status).failed == 0


def test_what_is_of_the_latest_pairs_only_is_said_to_be() -> None:
    shown = line({"predictions": 9e4, "accuracy": 0.91234, "f1:macro": 0.9, "pairs": 900, "lag": 1})
    assert shown == "predictions 90,000  accuracy 0.9123, f1:macro 0.9 (latest 900 pairs)"
    assert line({"predictions": 3, "detectors_set_aside": 0}) == "predictions 3"
    assert line({"mae": 2.5, "pairs": 1}) == "mae 2.5 (latest 1 pair)"
