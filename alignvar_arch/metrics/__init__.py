"""Registered metrics, their short names, and what a report says of them."""

from alignvar_arch.metrics.fid import calculate_fid
from alignvar_arch.metrics.lpips_squeeze import calculate_lpips_squeeze
from alignvar_arch.metrics.names import NAMES, describe, version
from alignvar_arch.metrics.perceptual import (
    calculate_clipiqa,
    calculate_dists,
    calculate_lpips,
    calculate_maniqa,
    calculate_maniqa_pipal,
    calculate_musiq,
)

__all__ = [
    "NAMES",
    "calculate_clipiqa",
    "calculate_dists",
    "calculate_fid",
    "calculate_lpips",
    "calculate_lpips_squeeze",
    "calculate_maniqa",
    "calculate_maniqa_pipal",
    "calculate_musiq",
    "describe",
    "version",
]
