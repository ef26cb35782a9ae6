"""FID, a figure of a whole data set, within BasicSR's validation, which sums up figures of images.

Shapes: N images, D features.
"""

import math
import numbers

import numpy as np
import torch
from basicsr.utils.registry import METRIC_REGISTRY
from PIL import Image

from alignvar_arch.metrics.images import cropped
from alignvar_arch.metrics.pyiqa_networks import FID, exact

SIDE = 299  # pixels, what InceptionV3 was trained on


class FeaturePairs:
    """Features of pictures and of their ground truths, which add up like numbers until the set is complete.

    BasicSR computes 0 + x_1 + … + x_N and divides by N; the quotient here is the FID of all pairs, a float.

    Args:
        features: (N, D), of the pictures.
        references: (N, D), of the ground truths.
    """

    def __init__(self, features, references):
        self._features = [features]
        self._references = [references]

    def __len__(self):
        return sum(map(len, self._features))

    def __add__(self, other):
        if not isinstance(other, FeaturePairs):
            return self if _is_zero(other) else NotImplemented
        total = FeaturePairs.__new__(FeaturePairs)
        total._features = self._features + other._features
        total._references = self._references + other._references
        return total

    __radd__ = __add__

    def __truediv__(self, count):
        """The FID; nan for fewer than two pairs, which have no covariance.

        Raises:
            ValueError: `count` is not the number of pairs.
        """
        if count != len(self):
            raise ValueError(f"FID of {len(self)} images is no figure of {count}")
        return frechet_distance(np.concatenate(self._features), np.concatenate(self._references))


def frechet_distance(a, b):
    """Squared Fréchet distance of the normal distributions fitted to two sets of features (Heusel et al. 2017, eq. 6).

    |mean(a) − mean(b)|² + tr(A + B − 2·(A·B)^½), with covariances A, B. The root's trace is the sum of the singular
    values of X·Yᵀ, where A = XᵀX and B = YᵀY: exact also for fewer images than features, where a matrix root is not.

    Args:
        a: (N, D).
        b: (M, D).

    Returns:
        A float, 0 or more; nan where a set has fewer than two rows.
    """
    if min(len(a), len(b)) < 2:
        return math.nan
    a, b = a.astype(np.float64), b.astype(np.float64)
    x, y = _root_of_covariance(a), _root_of_covariance(b)
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    distance = ((a.mean(0) - b.mean(0)) ** 2).sum() + (x ** 2).sum() + (y ** 2).sum() - 2 * cross
    return max(float(distance), 0.0)  # of equal sets rounding leaves a negative nothing


def _root_of_covariance(features):
    """X with XᵀX the covariance, of at most D rows."""
    centred = (features - features.mean(0)) / math.sqrt(len(features) - 1)
    return centred if len(centred) <= centred.shape[1] else np.linalg.qr(centred, mode="r")


@METRIC_REGISTRY.register()
def calculate_fid(img, img2, crop_border, input_order="HWC", device="cpu", **kwargs):
    """FID of pyiqa ("clean": bicubic with antialiasing to 299x299); lower is better. A figure of the whole data set.

    It is biased upwards on small sets: compare it between equal sets only.

    Args:
        img: BGR or grey image, range [0, 255], (H, W, 3), (H, W), or (3, H, W) with input_order CHW.
        img2: the ground truth, in the same form; it may have another size.
        crop_border: pixels to leave out at each edge.
        input_order: HWC or CHW.
        device: cpu, so that every machine reports the same figure, or cuda.
        kwargs: not used; BasicSR passes every metric everything it has.

    Returns:
        FeaturePairs of the image: add up those of all images, then divide by their number.

    Raises:
        UserError: pyiqa or its weights are missing or damaged.
    """
    with exact():
        batch = torch.stack([_to_inception(image, crop_border, input_order) for image in (img, img2)])
        features = FID.build(device).model(batch.to(device), False, False)[0].flatten(1).cpu().numpy()
    return FeaturePairs(features[:1], features[1:])


calculate_fid.label = "FID"
calculate_fid.better = "lower"
calculate_fid.of_a_set = True
calculate_fid.unavailable = lambda *, device="cpu", **kwargs: FID.unavailable(device)
calculate_fid.version = lambda **kwargs: FID.version()


def _to_inception(image, crop_border, input_order):
    """The tensor (3, 299, 299) that clean-fid feeds: each channel resized in float, then scaled as TensorFlow's."""
    image = cropped(image, crop_border, input_order)
    channels = [Image.fromarray(np.ascontiguousarray(image[..., index], dtype=np.float32)).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC) for index in range(3)]
    return (torch.from_numpy(np.stack(channels).clip(0, 255)) - 128) / 128


def _is_zero(value):
    return isinstance(value, numbers.Number) and value == 0
