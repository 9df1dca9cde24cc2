"""Checks that every detector passes, ours and yours: `check_detector`."""

from .cases import Case, bit_case, logit_case, normal_case
from .checks import check_detector

__all__ = ["Case", "bit_case", "check_detector", "logit_case", "normal_case"]
