"""Registered metrics, their short names, and what a report says of them."""

from alignvar_arch.metrics.lpips_squeeze import calculate_lpips_squeeze
from alignvar_arch.metrics.names import NAMES, describe, version

__all__ = ["NAMES", "calculate_lpips_squeeze", "describe", "version"]
