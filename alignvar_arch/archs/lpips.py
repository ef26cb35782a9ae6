"""LPIPS with SqueezeNet 1.1 (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
CVPR 2018, version 0.1), from weights that lie on this machine: nothing is ever downloaded.

Shapes: B batch, C channels of a tap, H W pixels, h w sides of a tap.
"""

import os
from pathlib import Path

import torch
from torch import nn
from torchvision.models import squeezenet1_1

from alignvar_arch.checkpoints import read
from alignvar_arch.errors import UserError

# Outputs of torchvision's `squeezenet1_1().features` that are compared, and their channels
TAPS = {1: 64, 4: 128, 7: 256, 9: 384, 10: 384, 11: 512, 12: 512}
# Statistics of the images LPIPS was trained on, for inputs in [-1, 1]
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
SMALLEST = 17  # pixels; a smaller side vanishes in SqueezeNet's third pooling

VARIABLE = "ALIGNVAR_LPIPS"
FEATURES_FILES = ("squeezenet1_1_features_fp32.pth", "squeezenet1_1-*.pth")
LINEAR_FILES = ("lin_v0.1_squeeze.pth", "squeeze.pth")


def find_lpips_weights(folder=None):
    """Looks for the two weight files.

    Args:
        folder: the only folder to look in; by default `$ALIGNVAR_LPIPS` if set, `./weights`, and torch.hub's
            checkpoints (`$TORCH_HOME/hub/checkpoints`), in this order, each file on its own.

    Returns:
        Paths of SqueezeNet's features and of the linear layers, each None where it was not found.
    """
    if folder is not None:
        folders = [folder]
    else:
        folders = [os.environ.get(VARIABLE), "weights", os.path.join(torch.hub.get_dir(), "checkpoints")]
    folders = [Path(name).expanduser() for name in folders if name]
    return tuple(
        next((path for place in folders for pattern in patterns for path in sorted(place.glob(pattern))), None)
        for patterns in (FEATURES_FILES, LINEAR_FILES))


def lpips_weights_missing(folder=None):
    """Says in one sentence which weight files to put where, or None when both are at hand."""
    features, linear = find_lpips_weights(folder)
    wanted = []
    if features is None:
        wanted.append("squeezenet1_1-b8a52dc0.pth (torchvision's SqueezeNet 1.1 weights)")
    if linear is None:
        wanted.append("lin_v0.1_squeeze.pth (of richzhang/PerceptualSimilarity on GitHub: "
                      "lpips/weights/v0.1/squeeze.pth)")
    if not wanted:
        return None
    place = folder if folder is not None else f"./weights or the folder that ${VARIABLE} names"
    return f"LPIPS has no weights here: put {' and '.join(wanted)} into {place}."


class LPIPSSqueeze(nn.Module):
    """Perceptual distance: 0 for equal images, about 0.7 for very different ones. Frozen, always in eval mode.

    Args:
        weights: folder of the weight files; None looks where find_lpips_weights says.

    Raises:
        UserError: a weight file is missing or damaged, or is of another network.
    """

    def __init__(self, *, weights=None):
        super().__init__()
        missing = lpips_weights_missing(weights)
        if missing:
            raise UserError(missing)
        features_path, linear_path = find_lpips_weights(weights)
        with torch.random.fork_rng(devices=[]):  # its initial values are overwritten; a seeded run must not notice
            self.features = squeezenet1_1(weights=None).features
        self.linear = nn.ParameterDict({str(tap): torch.empty(1, width, 1, 1) for tap, width in TAPS.items()})
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)
        state = _read(features_path)
        # torchvision's file holds the classifier too
        _load(self.features, {name.removeprefix("features."): value for name, value in state.items()
                              if not name.startswith("classifier.")}, features_path)
        state = _read(linear_path)
        names = {f"lin{index}.model.1.weight": str(tap) for index, tap in enumerate(TAPS)}
        _load(self.linear, {names.get(name, name): value for name, value in state.items()}, linear_path)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode=True):
        """Stays in eval mode: SqueezeNet is a fixed ruler, also as part of a model in training."""
        return super().train(False)

    def forward(self, x, y):
        """Distances of the images of two batches, differentiable in both.

        Args:
            x: RGB images (B, 3, H, W) in [0, 1].
            y: the same shape and range.

        Returns:
            Distances (B,).

        Raises:
            UserError: a side is shorter than 17 pixels.
        """
        if min(x.shape[-2:]) < SMALLEST:
            raise UserError(f"LPIPS needs images of at least {SMALLEST}x{SMALLEST} pixels, not "
                            f"{x.shape[-1]}x{x.shape[-2]}: use larger images or take LPIPS out of the options.")
        distance = 0
        for tap, a, b in zip(TAPS, self._taps(x), self._taps(y), strict=True):
            distance = distance + (self.linear[str(tap)] * (a - b).square()).sum(1).mean((1, 2))
        return distance

    def _taps(self, x):
        """Yields the compared features (B, C, h, w), each pixel's vector scaled to length 1."""
        x = (2 * x - 1 - self.shift) / self.scale
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in TAPS:
                # vector_norm's gradient at a pixel without any feature is 0, a square root's would be NaN
                yield x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10)


def _read(path):
    states, _ = read(str(path))
    if "params" not in states:
        raise UserError(f"{path} holds {', '.join(states)} where one bare state dict belongs; get the file again.")
    return states["params"]


def _load(module, state, path):
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is of another network than LPIPS-squeeze; get the file again ({reason}).") from error
