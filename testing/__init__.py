"""Checks that every detector passes, ours and yours: `check_detector`."""

from .cases import Case, bit_case, category_case, logit_case, normal_case, seasonal_case
from .checks import check_detector

__all__ = [
    "Case", "bit_case", "category_case", "check_detector", "logit_case", "normal_case",
    "seasonal_case",
]  # fmt: skip
