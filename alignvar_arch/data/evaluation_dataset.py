"""EvaluationDataset: whole pictures with their LR, from folders or LMDBs, as benchmarks are handed around."""

import io
import os
import re
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from basicsr.utils import img2tensor
from basicsr.utils.registry import DATASET_REGISTRY
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from alignvar_arch.data.photos import SUFFIXES, bicubic_lr
from alignvar_arch.data.store import Store
from alignvar_arch.errors import UserError

# What benchmarks add to a picture's name: baby_HR and baby_LRx4, Canon_001_LR4, 0801 and 0801x4.
_ENDING = re.compile(r"(_(HR|GT|LR|LQ)(_?x?\d+)?|_?x\d+)$", re.IGNORECASE)
_SHOWN = 3  # names in a message
_KEYS = {"name", "type", "phase", "scale", "dataroot_gt", "dataroot_lq",
         "pin_memory", "persistent_workers", "prefetch_mode", "num_prefetch_queue"}  # these four are the loader's


class Pair(NamedTuple):
    """A picture: its GT and its LR, each a file or `FOLDER.lmdb/KEY`; no LR where it is to be made from GT."""

    gt: str
    lq: str | None


@DATASET_REGISTRY.register()
class EvaluationDataset(Dataset):
    """Pictures to test on, whole and in the order of their names; for validation and testing, not for training.

    An item is a dict as of BasicSR's PairedImageDataset: `lq` and `gt`, RGB float32 (3, h, w) and
    (3, scale·h, scale·w) in [0, 1], and `lq_path` and `gt_path`: the file, or LMDB and key, each `/` of which is `%2F`.
    Grey, 16-bit and transparent pictures are read as 8-bit colour without alpha.

    Without `dataroot_lq`, LR is made from GT, cut at the right and at the bottom to a multiple of scale, with MATLAB's
    bicubic kernel, and rounded to 8 bits; `lq_path` then is `gt_path`. With it, a GT may exceed scale times its LR by
    less than scale pixels, and is cut. GT and LR are paired by the stems of their names; where these differ, by the
    stems without one ending of the kind `_HR`, `_GT`, `_LR`, `_LQ`, `_LR4`, `_LRx4`, `x4` or `_x4`, if that leaves no
    two names of a folder alike.

    Args:
        opt: a dict, as BasicSR gives it, with `scale`, `phase`, `name` and

            - dataroot_gt: folder of pictures (sub-folders and other files are passed over), or an LMDB as
              `basicsr lmdb create` or BasicSR makes it, ending in .lmdb;
            - dataroot_lq: the same with the LR; None (default) makes them.

    Raises:
        UserError: see check_options. Fetching an item raises it where the picture cannot be read or the two sizes do
            not fit, so that `test` can pass over it.
    """

    def __init__(self, opt):
        super().__init__()
        self.opt = opt
        self.pairs = find_pairs(opt)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        pair, scale = self.pairs[index], self.opt["scale"]
        gt = read_image(pair.gt)
        height, width = gt.shape[:2]
        if pair.lq is None:
            _check_size(pair, (width, height), None, scale)
            gt = gt[:height - height % scale, :width - width % scale]
            lq = bicubic_lr(gt, scale)
        else:
            lq = read_image(pair.lq)
            _check_size(pair, (width, height), lq.shape[1::-1], scale)
            gt = gt[:scale * lq.shape[0], :scale * lq.shape[1]]
        gt, lq = img2tensor([gt.astype(np.float32) / 255, lq.astype(np.float32) / 255], bgr2rgb=True, float32=True)
        return {"lq": lq, "gt": gt, "lq_path": _unique(pair.lq or pair.gt), "gt_path": _unique(pair.gt)}

    @staticmethod
    def check_options(opt: dict) -> None:
        """Checks the options, the names of the pictures, and their sizes as their headers tell them.

        Args:
            opt: the data set's options.

        Raises:
            UserError: an option is missing, wrong or unknown, a folder is missing, empty or no LMDB, two names are
                alike, GT and LR do not pair, or the sizes of a pair do not fit.
        """
        if set(opt) - _KEYS:
            raise UserError(f"EvaluationDataset has no option {min(set(opt) - _KEYS)}; take it out.")
        if opt.get("phase") == "train":
            raise UserError("EvaluationDataset cuts no crops and cannot be trained on; use PhotoDataset.")
        scale = opt.get("scale")
        if not isinstance(scale, int) or isinstance(scale, bool) or scale < 1:
            raise UserError(f"scale must be a whole number of at least 1, not {scale!r}.")
        for pair in find_pairs(opt):
            gt, lq = (_header_size(path) if path else None for path in pair)
            if gt and (lq or not pair.lq):
                _check_size(pair, gt, lq, scale)


def find_pairs(opt: dict) -> list[Pair]:
    """Lists the pictures of an EvaluationDataset's options, sorted by the stems of GT.

    Raises:
        UserError: a folder is missing, empty or no LMDB, two names are alike, or GT and LR do not pair.
    """
    gt = list_images(opt.get("dataroot_gt"), "dataroot_gt")
    if opt.get("dataroot_lq") is None:
        return [Pair(path, None) for path in gt.values()]
    lq = list_images(opt["dataroot_lq"], "dataroot_lq")
    if set(gt) != set(lq):
        short = _without_ending(gt), _without_ending(lq)
        if None not in short:
            gt, lq = short
    alone = sorted(set(gt) ^ set(lq))
    if alone:
        raise UserError(f"dataroot_lq: {opt['dataroot_gt']} holds {len(gt)} images and {opt['dataroot_lq']} "
                        f"{len(lq)}; without a partner of the same name: {len(alone)} ({_some(alone)}); mend that.")
    return [Pair(path, lq[stem]) for stem, path in gt.items()]


def list_images(root, key: str) -> dict[str, str]:
    """Lists a folder's images, or an LMDB's, by their stems and sorted by them.

    Args:
        root: folder, or LMDB ending in .lmdb.
        key: name of the option that `root` comes from, for the message.

    Raises:
        UserError: it is missing or empty, or two images have one stem.
    """
    if not root or not isinstance(root, str):
        raise UserError(f"{key}: is {root!r}, but must be a folder of images or an LMDB.")
    folder = Path(os.path.expanduser(root))
    if not folder.is_dir():
        raise UserError(f"{key}: there is no folder {root}.")
    names = _keys(folder, key) if folder.suffix == ".lmdb" else [
        path.name for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()]
    if not names:
        raise UserError(f"{key}: {root} holds no images ({', '.join(sorted(SUFFIXES))}).")
    found: dict[str, str] = {}
    for name in sorted(names):
        stem = name if folder.suffix == ".lmdb" else Path(name).stem
        if stem in found:
            raise UserError(f"{key}: {found[stem]} and {name} have one name, and so would their results; rename one.")
        found[stem] = str(folder / name)
    return dict(sorted(found.items()))


def _keys(folder: Path, key: str) -> list[str]:
    try:
        return Store(folder).keys
    except UserError as error:
        raise UserError(f"{key}: {error}") from error


def _without_ending(images: dict[str, str]) -> dict[str, str] | None:
    """The images by their stems without `_HR` and the like; None where that makes two alike."""
    short = {_ENDING.sub("", stem): path for stem, path in images.items()}
    return dict(sorted(short.items())) if len(short) == len(images) else None


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _in_lmdb(path: str) -> tuple[str, str] | None:
    """LMDB and key of `FOLDER.lmdb/KEY`; None for a file, for keys may hold `/` but have no dot."""
    folder, ending, key = path.rpartition(".lmdb/")
    return (folder + ".lmdb", key) if ending and "." not in key else None


def _unique(path: str) -> str:
    """The path with a last part that is this image's alone: results are named by it."""
    found = _in_lmdb(path)
    return f"{found[0]}/{found[1].replace('/', '%2F')}" if found else path


def _content(path: str) -> bytes:
    found = _in_lmdb(path)
    if found:
        return Store(found[0]).read(found[1])
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the image {path}: {error.strerror}.") from error


def read_image(path: str) -> np.ndarray:
    """Reads an image, a file or `FOLDER.lmdb/KEY`, as uint8 (H, W, 3), BGR.

    Raises:
        UserError: it cannot be read, is no image, or is cut short.
    """
    content = _content(path)
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()  # refuses a file that is cut short, where OpenCV fills in grey
        found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except Exception as error:  # what the decoders raise on a damaged file has no common class
        reason = "the file is no image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise UserError(f"cannot read the image {path}: {reason}.") from error
    if found is None:
        raise UserError(f"cannot read the image {path}: the file is damaged.")
    return found


def _header_size(path: str) -> tuple[int, int] | None:
    """Width and height; None where only reading the image tells them, or that it cannot be read."""
    found = _in_lmdb(path)
    try:
        if found:
            height, width = Store(found[0]).shape(found[1])[:2]
            return width, height
        with Image.open(path) as image:
            return None if "exif" in image.info else image.size  # a camera's picture may lie on its side
    except Exception:  # whatever it is, fetching the image says it
        return None


def _check_size(pair: Pair, gt: tuple[int, int], lq: tuple[int, int] | None, scale: int) -> None:
    """Refuses sizes (width, height) that scale does not connect; `lq` is None where it is made from GT."""
    if lq is None:
        if min(gt) < 2 * scale:  # what the bicubic kernel reaches over
            raise UserError(f"{pair.gt} is {gt[0]}x{gt[1]}, too small to make an LR for scale {scale} from; take it "
                            "away.")
    elif not all(0 <= side_gt - scale * side_lq < scale for side_gt, side_lq in zip(gt, lq, strict=True)):
        raise UserError(f"{pair.gt} is {gt[0]}x{gt[1]} and its LR {pair.lq} {lq[0]}x{lq[1]}, but scale {scale} asks "
                        f"for a GT of {scale * lq[0]}x{scale * lq[1]}.")
