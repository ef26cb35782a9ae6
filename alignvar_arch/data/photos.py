"""Finds photographs, reads them and cuts them into aligned LR/GT pairs.

Array legend: H, W pixels of GT; images are uint8 (H, W, 3) BGR as BasicSR stores them.
"""

import functools
import hashlib
import io
import os
import re
import unicodedata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from basicsr.utils.matlab_functions import imresize
from PIL import Image, ImageOps

from alignvar_arch.errors import UserError

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}

# scikit-image's everyday colour photographs: file -> box (left, top, right, bottom) to keep, None for all of it.
# Left out: hubble_deep_field, retina and ihc (a telescope's, an eye camera's and a microscope's pictures, whose
# statistics are not a photograph's), color and logo (drawn), and everything grey.
# The cat is held out: fur, whiskers and eyes show what super-resolution does, and no other picture resembles it. The
# box keeps her face, so that validating after a short training is quick.
EMBEDDED = {
    "scikit-image/train": {
        "astronaut.png": None,
        "coffee.png": None,
        "motorcycle_left.png": None,
        "motorcycle_right.png": None,
        "rocket.jpg": None,
    },
    "scikit-image/val": {"chelsea.png": (130, 36, 386, 292)},
}


class Photo(NamedTuple):
    """One photograph: its name (path inside the folder, with `/`), its file, and the box to keep of it."""

    name: str
    path: Path
    box: tuple | None = None

    def describe(self):
        """What identifies the picture's content, for the manifest."""
        entry = {"name": self.name, "sha256": _sha256(self.path, *_stamp(self.path))}
        return entry if self.box is None else {**entry, "box": list(self.box)}


def find_photos(photos):
    """Lists the photographs of an embedded set or of a folder with its sub-folders, sorted by name.

    Args:
        photos: `scikit-image/train`, `scikit-image/val` or a folder, relative to the current one.

    Raises:
        UserError: there is no such folder, or no photograph in it.
    """
    if photos in EMBEDDED:
        folder = _scikit_image_data()
        found = [Photo(name, folder / name, box) for name, box in EMBEDDED[photos].items()]
        missing = [photo.name for photo in found if not photo.path.is_file()]
        if missing:
            raise UserError(f"{folder} has no {missing[0]}: install a scikit-image that ships it (0.21 to 0.26 do).")
        return found
    folder = Path(photos)
    if not folder.is_dir():
        raise UserError(f'photos: there is no folder {photos}: give a folder of photographs or one of '
                        f'{", ".join(EMBEDDED)}.')
    paths = [Path(root, file) for root, _, files in os.walk(folder, followlinks=True) for file in files]
    found = [Photo(path.relative_to(folder).as_posix(), path) for path in paths
             if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not found:
        raise UserError(f'photos: the folder {photos} holds no photographs ({", ".join(sorted(SUFFIXES))}).')
    return sorted(found)


def read_photo(photo):
    """Reads a photograph upright, without alpha, cut to its box.

    Returns:
        uint8 array (H, W, 3), BGR.

    Raises:
        UserError: the file is no image, is cut short, or has more than 8 bits a channel.
    """
    try:
        # PIL, for it refuses a file that is cut short where OpenCV fills in grey
        with Image.open(io.BytesIO(photo.path.read_bytes())) as image:
            mode = image.mode
            rgb = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{photo.path} cannot be read as an image ({error}): mend it or take it away.") from error
    if mode.startswith(("I", "F")):
        raise UserError(f"{photo.path} has more than 8 bits a channel (mode {mode}): save it with 8.")
    return np.ascontiguousarray(np.asarray(rgb.crop(photo.box))[..., ::-1])


def cut_pairs(photo, scale, size, step):
    """Yields (LR, GT) pairs cut from one photograph, row by row.

    LR is made once from the whole photograph, so that a sub-image's border has seen its true neighbours.

    Args:
        photo: the Photo.
        scale: factor between GT and LR.
        size: side of a square GT sub-image, a multiple of scale; None for the whole photograph.
        step: distance between sub-images, a multiple of scale; the last one of a row lies flush with the edge.

    Raises:
        UserError: the photograph cannot be read, or is smaller than a sub-image.
    """
    gt = read_photo(photo)
    height, width = (side - side % scale for side in gt.shape[:2])
    least = size or 8 * scale  # imresize mirrors up to two LR pixels at each border
    if min(height, width) < least:
        raise UserError(f"{photo.path} is {gt.shape[1]}x{gt.shape[0]}, too small to cut {least}x{least} from: take it "
                        f"away or choose a smaller sub_image_size.")
    gt = gt[:height, :width]
    lq = imresize(gt.astype(np.float32) / 255, 1 / scale)
    lq = (lq.clip(0, 1) * 255).round().astype(np.uint8)
    if size is None:
        yield lq, gt
        return
    for top in _starts(height, size, step):
        for left in _starts(width, size, step):
            y, x, side = top // scale, left // scale, size // scale
            yield lq[y:y + side, x:x + side], gt[top:top + size, left:left + size]


def ascii_key(index, photo):
    """An LMDB key for the photograph: BasicSR wants ASCII without dots, and the number keeps equal names apart."""
    stem = photo.name.rsplit(".", 1)[0]
    ascii_stem = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return f'{index:04d}_{re.sub("[^A-Za-z0-9]+", "_", ascii_stem).strip("_")[:64]}'.rstrip("_")


def _starts(length, size, step):
    """Where sub-images begin along one side: every `step`, and the last one flush with the end."""
    starts = list(range(0, length - size + 1, step))
    return starts if starts[-1] == length - size else [*starts, length - size]


def _scikit_image_data():
    """The folder of scikit-image's pictures, found without importing it (its data module may go to the network)."""
    spec = find_spec("skimage")
    if spec is None:
        raise UserError("scikit-image, whose photographs the options ask for, is not installed: "
                        "pip install scikit-image.")
    return Path(spec.submodule_search_locations[0], "data")


def _stamp(path):
    """Size and time of change of a file: while both stay, its hash need not be computed again."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@functools.cache
def _sha256(path, size, mtime_ns):
    return hashlib.sha256(path.read_bytes()).hexdigest()
