"""AlignVAR: visual autoregressive super-resolution as a plugin for BasicSR.

Importing the package mends BasicSR for today's stack and registers its archs, datasets, losses, metrics and models. It
makes no folder, reads no argument and touches no GPU.
"""

from alignvar_arch import compat

compat.apply()

from alignvar_arch import archs, data, losses, metrics, models  # noqa: E402
from alignvar_arch.archs.loading import load  # noqa: E402
from alignvar_arch.inference.upscaler import Upscaler  # noqa: E402
from alignvar_arch.version import __version__  # noqa: E402

__all__ = ["Upscaler", "__version__", "archs", "compat", "data", "load", "losses", "metrics", "models"]
