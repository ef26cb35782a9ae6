"""What the benchmarks share: where the shipped networks lie, test pictures under one protocol, the machine in words."""
import platform
from collections.abc import Iterator
from pathlib import Path

import alignvar_arch  # noqa: F401 - before basicsr, which does not import without it

# isort: split
import cv2
import numpy as np
import torch
from basicsr.utils.matlab_functions import imresize

from alignvar_arch.archs import AlignVAR, AlignVARTokenizer
from alignvar_arch.inference.tiles import tiled
from alignvar_arch.machine import device_name

TOKENIZER = "alignvar_arch:weights/tokenizer_x4_small.safetensors"
MODEL = "alignvar_arch:weights/alignvar_x4_small.safetensors"
SCALE, BATCH = 4, 8


def pairs(folder: str) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Yield name, GT (1, 3, H, W) and LR (1, 3, H/4, W/4) in [0, 1]: RGB, cropped to multiples of 4, MATLAB bicubic."""
    for path in sorted(Path(folder).iterdir()):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            continue
        height, width = (side - side % SCALE for side in image.shape[:2])
        gt = torch.from_numpy(image[:height, :width, ::-1].transpose(2, 0, 1).astype(np.float32) / 255)
        lr = (imresize(gt, 1 / SCALE).clamp(0, 1) * 255).round() / 255
        yield path.stem, gt[None], lr[None]


def reconstruct(tokenizer: AlignVARTokenizer, gt: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
    """Return the tokenizer's reconstruction of GT, tile by tile, in [0, 1]."""
    def one(lr, gt):
        f_hat = tokenizer.encode(tokenizer.to_target(gt, lr)).cumulative[-1]
        return tokenizer.to_image(tokenizer.decode(f_hat), lr)

    return _tiled(one, tokenizer, lr, gt)


def upscale(model: AlignVAR, tokenizer: AlignVARTokenizer, lr: torch.Tensor, **sampling) -> torch.Tensor:
    """Return the model's picture of an LR, guidance 0, seed 0, in [0, 1]; ``sampling`` as for ``generate``."""
    draw, noise = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)

    def one(lr):
        made = model.generate(lr, tokenizer.quantize, model.structure(lr, noise), generator=draw, **sampling)
        return tokenizer.to_image(tokenizer.decode(made.f_hat), lr)

    return _tiled(one, tokenizer, lr)


def _tiled(function, tokenizer: AlignVARTokenizer, *pictures: torch.Tensor) -> torch.Tensor:
    tile = tokenizer.image_side // SCALE
    return tiled(function, *pictures, scale=SCALE, tile=tile, overlap=tile // 4, batch=BATCH).clamp(0, 1)


def machine() -> str:
    """Return device, cores and versions in words."""
    return f"{device_name()}, Python {platform.python_version()}, torch {torch.__version__}"
