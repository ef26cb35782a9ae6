"""Pictures of any size through networks of one size: overlapping tiles, blended."""
from collections.abc import Callable

import torch
import torch.nn.functional as F


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return where tiles begin along one side: as few as cover it, evenly spread, ``overlap`` or more in common."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _window(size: int, like: torch.Tensor) -> torch.Tensor:
    """Return blending weights (size, size), a pyramid that is highest in the middle and nowhere zero."""
    ramp = torch.arange(1, size + 1, device=like.device, dtype=like.dtype)
    ramp = torch.minimum(ramp, ramp.flip(0))
    return ramp[:, None] * ramp


def _pad(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Replicate the right and lower edges up to the given size."""
    return F.pad(x, (0, max(width - x.shape[-1], 0), 0, max(height - x.shape[-2], 0)), mode="replicate")


def tiled(function: Callable[..., torch.Tensor], lr: torch.Tensor, *others: torch.Tensor, scale: int, tile: int,
          overlap: int, batch: int) -> torch.Tensor:
    """Apply a network of fixed size to a picture of any size.

    Args:
        function: takes tiles (b, 3, tile, tile) of ``lr`` and (b, 3, tile·scale, tile·scale) of each of ``others``;
            returns (b, 3, tile·scale, tile·scale).
        lr: (B, 3, h, w).
        others: pictures of ``scale`` times the LR's size, cut in the same places.
        scale: output over input size.
        tile: side of a tile in LR pixels.
        overlap: least overlap of neighbouring tiles in LR pixels, below ``tile``.
        batch: most tiles at once.

    Returns:
        (B, 3, h·scale, w·scale).

    Raises:
        ValueError: an overlap that leaves no step from tile to tile.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"the overlap must be from 0 to {tile - 1}, below the tile, not {overlap}")
    height, width = lr.shape[-2:]
    lr = _pad(lr, tile, tile)
    others = [_pad(x, tile * scale, tile * scale) for x in others]
    places = [(image, y, x) for image in range(len(lr)) for y in _starts(lr.shape[-2], tile, overlap)
              for x in _starts(lr.shape[-1], tile, overlap)]
    side = tile * scale
    window = _window(side, lr)
    total = lr.new_zeros(len(lr), 3, lr.shape[-2] * scale, lr.shape[-1] * scale)
    weight = lr.new_zeros(len(lr), 1, *total.shape[-2:])
    for first in range(0, len(places), batch):
        some = places[first:first + batch]
        cut = [torch.stack([x[i, :, y * s:(y + tile) * s, c * s:(c + tile) * s] for i, y, c in some])
               for x, s in [(lr, 1), *((other, scale) for other in others)]]
        for out, (i, y, c) in zip(function(*cut), some, strict=True):
            area = (i, ..., slice(y * scale, y * scale + side), slice(c * scale, c * scale + side))
            total[area] += out.to(total.dtype) * window
            weight[area] += window
    return (total / weight)[..., :height * scale, :width * scale]
