"""Pictures of any size through networks of one size: overlapping tiles, what is made of them blended.

Shapes: B pictures, h×w the LR's size, t a tile's side in LR pixels, n the side of a tile's map, C channels.
"""
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import gcd

import torch
import torch.nn.functional as F

from alignvar_arch.archs.layers.windows import blending, cover
from alignvar_arch.archs.tokenizer_arch import AlignVARTokenizer


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut.

    Attributes:
        tile: side of a tile, t LR pixels.
        overlap: least overlap of neighbouring tiles in LR pixels, from 0 to below the tile.
        step: tiles begin at multiples of it, LR pixels; pictures are padded to one. Divides the tile.
        batch: most tiles at once.

    Raises:
        ValueError: an overlap that leaves no step from tile to tile.
    """

    tile: int
    overlap: int
    step: int = 1
    batch: int = 8

    def __post_init__(self):
        if not 0 <= self.overlap < self.tile:
            raise ValueError(f"the overlap must be from 0 to {self.tile - 1}, below the tile, not {self.overlap}")

    @classmethod
    def of(cls, tokenizer: AlignVARTokenizer, scale: int, overlap: int | None = None, batch: int = 8) -> "Tiling":
        """Return the tiling for pictures of ``tokenizer``'s size, on its latent's grid; an overlap of t/4 by default.
        """
        tile = tokenizer.image_side // scale
        step = tokenizer.factor // gcd(tokenizer.factor, scale)
        return cls(tile, tile // 4 if overlap is None else overlap, step, batch)

    def padded(self, length: int) -> int:
        """Return the length that a side is padded to: a tile or more, and whole steps."""
        return max(self.tile, -(-length // self.step) * self.step)

    def starts(self, length: int) -> list[int]:
        """Return where tiles begin along a side: as few as cover it, spread evenly."""
        tile, room = self.tile // self.step, self.padded(length) // self.step
        # An overlap that is no multiple of the step is rounded up, unless that would leave none.
        overlap = min(-(-self.overlap // self.step), tile - 1)
        return [start * self.step for start in cover(room, tile, overlap)]

    def places(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return top and left of all tiles of a picture, row by row."""
        return [(y, x) for y in self.starts(height) for x in self.starts(width)]


@dataclass(frozen=True)
class Place:
    """Where a tile was cut: which picture, which of its tiles, top and left in LR pixels."""

    picture: int
    index: int
    top: int
    left: int


def pad(pictures: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Replicate the right and lower edges of (B, C, h, w) up to the given size."""
    right, below = max(width - pictures.shape[-1], 0), max(height - pictures.shape[-2], 0)
    return F.pad(pictures, (0, right, 0, below), mode="replicate")


def cut(lr: torch.Tensor, *others: torch.Tensor, tiling: Tiling,
        scale: int) -> Iterator[tuple[list[Place], list[torch.Tensor]]]:
    """Yield batches of tiles.

    Args:
        lr: (B, 3, h, w), any size.
        others: pictures of ``scale`` times the LR's size, cut in the same places.
        tiling: how.
        scale: the others' size over the LR's.

    Yields:
        Where the tiles come from, and the tiles (b, 3, t, t) of ``lr`` and (b, 3, t·scale, t·scale) of each other.
    """
    places = tiling.places(*lr.shape[-2:])
    height, width = (tiling.padded(side) for side in lr.shape[-2:])
    padded = [(pad(x, height * s, width * s), s) for x, s in [(lr, 1), *((other, scale) for other in others)]]
    all_places = [Place(i, index, y, x) for i in range(len(lr)) for index, (y, x) in enumerate(places)]
    for first in range(0, len(all_places), tiling.batch):
        some = all_places[first:first + tiling.batch]
        yield some, [torch.stack([x[p.picture, :, p.top * s:(p.top + tiling.tile) * s,
                                    p.left * s:(p.left + tiling.tile) * s] for p in some]) for x, s in padded]


def blended(function: Callable[..., torch.Tensor], lr: torch.Tensor, *others: torch.Tensor, tiling: Tiling,
            scale: int) -> torch.Tensor:
    """Run ``function`` on all tiles and blend what it makes.

    Args:
        function: takes the places of b tiles, the tiles (b, 3, t, t) of ``lr`` and those of each other; returns maps
            (b, C, n, n), n so that ``tiling.step`` LR pixels are whole pixels of theirs.
        lr, others, tiling, scale: as for ``cut``.

    Returns:
        (B, C, H, W), float32, which describes the picture padded as ``tiling`` says.
    """
    total = weight = None
    for places, tiles in cut(lr, *others, tiling=tiling, scale=scale):
        made = function(places, *tiles)
        if total is None:
            side = made.shape[-1]
            weights = blending(side, side, made.device)
            shape = [tiling.padded(length) * side // tiling.tile for length in lr.shape[-2:]]
            total = weights.new_zeros(len(lr), made.shape[1], *shape)
            weight = weights.new_zeros(len(lr), 1, *shape)
        for one, place in zip(made, places, strict=True):
            top, left = place.top * side // tiling.tile, place.left * side // tiling.tile
            area = (place.picture, ..., slice(top, top + side), slice(left, left + side))
            total[area] += one * weights
            weight[area] += weights
    return total / weight
