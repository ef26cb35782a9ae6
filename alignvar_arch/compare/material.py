"""What is compared on: every test set's GT and LR as 8-bit PNGs inside the report, with a hash of names and pixels."""

import hashlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from basicsr.utils import tensor2img
from torch.utils.data import Dataset

from alignvar_arch.errors import UserError

PICTURES = "pictures"


@dataclass(frozen=True)
class Item:
    """One image of a test set.

    Attributes:
        set_name: the set.
        image: the image's name, unique in its set.
        folder: the report's folder.
        size: height and width of GT in pixels.
    """

    set_name: str
    image: str
    folder: Path
    size: tuple[int, int]

    def place(self, picture: str) -> str:
        """Returns where a picture of this image lies, relative to the report: GT, LR, or a model's name."""
        return f"{PICTURES}/{self.set_name}/{self.image}/{picture}.png"

    def read(self, picture: str) -> np.ndarray:
        """Returns a picture as BGR uint8 (H, W, 3)."""
        return read_kept(self.folder / self.place(picture))

    def write(self, picture: str, pixels: np.ndarray) -> None:
        """Keeps a picture, BGR uint8 (H, W, 3)."""
        path = self.folder / self.place(picture)
        path.parent.mkdir(parents=True, exist_ok=True)
        # OpenCV's own writing hides what the disk says, and dies of a name that is no valid Unicode.
        path.write_bytes(cv2.imencode(".png", pixels)[1])


def read_kept(path: Path) -> np.ndarray:
    """Reads a PNG of a report as BGR uint8 (H, W, 3)."""
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)


@dataclass
class Material:
    """All test sets.

    Attributes:
        items: the images, set by set, in their data sets' order.
        sets: what the protocol says of each set: name, count, hash, LR kernel.
        unreadable: images left out: set, image, reason.
    """

    items: list[Item]
    sets: list[dict]
    unreadable: list[dict]


def gather(datasets: Iterable[Dataset], folder: Path, scale: int, limit: int | None = None) -> Material:
    """Writes GT and LR of every image into the report's folder, so that every model reads the very same bytes.

    Args:
        datasets: BasicSR data sets in their test phase, giving `lq` and `gt`, RGB (3, H, W) in [0, 1].
        folder: of the report.
        scale: GT's size over LR's.
        limit: at most so many images of each set; None takes all.

    Raises:
        UserError: a data set gives no GT or normalised pictures, or not one image of it can be used.
    """
    material = Material([], [], [])
    for dataset in datasets:
        _gather_one(dataset, folder, scale, limit, material)
    return material


def _gather_one(dataset: Dataset, folder: Path, scale: int, limit: int | None, material: Material) -> None:
    name = dataset.opt["name"]
    if dataset.opt.get("mean") is not None or dataset.opt.get("std") is not None:
        raise UserError(f"the data set {name} normalises by mean and std, but every model here gets pictures in [0, "
                        "1]; take the two options out.")
    digest, taken = hashlib.sha256(), set()
    for index in range(min(len(dataset), limit or len(dataset))):
        image = f"number {index + 1}"
        try:
            sample = dataset[index]
            if "gt" in sample:
                image = Path(sample.get("lq_path", sample.get("gt_path", image))).stem
                gt, lr = _pictures(sample, scale)
        except UserError as error:
            print(f"basicsr: {error}", file=sys.stderr)
            material.unreadable.append({"set": name, "image": image, "reason": str(error)})
            continue
        if "gt" not in sample:
            raise UserError(f"the data set {name} gives no GT, and a comparison needs it; use --sets NAME=HR,LR.")
        image = unique(image, taken)
        item = Item(name, image, folder, gt.shape[:2])
        item.write("GT", gt)
        item.write("LR", lr)
        digest.update(f"{image} {gt.shape} {lr.shape} ".encode(errors="surrogateescape") + gt.tobytes() + lr.tobytes())
        material.items.append(item)
    if not taken:
        raise UserError(f"the data set {name} has no image that can be used; the reasons stand above.")
    material.sets.append({"name": name, "count": len(taken), "hash": digest.hexdigest()[:16], "lr": _kernel(dataset)})


def _pictures(sample: dict, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns GT, without the rows and columns that do not fill an LR pixel, and LR as BGR uint8."""
    gt, lr = tensor2img(sample["gt"]), tensor2img(sample["lq"])
    height, width = (side * scale for side in lr.shape[:2])
    if not (0 <= gt.shape[0] - height < scale and 0 <= gt.shape[1] - width < scale):
        raise UserError(f"{sample.get('gt_path', 'an image')}: GT is {gt.shape[1]}x{gt.shape[0]} and LR {lr.shape[1]}x"
                        f"{lr.shape[0]}, but scale {scale} asks for a GT of {width}x{height}.")
    return np.ascontiguousarray(gt[:height, :width]), lr


def _kernel(dataset: Dataset) -> str:
    """Says where a data set's LR comes from."""
    if dataset.opt.get("dataroot_lq") is not None:
        return "given"
    kind = type(dataset).__name__
    return "MATLAB bicubic, 8 bit" if kind in ("EvaluationDataset", "PhotoDataset") else f"made by {kind}"


def unique(name: str, taken: set[str]) -> str:
    """Returns `name`, or with a number behind it where it is taken, and takes it."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    taken.add(free)
    return free
