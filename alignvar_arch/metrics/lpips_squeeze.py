"""LPIPS-squeeze as a BasicSR metric."""

import functools
import hashlib

import torch
from basicsr.utils.registry import METRIC_REGISTRY

from alignvar_arch.archs.lpips import LPIPSSqueeze, find_lpips_weights, lpips_weights_missing
from alignvar_arch.metrics.images import check_pair, to_tensor
from alignvar_arch.version import __version__


@METRIC_REGISTRY.register()
def calculate_lpips_squeeze(img, img2, crop_border, input_order="HWC", weights=None, **kwargs):
    """LPIPS with SqueezeNet 1.1; lower is better. On the CPU, so that every machine reports the same figure.

    Args:
        img: BGR or grey image, range [0, 255], (H, W, 3), (H, W), or (3, H, W) with input_order CHW.
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
    check_pair(img, img2, "LPIPS")
    with torch.no_grad():
        a, b = (to_tensor(image, crop_border, input_order) for image in (img, img2))
        return _model(weights, find_lpips_weights(weights))(a, b).item()


def unavailable(*, weights=None, **kwargs):
    """Why the metric cannot be computed here, in one sentence, or None. Takes the metric's own options."""
    return lpips_weights_missing(weights)


def version(*, weights=None, **kwargs):
    """What the figure depends on. The hash is of the values, which several forms of the weight files share."""
    digest = hashlib.sha256()
    for name, value in sorted(_model(weights, find_lpips_weights(weights)).state_dict().items()):
        digest.update(name.encode() + value.float().numpy().tobytes())
    return f"alignvar {__version__}, weights {digest.hexdigest()[:12]}"


calculate_lpips_squeeze.label = "LPIPS (SqueezeNet)"
calculate_lpips_squeeze.better = "lower"
calculate_lpips_squeeze.unavailable = unavailable
calculate_lpips_squeeze.version = version


@functools.lru_cache(maxsize=1)
def _model(weights, paths):
    """The network, built once; `paths` is part of the key because the environment decides them."""
    return LPIPSSqueeze(weights=weights)
