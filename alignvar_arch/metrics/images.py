"""Images as BasicSR's validation hands them to metrics, made ready for networks."""

import numpy as np
import torch
from basicsr.metrics.metric_util import reorder_image


def cropped(image, crop_border, input_order):
    """Takes the border off.

    Args:
        image: BGR or grey image, range [0, 255], (H, W, 3), (H, W, 1), (H, W), or (C, H, W) with input_order CHW.
        crop_border: pixels to leave out at each edge.
        input_order: HWC or CHW.

    Returns:
        RGB (H, W, 3), range and type as given; grey is repeated.

    Raises:
        ValueError: another input_order, other channels than 1 or 3, or nothing is left inside the border.
    """
    image = reorder_image(image, input_order=input_order)
    height, width, channels = image.shape
    if channels not in (1, 3):
        raise ValueError(f"an image has 1 or 3 channels, not {channels}")
    if min(height, width) <= 2 * crop_border:
        raise ValueError(f"nothing is left of {width}x{height} pixels inside a border of {crop_border}")
    image = image[crop_border:height - crop_border, crop_border:width - crop_border, ::-1]
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def to_tensor(image, crop_border, input_order):
    """The same as `cropped`, as a tensor (1, 3, H, W) in [0, 1]."""
    image = cropped(image, crop_border, input_order)
    return torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255)[None]


def check_pair(img, img2, name):
    """Raises ValueError where two images differ in shape."""
    if img.shape != img2.shape:
        raise ValueError(f"{name} compares images of one shape, not {img.shape} with {img2.shape}.")
