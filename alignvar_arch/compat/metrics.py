"""NIQE is not defined for every picture: where it is not, the figure is nan and one warning says so.

`calculate_niqe` ends a training run with LinAlgError on a flat picture and with RuntimeError under 96 pixels. It runs
in validation, hours into a run, on whatever the network paints.
"""

import functools
import math
import warnings

import numpy as np
from basicsr.metrics import niqe
from basicsr.utils import get_root_logger
from basicsr.utils.registry import METRIC_REGISTRY

from alignvar_arch.compat import patch

_BLOCK = 96  # pixels; NIQE compares statistics of blocks of this side, and needs more than one


def install() -> None:
    """Goes when BasicSR's `calculate_niqe` returns nan by itself."""
    guarded = _guard(niqe.calculate_niqe)
    guarded.better = "lower"  # BasicSR takes higher where the options do not say
    patch.everywhere(niqe.calculate_niqe, guarded)
    METRIC_REGISTRY._obj_map["calculate_niqe"] = guarded


def _guard(calculate):
    warned = []

    @functools.wraps(calculate)
    def calculate_niqe(img, crop_border, input_order="HWC", convert_to="y", **kwargs):
        reason = None
        height, width = img.shape[-2:] if input_order in ("CHW", "HW") else img.shape[:2]
        try:
            if min(height, width) - 2 * crop_border < _BLOCK:
                raise ValueError("the picture is too small")
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore", RuntimeWarning)
                value = float(calculate(img, crop_border, input_order, convert_to, **kwargs))
            if not math.isfinite(value):
                reason = "the picture is flat"
        except (np.linalg.LinAlgError, RuntimeError, ValueError, ZeroDivisionError, IndexError) as error:
            reason = " ".join(str(error).split())
        if reason is None:
            return value
        if not warned:
            warned.append(reason)
            get_root_logger().warning(f"NIQE is not defined for a picture of shape {img.shape} ({reason}); it counts "
                                      f"as nan. It needs at least {_BLOCK} pixels a side and some texture.")
        return math.nan

    return calculate_niqe
