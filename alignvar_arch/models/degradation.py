"""Real-ESRGAN's two-stage degradation on the training device: LR out of GT and the kernels of RealESRGANDataset."""
import contextlib
import math

import torch
from basicsr.data.realesrgan_dataset import RealESRGANDataset
from basicsr.models.realesrnet_model import RealESRNetModel
from basicsr.utils import DiffJPEG, USMSharp
from basicsr.utils.registry import DATASET_REGISTRY

from alignvar_arch.compat.registries import find
from alignvar_arch.errors import UserError
from alignvar_arch.training import rng

KERNELS = ("kernel1", "kernel2", "sinc_kernel")
_STAGES = ("", "2")
_RATES = ("second_blur_prob", *(f"{name}{stage}" for name in ("gaussian_noise_prob", "gray_noise_prob")
                                for stage in _STAGES))
_RANGES = tuple(f"{name}{stage}" for name in ("resize_range", "noise_range", "poisson_scale_range", "jpeg_range")
                for stage in _STAGES)
_CHOICES = tuple(f"resize_prob{stage}" for stage in _STAGES)


class Degradation(RealESRNetModel):
    """The degradation of BasicSR's RealESRNetModel by itself, for one image after another.

    Each image has draws of its own, from its own seed: what becomes of it depends neither on the batch that it is in
    nor on the process. RealESRNetModel draws scales and noise's kind once a batch, and mixes batches in a pool; here
    each image has its own anyway, and a pool would have to be saved.

    Args:
        opt: complete options, with RealESRNetModel's keys at their top (``check_options``).
        device: where it works.
    """

    def __init__(self, opt: dict, device: torch.device):
        # Not the parent's, which would build a network.
        self.opt = {**opt, "gt_size": opt["datasets"]["train"]["gt_size"]}
        self.device, self.is_train = device, True
        self.jpeger = DiffJPEG(differentiable=False).to(device)
        self.usm_sharpener = USMSharp().to(device)

    def __call__(self, data: dict, seeds: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return GT (B, 3, gt_size, gt_size), sharpened with ``gt_usm``, and its LR, in [0, 1], on the device.

        Args:
            data: a batch of RealESRGANDataset; its pictures may be larger than gt_size.
            seeds: one an image.
        """
        pairs = []
        for number, seed in enumerate(seeds):
            with _drawing_from(seed, self.device):
                self.feed_data({key: data[key][number:number + 1] for key in ("gt", *KERNELS)})
            pairs.append((self.gt, self.lq))
        gt, lq = map(torch.cat, zip(*pairs, strict=True))
        return gt, lq

    def _dequeue_and_enqueue(self):
        """Leave the pair as it is, where the parent exchanges it for others of its pool."""


@contextlib.contextmanager
def _drawing_from(seed: int, device: torch.device):
    """Draw from ``seed``, on CPU and device, and put every generator back."""
    on_gpu = device.type == "cuda"
    with rng.kept(), torch.random.fork_rng([torch.cuda.current_device()] if on_gpu else []):
        rng.seed(seed)
        if on_gpu:
            torch.cuda.manual_seed(seed)
        yield


def gives_kernels(block: dict) -> bool:
    """Return whether a data set's items are GT and kernels, of which LR is still to be made."""
    dataset = find(DATASET_REGISTRY, block["type"])
    return isinstance(dataset, type) and issubclass(dataset, RealESRGANDataset)


def check_options(opt: dict) -> None:
    """Raise UserError where data and degradation do not fit, or its options are missing or wrong."""
    for phase, block in opt["datasets"].items():
        if phase != "train" and gives_kernels(block):
            raise UserError(f"datasets.{phase}.type: {block['type']} gives no LR and is for training; use "
                            "EvaluationDataset, which makes it where there is none.")
    if not opt["is_train"]:
        return
    train, wanted = opt["datasets"]["train"], opt.get("high_order_degradation", True)
    if not gives_kernels(train):
        if opt.get("high_order_degradation"):
            raise UserError(f"high_order_degradation: is true, but {train['type']} gives no kernels; use "
                            "RealESRGANDataset, or leave it out.")
        return
    if wanted is not True:
        raise UserError(f"high_order_degradation: is {wanted!r}, but {train['type']} gives no LR, which the "
                        "degradation makes; leave it out, or use a data set of pairs.")
    if "gt_size" not in train or opt.get("gt_size", train["gt_size"]) != train["gt_size"]:
        raise UserError(f"datasets.train.gt_size: is {train.get('gt_size')!r}, and gt_size {opt.get('gt_size')!r}; set "
                        "the first to the side of GT's crops and leave the second out.")
    if "queue_size" in opt:
        raise UserError("queue_size: there is no pool of training pairs here, since every image is degraded by itself; "
                        "leave it out.")
    _check_values(opt)


def _check_values(opt: dict) -> None:
    missing = [key for key in ("gt_usm", *_CHOICES, *_RATES, *_RANGES) if key not in opt]
    if missing:
        raise UserError(f"{missing[0]}: missing, and RealESRGANDataset leaves it to the model to make LR; take Real-"
                        f"ESRGAN's values from options/paper/alignvar_d24_x4.yml (missing: {', '.join(missing)}).")
    if not isinstance(opt["gt_usm"], bool):
        raise UserError(f"gt_usm: is {opt['gt_usm']!r}, but must be true or false.")
    for key in _RATES:
        if not _numbers([opt[key]], 1, 0, 1):
            raise UserError(f"{key}: is {opt[key]!r}, but must be a number from 0 to 1.")
    for key in _CHOICES:
        if not _numbers(opt[key], 3, 0) or sum(opt[key]) <= 0:
            raise UserError(f"{key}: is {opt[key]!r}, but must be three weights: up, down, keep.")
    for key in _RANGES:
        low, high = (1, 100) if "jpeg" in key else (0, math.inf)
        value = opt[key]
        if not _numbers(value, 2, low, high) or value[0] > value[1]:
            raise UserError(f"{key}: is {value!r}, but must be two numbers from {low} {_upper(high)}, the smaller "
                            "first.")
        if "resize" in key and not 0 < value[0] <= 1 <= value[1]:
            raise UserError(f"{key}: is {value!r}, but must go from below 1, to shrink, to above it, to enlarge.")


def _numbers(value, count: int, low: float, high: float = math.inf) -> bool:
    return isinstance(value, list) and len(value) == count and all(
        isinstance(number, (int, float)) and not isinstance(number, bool) and low <= number <= high for number in value)


def _upper(high: float) -> str:
    return "up" if high == math.inf else f"to {high}"
