"""LPIPS-squeeze as a BasicSR metric."""

import functools

import numpy as np
import torch
from basicsr.metrics.metric_util import reorder_image
from basicsr.utils.registry import METRIC_REGISTRY

from alignvar_arch.archs.lpips import LPIPSSqueeze, find_lpips_weights, lpips_weights_missing


@METRIC_REGISTRY.register()
def calculate_lpips_squeeze(img, img2, crop_border, input_order="HWC", weights=None, **kwargs):
    """LPIPS with SqueezeNet 1.1; lower is better. On the CPU, so that every machine reports the same figure.

    Args:
        img: BGR image, range [0, 255], (H, W, 3), or (3, H, W) with input_order CHW.
        img2: the image to compare with, of the same shape.
        crop_border: pixels to leave out at each edge.
        input_order: HWC or CHW.
        weights: folder of the weight files; None looks where find_lpips_weights says.
        kwargs: not used; BasicSR passes every metric everything it has.

    Returns:
        The distance, a float.

    Raises:
        UserError: weights are missing or damaged, or the images are too small.
        ValueError: the images' shapes differ.
    """
    if img.shape != img2.shape:
        raise ValueError(f"LPIPS compares images of one shape, not {img.shape} with {img2.shape}.")
    with torch.no_grad():
        a, b = (_to_tensor(image, crop_border, input_order) for image in (img, img2))
        return _model(weights, find_lpips_weights(weights))(a, b).item()


def unavailable(*, weights=None, **kwargs):
    """Why the metric cannot be computed here, in one sentence, or None. Takes the metric's own options."""
    return lpips_weights_missing(weights)


calculate_lpips_squeeze.unavailable = unavailable


def _to_tensor(image, crop_border, input_order):
    """BGR in [0, 255] to an RGB tensor (1, 3, H, W) in [0, 1]."""
    image = reorder_image(image, input_order=input_order)
    height, width = image.shape[:2]
    image = image[crop_border:height - crop_border, crop_border:width - crop_border, ::-1]
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32) / 255)[None]


@functools.lru_cache(maxsize=1)
def _model(weights, paths):
    """The network, built once; `paths` is part of the key because the environment decides them."""
    return LPIPSSqueeze(weights=weights)
