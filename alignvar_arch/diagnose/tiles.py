"""The pictures of a diagnosis: of every image one tile, what the networks take at once."""
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset

from alignvar_arch.errors import UserError


@dataclass(frozen=True)
class Tile:
    """The middle of an image.

    Attributes:
        name: SET/IMAGE, unique.
        lr: (1, 3, t, t) in [0, 1].
        gt: (1, 3, t·scale, t·scale) in [0, 1].
        top, left: where the tile lies in the LR, in LR pixels.
        whole: height and width of the LR it was cut from.
    """

    name: str
    lr: torch.Tensor
    gt: torch.Tensor
    top: int
    left: int
    whole: tuple[int, int]


class Tiles:
    """The tiles of data sets; images that cannot be used are named on stderr, counted and passed over.

    Args:
        datasets: BasicSR data sets in their test phase, giving ``lq`` and ``gt``.
        scale: GT's size over LR's.
        side: of a tile, in LR pixels.
        limit: most images of a set.

    Attributes:
        failed: what was passed over so far, (image, reason).
    """

    def __init__(self, datasets: Iterable[Dataset], scale: int, side: int, limit: int):
        self.datasets, self.scale, self.side, self.limit = list(datasets), scale, side, limit
        self.failed: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return sum(min(len(dataset), self.limit) for dataset in self.datasets)

    def __iter__(self) -> Iterator[Tile]:
        taken = set()
        for dataset in self.datasets:
            for index in range(min(len(dataset), self.limit)):
                name = f"{dataset.opt['name']}/{index + 1}"
                try:
                    sample = dataset[index]
                    if "gt" in sample:
                        stem = Path(sample["gt_path"]).stem
                        name = f"{dataset.opt['name']}/{stem}"
                        # Images of one name in sub-folders.
                        name = f"{name}-{index + 1}" if name in taken else name
                        tile = self._cut(name, sample["lq"][None], sample["gt"][None])
                except UserError as error:
                    print(f"basicsr: {error}", file=sys.stderr)
                    self.failed.append((name, str(error)))
                    continue
                if "gt" not in sample:
                    raise UserError(f"the data set {dataset.opt['name']} gives no GT, which the diagnosis compares "
                                    "with; give folders by --sets NAME=HR,LR.")
                taken.add(name)
                yield tile

    def _cut(self, name: str, lr: torch.Tensor, gt: torch.Tensor) -> Tile:
        height, width = lr.shape[-2:]
        scale, side = self.scale, self.side
        if min(height, width) < side:
            raise UserError(f"{name}: its LR is {width}x{height}, smaller than the {side}x{side} that the networks "
                            "take at once; leave it out.")
        if gt.shape[-2] < height * scale or gt.shape[-1] < width * scale:
            raise UserError(f"{name}: GT is {gt.shape[-1]}x{gt.shape[-2]} and LR {width}x{height}, but scale {scale} "
                            f"asks for a GT of {width * scale}x{height * scale}.")
        top, left = (height - side) // 2, (width - side) // 2
        return Tile(name, lr[..., top:top + side, left:left + side],
                    gt[..., top * scale:(top + side) * scale, left * scale:(left + side) * scale], top, left,
                    (height, width))
