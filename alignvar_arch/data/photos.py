"""Finds photographs, reads them and cuts them into aligned LR/GT pairs.

Array legend: H, W pixels of GT; images are uint8 (H, W, 3) BGR as BasicSR stores them.
"""

import functools
import os
import re
import unicodedata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from basicsr.utils.matlab_functions import imresize
from PIL import Image, ImageOps, UnidentifiedImageError

from alignvar_arch.data.store.imaging import starts
from alignvar_arch.errors import UserError
from alignvar_arch.hashing import remembered_sha256

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
        try:
            entry = {"name": self.name, "sha256": remembered_sha256(self.path)}
        except OSError as error:
            raise _unreadable(self.path, error) from error
        return entry if self.box is None else {**entry, "box": list(self.box)}


def find_photos(photos):
    """Lists the photographs of an embedded set or of a folder with its sub-folders, sorted by name.

    Args:
        photos: `scikit-image/train`, `scikit-image/val` or a folder, relative to the current one.

    Raises:
        UserError: there is no such folder, no photograph in it, or a link in it that leads nowhere.
    """
    if photos in EMBEDDED:
        folder = _scikit_image_data()
        found = [Photo(name, folder / name, box) for name, box in EMBEDDED[photos].items()]
        missing = [photo.name for photo in found if not photo.path.is_file()]
        if missing:
            raise UserError(f"{folder} has no {missing[0]}: install a scikit-image that ships it (0.21 to 0.26 do).")
        return found
    folder = Path(os.path.expanduser(photos))
    if not folder.is_dir():
        raise UserError(f'photos: there is no folder {photos}: give a folder of photographs or one of '
                        f'{", ".join(EMBEDDED)}.')
    found = [Photo(path.relative_to(folder).as_posix(), path) for path in _files(folder)
             if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not found:
        raise UserError(f'photos: the folder {photos} holds no photographs ({", ".join(sorted(SUFFIXES))}).')
    for photo in found:
        if not photo.path.is_file():
            raise UserError(f"{photo.path} is a link that leads nowhere, or no file: mend it or take it away.")
    return sorted(found)


def _files(folder):
    """Every file in a folder and its sub-folders, each folder once: links may lead in circles."""
    seen = set()
    for root, folders, files in os.walk(folder, onerror=_stop, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()  # which of two ways to a folder is taken must not depend on the disk
        yield from (Path(root, file) for file in files)


def _stop(error):
    raise UserError(f"photos: the folder {error.filename} cannot be read ({error.strerror}): mend it or take it "
                    f"away.") from error


def read_photo(photo):
    """Reads a photograph upright, without alpha, cut to its box.

    Returns:
        uint8 array (H, W, 3), BGR.

    Raises:
        UserError: the file is no image, is cut short, or has more than 8 bits a channel.
    """
    try:
        # PIL, for it refuses a file that is cut short where OpenCV fills in grey
        with Image.open(photo.path) as image:
            deep = _is_deep(image)
            rgb = ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # what PIL's decoders raise on a damaged file has no common class
        raise _unreadable(photo.path, error) from error
    if deep:
        raise UserError(f"{photo.path} has more than 8 bits a channel: save it with 8.")
    return np.ascontiguousarray(np.asarray(rgb.crop(photo.box))[..., ::-1])


def check_photo(photo, least, mend):
    """Reads a photograph once in a process, and refuses it where it cannot be used.

    Args:
        photo: the Photo.
        least: how many pixels both its sides must have.
        mend: what to do where they have not.

    Raises:
        UserError: see read_photo; or the photograph is too small.
    """
    status = photo.path.stat()
    height, width = _shape(photo, photo.path.absolute(), status.st_size, status.st_mtime_ns)
    if min(height, width) < least:
        raise UserError(f"{photo.path} is {width}x{height}, too small to cut {least}x{least} from: {mend}.")


def cut_pairs(photo, scale, size, step):
    """Yields (LR, GT) pairs cut from one photograph, row by row.

    LR is made once from the whole photograph, so that a sub-image's border has seen its true neighbours.

    Args:
        photo: the Photo.
        scale: factor between GT and LR.
        size: side of a square GT sub-image, a multiple of scale; None for the whole photograph.
        step: distance between sub-images, a multiple of scale; the last one of a row lies flush with the edge.

    Raises:
        UserError: see read_photo.
    """
    gt = read_photo(photo)
    height, width = (side - side % scale for side in gt.shape[:2])
    gt = gt[:height, :width]
    lq = bicubic_lr(gt, scale)
    if size is None:
        yield lq, gt
        return
    for top in starts(height, size, step):
        for left in starts(width, size, step):
            y, x, side = top // scale, left // scale, size // scale
            yield lq[y:y + side, x:x + side], gt[top:top + size, left:left + size]


def bicubic_lr(gt, scale):
    """Makes LR with MATLAB's bicubic kernel.

    Args:
        gt: uint8 array (H, W, 3), both sides multiples of scale and at least twice as large.
        scale: factor between GT and LR.

    Returns:
        uint8 array (H / scale, W / scale, 3), rounded.
    """
    lq = imresize(gt.astype(np.float32) / 255, 1 / scale)
    return (lq.clip(0, 1) * 255).round().astype(np.uint8)


def ascii_key(index, photo):
    """An LMDB key for the photograph: BasicSR wants ASCII without dots, and the number keeps equal names apart."""
    stem = photo.name.rsplit(".", 1)[0]
    ascii_stem = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return f'{index:04d}_{re.sub("[^A-Za-z0-9]+", "_", ascii_stem).strip("_")[:64]}'.rstrip("_")


def _scikit_image_data():
    """The folder of scikit-image's pictures, found without importing it (its data module may go to the network)."""
    spec = find_spec("skimage")
    if spec is None:
        raise UserError("scikit-image, whose photographs the options ask for, is not installed: "
                        "pip install scikit-image.")
    return Path(spec.submodule_search_locations[0], "data")


@functools.cache
def _shape(photo, _path, _size, _mtime_ns):
    return read_photo(photo).shape[:2]


def _is_deep(image):
    """Whether an opened, not yet loaded image has more than 8 bits a channel.

    PIL shows it by the mode where the image is grey. A colour image it cuts down to 8 bits without a word; there only
    the decoder's arguments tell: a raw mode such as RGB;16B, or for PPM the largest value. (BGR;16 is BMP's 5-6-5.)
    """
    if image.mode.startswith(("I", "F")):
        return True
    arguments = [tile[3] for tile in image.tile]
    first = [argument[0] if isinstance(argument, tuple) else argument for argument in arguments]
    return any(isinstance(raw_mode, str) and re.search(";16[BLN]", raw_mode) for raw_mode in first) or (
        image.format == "PPM" and any(argument[-1] > 255 for argument in arguments if isinstance(argument, tuple)))


def _unreadable(path, error):
    reason = "no known format" if isinstance(error, UnidentifiedImageError) else error
    return UserError(f"{path} cannot be read as an image ({reason}): mend it or take it away.")
