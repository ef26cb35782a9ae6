"""Registered metrics."""

from alignvar_arch.metrics.lpips_squeeze import calculate_lpips_squeeze

__all__ = ["calculate_lpips_squeeze"]
