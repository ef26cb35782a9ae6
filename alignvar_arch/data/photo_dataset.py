"""PhotoDataset: photographs in, BasicSR's paired LMDB dataset out."""

import itertools
import os
import re
import time
from contextlib import ExitStack
from pathlib import Path

import torch.distributed
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import get_dist_info
from basicsr.utils.registry import DATASET_REGISTRY

from alignvar_arch.data.lmdb_store import LmdbWriter, check_lmdb, lmdb_paths
from alignvar_arch.data.photos import EMBEDDED, ascii_key, check_photo, cut_pairs, find_photos
from alignvar_arch.errors import UserError

VERSION = 2  # of what is written; raise it when the same photographs and settings would give other files


@DATASET_REGISTRY.register()
class PhotoDataset(PairedImageDataset):
    """Paired dataset made from photographs: bicubic LR (MATLAB's) and GT in two LMDBs, written on first use.

    Later runs check that the LMDBs were made from the same photographs with the same settings, and refuse, changing
    nothing, where they were not. Images are those of PairedImageDataset: RGB float32 (3, h, w) in [0, 1].

    Args:
        opt: a dict, as BasicSR gives it, with PairedImageDataset's keys (gt_size, use_hflip, use_rot, scale, phase)
            and, in place of its dataroots and io_backend,

            - photos: `scikit-image/train`, `scikit-image/val`, or a folder of photographs with its sub-folders;
            - dataroot: base name of what is written, `{dataroot}_gt.lmdb` and `{dataroot}_lq.lmdb`;
            - sub_image_size: side in GT pixels of the squares to cut, a multiple of scale; None (default) keeps
              whole photographs, cropped to a multiple of scale;
            - sub_image_step: distance between the squares, a multiple of scale; None (default) means sub_image_size.

    Raises:
        UserError: see check_options; also a disk that is full.
    """

    def __init__(self, opt):
        self.check_options(opt)
        rank, world_size = get_dist_info()
        if rank == 0:
            prepare(opt)
        if world_size > 1:
            torch.distributed.barrier()  # the others find the work done, unless their disk is another one
            prepare(opt)
        lq, gt = lmdb_paths(opt["dataroot"])
        super().__init__({**opt, "dataroot_lq": str(lq), "dataroot_gt": str(gt), "io_backend": {"type": "lmdb"}})

    @staticmethod
    def check_options(opt):
        """Checks everything that can be known before anything is written.

        Args:
            opt: the dataset's options.

        Raises:
            UserError: a key is missing or its value makes no sense, the folder of photographs is missing or empty,
                a photograph cannot be used, or what lies at dataroot is not what these options would write.
        """
        for key in ("photos", "dataroot"):
            if not opt.get(key) or not isinstance(opt[key], str):
                raise UserError(f"PhotoDataset needs {key} (a text), not {opt.get(key)!r}.")
        scale = opt.get("scale")
        if not _is_size(scale):
            raise UserError(f"scale must be a whole number of at least 1, not {scale!r}.")
        size, step = opt.get("sub_image_size"), opt.get("sub_image_step")
        if step is not None and size is None:
            raise UserError(f"sub_image_step {step} needs a sub_image_size; whole photographs have no step.")
        train = opt.get("phase") == "train"
        sizes = {"sub_image_size": size, "sub_image_step": step, **({"gt_size": opt.get("gt_size")} if train else {})}
        for key, value in sizes.items():
            if (value is not None or key == "gt_size") and (not _is_size(value) or value % scale):
                raise UserError(f"{key} must be a positive multiple of scale ({scale}), not {value!r}.")
        if train and size is not None and opt["gt_size"] > size:
            raise UserError(f'gt_size {opt["gt_size"]} is larger than sub_image_size {size}: crops are cut from '
                            f'sub-images, make one smaller or the other larger.')
        _check_place(opt)
        if not is_written(opt):
            least, mend = _least_side(opt)
            for photo in find_photos(opt["photos"]):
                check_photo(photo, least, mend)
        elif train:
            _check_crop(opt["gt_size"], lmdb_paths(opt["dataroot"])[1])


def prepare(opt):
    """Writes the two LMDBs of a PhotoDataset unless both are there; says in one log line what it did.

    Args:
        opt: the dataset's options, which PhotoDataset.check_options has accepted.

    Raises:
        UserError: what is there was made from something else, or the disk is full.
    """
    if is_written(opt):
        return
    paths, manifests = lmdb_paths(opt["dataroot"]), _manifests(opt)
    start, count = time.perf_counter(), 0
    size, photos = opt.get("sub_image_size"), find_photos(opt["photos"])
    with ExitStack() as stack:
        lq_writer, gt_writer = (stack.enter_context(LmdbWriter(path, manifest))
                                for path, manifest in zip(paths, manifests, strict=True))
        for index, photo in enumerate(photos):
            key = ascii_key(index, photo)
            pairs = cut_pairs(photo, opt["scale"], size, opt.get("sub_image_step") or size)
            for number, (lq, gt) in zip(itertools.count(), pairs):
                pair_key = key if size is None else f"{key}_s{number:04d}"
                lq_writer.put(pair_key, lq)
                gt_writer.put(pair_key, gt)
                count += 1
    get_root_logger().info(
        f'PhotoDataset: {len(photos)} photographs of {opt["photos"]} -> {count} pairs '
        f'({"whole" if size is None else f"{size}x{size}"}, x{opt["scale"]}) in {paths[1]} and {paths[0]}, '
        f'{time.perf_counter() - start:.1f} s')


def is_written(opt):
    """Whether both databases are there and fit; looks at both, so that neither is found wrong later."""
    return all([check_lmdb(path, manifest)
                for path, manifest in zip(lmdb_paths(opt["dataroot"]), _manifests(opt), strict=True)])


def _check_place(opt):
    """Refuses a dataroot that has no name, lies among the photographs, or cannot be written to."""
    dataroot = opt["dataroot"]
    if os.path.basename(os.path.normpath(os.path.expanduser(dataroot))) in ("", ".", ".."):
        raise UserError(f"dataroot {dataroot} has no name: give it one, as in datasets/NAME.")
    folder = lmdb_paths(dataroot)[0].parent
    if opt["photos"] not in EMBEDDED:
        photos = Path(os.path.realpath(os.path.expanduser(opt["photos"])))
        if Path(os.path.realpath(folder)).is_relative_to(photos):
            raise UserError(f'dataroot {dataroot} lies inside {opt["photos"]}, the folder of photographs: choose one '
                            f'outside.')
    nearest = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"dataroot {dataroot} cannot be written: {nearest} is no folder, or is not yours to write to.")


def _least_side(opt):
    """How many pixels the sides of every photograph must have, and what to do where they have not."""
    gt_size = opt["gt_size"] if opt.get("phase") == "train" else 0
    size = opt.get("sub_image_size")
    if size is not None:
        return size, "take it away or choose a smaller sub_image_size"
    least = 8 * opt["scale"]  # imresize mirrors up to two LR pixels at each border
    return max(least, gt_size), "take it away" + (" or choose a smaller gt_size" if gt_size > least else "")


def _manifests(opt):
    """What the LR and the GT database are made from: everything that changes their content, nothing else."""
    size = opt.get("sub_image_size")
    made_from = {
        "version": VERSION,
        "photos": [photo.describe() for photo in find_photos(opt["photos"])],
        "scale": opt["scale"],
        "sub_image_size": size,
        "sub_image_step": opt.get("sub_image_step") or size,
    }
    return [{**made_from, "images": images} for images in ("lq", "gt")]


def _check_crop(gt_size, path):
    """Refuses a training crop larger than the smallest image, where BasicSR would stop in mid-training."""
    lines = (path / "meta_info.txt").read_text(encoding="ascii").splitlines()
    side, name = min((min(map(int, re.search(r"\((\d+),(\d+),", line).groups())), line.split(".")[0]) for line in lines)
    if gt_size > side:
        raise UserError(f"gt_size {gt_size} is larger than {name} in {path}, whose shorter side is {side}: choose a "
                        f"smaller gt_size.")


def _is_size(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
