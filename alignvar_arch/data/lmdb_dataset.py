"""LMDBPairDataset: BasicSR's PairedImageDataset on LMDBs, reading no more of a record than it needs."""

import random
import re

import cv2
import numpy as np
import torch
from basicsr.utils import bgr2ycbcr
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset, get_worker_info
from torchvision.transforms.functional import normalize

from alignvar_arch.data.store import Store, keys
from alignvar_arch.data.transfer import Pixels, to_floats
from alignvar_arch.errors import UserError

_SIZE = re.compile(r"\((\d+),(\d+),\d+\)")  # in a line of meta_info.txt
_SHOWN = 3  # keys in a message


@DATASET_REGISTRY.register()
class LMDBPairDataset(Dataset):
    """GT and LR from two LMDBs: what PairedImageDataset gives, equal to the last bit for equal random draws, sorted.

    Training crops are cut out of raw records without reading the rest (`basicsr lmdb create` says which codecs there
    are). An item is a dict: `lq` and `gt`, float32 RGB (3, h, w) and (3, scale·h, scale·w) in [0, 1], and the keys as
    `lq_path` and `gt_path`. Grey images get three channels, alpha is dropped, and 16 bits keep their depth, where
    PairedImageDataset would cut them to 8. LMDBs that BasicSR's own maker wrote work too.

    A loader's workers hand the pixels over as bytes (transfer.py), which torch's default_collate needs to see; a
    collate_fn of another kind has to end in it.

    Args:
        opt: a dict, as BasicSR gives it, with PairedImageDataset's keys:

            - dataroot_gt, dataroot_lq: LMDB folders whose keys are the same;
            - scale, phase: as BasicSR adds them; in phase train crops are cut, otherwise images stay whole, and a GT
              that exceeds scale times its LR by less than scale pixels is cut;
            - gt_size: side of a crop in GT pixels, a multiple of scale (train);
            - use_hflip, use_rot: whether to flip horizontally, and vertically and along the diagonal (train);
            - meta_info_file: take only the keys that this file lists, in lines as of a store's meta_info.txt;
              None (default) takes all;
            - filename_tmpl: how the last part of an LR's key is made from GT's; default `{}`, the same;
            - color: `y` gives one channel, BT.601's luma; mean, std: of each channel, to normalise with;
            - io_backend: may stay as it is for PairedImageDataset, `type: disk` or `type: lmdb`.

    Raises:
        UserError: see check_options; or, when an item is fetched, a record that is missing or damaged, by file and key.
    """

    def __init__(self, opt):
        super().__init__()
        self.opt = opt
        self._gt, self._lq, self.keys, self._sizes = _open(opt)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict:
        lq, gt, *paths = self._read(index)
        return _item(self._tensor(lq), self._tensor(gt), *paths)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        """Fetches the samples of a batch, which is what torch's loaders call where an object has it."""
        if get_worker_info() is None or self.opt.get("color") or self.opt.get("mean"):
            return [self[index] for index in indices]
        found = (self._read(index) for index in indices)
        return [_item(Pixels(planes(lq)), Pixels(planes(gt)), *paths) for lq, gt, *paths in found]

    @staticmethod
    def check_options(opt: dict) -> None:
        """Checks the options, that the LMDBs are whole, that their keys pair, and the sizes that they list.

        Args:
            opt: the data set's options.

        Raises:
            UserError: an option is missing or wrong, an LMDB is missing or cut short, GT and LR do not pair, or an
                image is smaller than gt_size.
        """
        _open(opt)

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray, str, str]:
        """LR and GT as their records have them, cropped and augmented, and their keys."""
        key, scale = self.keys[index], self.opt["scale"]
        lq_key = _lq_key(self.opt, key)
        height, width = map(int, self._sizes[index])
        if self.opt["phase"] != "train":
            return self._lq.image(lq_key), self._gt.crop(key, 0, 0, scale * height, scale * width), lq_key, key
        # the draws of BasicSR's paired_random_crop and augment, in their order
        size = self.opt["gt_size"] // scale
        top, left = random.randint(0, height - size), random.randint(0, width - size)
        hflip = self.opt["use_hflip"] and random.random() < 0.5
        vflip = self.opt["use_rot"] and random.random() < 0.5
        turned = self.opt["use_rot"] and random.random() < 0.5
        boxes = (top, left, size, size), (scale * top, scale * left, scale * size, scale * size)
        lq, gt = self._lq.crop(lq_key, *boxes[0]), self._gt.crop(key, *boxes[1])
        return augmented(lq, hflip, vflip, turned), augmented(gt, hflip, vflip, turned), lq_key, key

    def _tensor(self, image: np.ndarray) -> torch.Tensor:
        tensor = to_floats(planes(image))
        if self.opt.get("color") == "y":
            bgr = np.ascontiguousarray(tensor.numpy()[::-1].transpose(1, 2, 0))
            tensor = torch.from_numpy(bgr2ycbcr(bgr, y_only=True)[None])
        if self.opt.get("mean"):
            normalize(tensor, self.opt["mean"], self.opt["std"], inplace=True)
        return tensor


def _item(lq, gt, lq_path: str, gt_path: str) -> dict:
    return {"lq": lq, "gt": gt, "lq_path": lq_path, "gt_path": gt_path}


def augmented(image: np.ndarray, hflip: bool, vflip: bool, turned: bool) -> np.ndarray:
    """Flips an image, and then turns it about its diagonal; (H, W) or (H, W, C)."""
    if hflip or vflip:
        image = cv2.flip(image, -1 if hflip and vflip else int(hflip))
    return cv2.transpose(image) if turned else image


def planes(image: np.ndarray) -> np.ndarray:
    """Splits (H, W), (H, W, 3) BGR or (H, W, 4) BGRA into RGB (3, H, W)."""
    return np.stack([image] * 3 if image.ndim == 2 else cv2.split(image)[2::-1])


def _open(opt: dict) -> tuple[Store, Store, list[str], np.ndarray]:
    """Checks the options; returns GT's store, LR's, the keys of GT that are used, and (N, 2) heights and widths of LR.
    """
    _check_values(opt)
    gt, lq = (_store(opt, name) for name in ("dataroot_gt", "dataroot_lq"))
    used = _listed(opt, gt) if opt.get("meta_info_file") else gt.keys
    wanted = [_lq_key(opt, key) for key in used]
    alone = sorted(set(wanted) - set(lq.keys) if opt.get("meta_info_file") else set(wanted) ^ set(lq.keys))
    if alone:
        raise UserError(f"dataroot_lq: {len(gt)} images in {gt.path} and {len(lq)} in {lq.path} do not pair; keys "
                        f"of LR on one side only: {len(alone)} ({_some(alone)}).")  # fmt: skip
    gt_sizes, lq_sizes = _sizes(gt), _sizes(lq)
    for key, lq_key in zip(used, wanted, strict=True):
        _check_size(opt, f"{gt.path}: {key!r}", gt_sizes[key], lq_sizes[lq_key])
    return gt, lq, used, np.array([lq_sizes[key] for key in wanted], np.int32).reshape(-1, 2)


def _check_values(opt: dict) -> None:
    scale, train = opt.get("scale"), opt.get("phase") == "train"
    if not _is_whole(scale):
        raise UserError(f"scale must be a whole number of at least 1, not {scale!r}.")
    if train and (not _is_whole(opt.get("gt_size")) or opt["gt_size"] % scale):
        raise UserError(f"gt_size must be a positive multiple of scale ({scale}), not {opt.get('gt_size')!r}.")
    for name in ("use_hflip", "use_rot") if train else ():
        if not isinstance(opt.get(name), bool):
            raise UserError(f"{name} must be true or false, not {opt.get(name)!r}.")
    if opt.get("io_backend") not in (None, {"type": "lmdb"}, {"type": "disk"}):
        raise UserError(f"io_backend is {opt['io_backend']!r}, but LMDBPairDataset reads LMDBs; say `type: lmdb` or "
                        "leave it out.")  # fmt: skip
    template = opt.get("filename_tmpl", "{}")
    if not isinstance(template, str) or len(template.split("{}")) != 2:
        raise UserError(f"filename_tmpl must be a text with {{}} once, for the name of GT, not {template!r}.")
    if opt.get("color") not in (None, "y"):
        raise UserError(f"color must be y or ~, not {opt['color']!r}.")
    for name in ("mean", "std"):
        if (opt.get("mean") is None) != (opt.get("std") is None) or not _is_list(opt.get(name), opt.get("color")):
            raise UserError(f"mean and std must be lists of one number a channel, both or none, not "
                            f"{opt.get('mean')!r} and {opt.get('std')!r}.")  # fmt: skip


def _store(opt: dict, name: str) -> Store:
    root = opt.get(name)
    if not root or not isinstance(root, str):
        raise UserError(f"{name} must be an LMDB, not {root!r}; `basicsr lmdb create FOLDER -o NAME.lmdb --lq-scale "
                        f"{opt['scale']}` writes GT's and LR's.")  # fmt: skip
    try:
        return Store(root)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _listed(opt: dict, gt: Store) -> list[str]:
    path = opt["meta_info_file"]
    try:
        with open(path, encoding="utf-8") as file:
            found = sorted({line.split(".")[0] for line in file if line.strip()})
    except (OSError, ValueError) as error:
        raise UserError(f"meta_info_file: {path} cannot be read ({error}).") from error
    unknown = sorted(set(found) - set(gt.keys))
    if unknown:
        raise UserError(f"meta_info_file: {path} lists {len(unknown)} keys that {gt.path} lacks ({_some(unknown)}).")
    return found


def _lq_key(opt: dict, key: str) -> str:
    template = opt.get("filename_tmpl", "{}")
    if template == "{}":
        return key
    folder, slash, name = key.rpartition("/")
    before, after = map(keys.from_name, template.split("{}"))
    return f"{folder}{slash}{before}{name}{after}"


def _sizes(store: Store) -> dict[str, tuple[int, int]]:
    """Height and width of every image, as meta_info.txt lists them: asking the records would read the whole LMDB."""
    found = {}
    for key, line in store.meta_info():
        size = _SIZE.search(line)
        if size is None:
            raise UserError(f"{store.path}: meta_info.txt has no size for {key!r}; see `basicsr lmdb verify "
                            f"{store.path}`.")  # fmt: skip
        found[key] = int(size[1]), int(size[2])
    return found


def _check_size(opt: dict, name: str, gt: tuple[int, int], lq: tuple[int, int]) -> None:
    scale, train = opt["scale"], opt["phase"] == "train"
    over = [side_gt - scale * side_lq for side_gt, side_lq in zip(gt, lq, strict=True)]
    if any(over) if train else not all(0 <= rest < scale for rest in over):
        raise UserError(f"{name} is {gt[1]}x{gt[0]} and its LR {lq[1]}x{lq[0]}, but scale {scale} asks for a GT of "
                        f"{scale * lq[1]}x{scale * lq[0]}.")  # fmt: skip
    if train and min(gt) < opt["gt_size"]:
        raise UserError(f"{name} is {gt[1]}x{gt[0]}, smaller than gt_size {opt['gt_size']}; lower it, or leave the "
                        "image out.")  # fmt: skip


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_list(value, color) -> bool:
    return value is None or (isinstance(value, (list, tuple)) and len(value) == (1 if color == "y" else 3)
                             and all(isinstance(number, (int, float)) for number in value))
