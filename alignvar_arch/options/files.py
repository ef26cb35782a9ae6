"""Files that a dataset block names: present, whole, and LR and GT of fitting sizes; nothing is decoded."""

import copy
import io
import os

import cv2
from basicsr.utils.file_client import FileClient
from PIL import Image, UnidentifiedImageError

from alignvar_arch.compat import lmdb_backend
from alignvar_arch.compat.registries import nearest
from alignvar_arch.errors import UserError
from alignvar_arch.options.components import check_arguments

MAX_PAIRS = 256
_LMDB_KEYS = ("readonly", "lock", "readahead")  # of published files; LMDBs are opened in one way whatever they say


def check_files(dataset_class: type, block: dict, path: str) -> None:
    """Checks the files of a dataset block of BasicSR's kind (`dataroot_*`, `io_backend`, `meta_info*`).

    Raises:
        UserError: with the dotted path of the key, and the file where one is at fault.
    """
    backend = _backend(block, path)
    roots = {key: value for key, value in block.items() if key.startswith("dataroot") or key.startswith("meta_info")}
    for key, value in roots.items():
        for root in value if isinstance(value, list) else [value]:
            if root is not None or key in ("dataroot_gt", "dataroot_lq"):
                _check_root(f"{path}.{key}", root, backend)
    if "dataroot_gt" in block and "dataroot_lq" in block:
        _check_pairs(dataset_class, block, path)


def _backend(block: dict, path: str) -> str:
    backend = block.get("io_backend", {"type": "disk"})
    if not isinstance(backend, dict) or "type" not in backend:
        raise UserError(f"{path}.io_backend.type: this key is missing; use disk or lmdb.")
    known = FileClient._backends
    if not isinstance(backend["type"], str) or backend["type"] not in known:
        raise UserError(f"{path}.io_backend.type: {backend['type']!r} is unknown{nearest(backend['type'], known)}.")
    arguments = {key: value for key, value in backend.items() if key != "type"}
    if backend["type"] != "lmdb":
        check_arguments(known[backend["type"]], arguments, f"{path}.io_backend")
    elif not set(arguments) <= set(_LMDB_KEYS):
        key = min(set(arguments) - set(_LMDB_KEYS))
        raise UserError(f"{path}.io_backend.{key}: this key is unknown{nearest(key, _LMDB_KEYS)}.")
    return backend["type"]


def _check_root(option: str, root, backend: str) -> None:
    if not isinstance(root, str):
        raise UserError(f"{option}: is {root!r}, but must be a path.")
    if "meta_info" in option:
        if not os.path.isfile(root):
            raise UserError(f"{option}: there is no file {root}.")
    elif backend == "lmdb":
        _check_lmdb(option, root)
    elif backend == "disk":
        if not os.path.isdir(root):
            raise UserError(f"{option}: there is no folder {root}.")
        if not any(not name.startswith(".") for name in os.listdir(root)):
            raise UserError(f"{option}: the folder {root} is empty.")


def _check_lmdb(option: str, root: str) -> None:
    if not root.endswith(".lmdb"):
        raise UserError(f"{option}: {root} must end in .lmdb, as BasicSR asks of LMDB folders.")
    if not os.path.isdir(root):
        raise UserError(f"{option}: there is no LMDB folder {root}.")
    try:
        lmdb_backend.check(root)
        environment = lmdb_backend.open_shared(root)
    except UserError as error:
        raise UserError(f"{option}: {error}") from error
    if environment.stat()["entries"] == 0:
        raise UserError(f"{option}: the LMDB {root} is empty.")
    if not os.path.isfile(os.path.join(root, "meta_info.txt")):
        raise UserError(f"{option}: {root} has no meta_info.txt, which lists the keys; make the LMDB again.")


def _check_pairs(dataset_class: type, block: dict, path: str) -> None:
    try:
        dataset = dataset_class(copy.deepcopy(block))
    except UserError:
        raise
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error
    pairs = getattr(dataset, "paths", None)
    if not pairs or not isinstance(pairs[0], dict) or not {"lq_path", "gt_path"} <= set(pairs[0]):
        return
    lmdb = block.get("io_backend", {}).get("type") == "lmdb"
    step = max(1, len(pairs) // MAX_PAIRS)
    for pair in pairs[::step]:
        lq = _size(pair["lq_path"], block["dataroot_lq"] if lmdb else None, block["phase"], path)
        gt = _size(pair["gt_path"], block["dataroot_gt"] if lmdb else None, block["phase"], path)
        if lq and gt:
            _check_sizes(pair["gt_path"], lq, gt, block, path)


def _check_sizes(name: str, lq: tuple[int, int], gt: tuple[int, int], block: dict, path: str) -> None:
    scale = block.get("scale")
    if not scale:
        return
    rest = [side_gt - side_lq * scale for side_lq, side_gt in zip(lq, gt, strict=True)]
    # Outside training BasicSR crops a GT whose sides were not multiples of the scale.
    allowed = 0 if block["phase"] == "train" else scale - 1
    if not all(0 <= value <= allowed for value in rest):
        raise UserError(
            f"{path}: {name} is {gt[0]}x{gt[1]} as GT and {lq[0]}x{lq[1]} as LR, but scale {scale} asks for a GT of "
            f"{lq[0] * scale}x{lq[1] * scale}."
        )
    gt_size = block.get("gt_size")
    if block["phase"] == "train" and gt_size and min(gt) < gt_size:
        raise UserError(
            f"{path}.gt_size: {name} is {gt[0]}x{gt[1]}, smaller than gt_size {gt_size}; remove it or lower gt_size."
        )


def _size(name: str, lmdb_root: str | None, phase: str, path: str) -> tuple[int, int] | None:
    """Returns (width, height) from the header; None for a test set's damaged image, which `test` reports itself."""
    source = name
    if lmdb_root is not None:
        value = lmdb_backend.read(lmdb_root, name)
        if value is None:
            raise UserError(f"{path}: {lmdb_root} has no key {name!r}, which its meta_info.txt lists; make it again.")
        source = io.BytesIO(value)
    elif not os.path.isfile(name):
        raise UserError(f"{path}: there is no file {name}.")
    try:
        with Image.open(source) as image:
            size = image.size
            image.verify()  # checks the sums of a PNG's chunks, which is most of a damaged image's story
            return size
    except (PermissionError, Image.DecompressionBombError) as error:
        if phase == "test":
            return None
        reason = "no permission" if isinstance(error, PermissionError) else error
        raise UserError(f"{path}: cannot read the image {name}: {reason}.") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        readable_by_opencv = lmdb_root is None and cv2.haveImageReader(name)
        if phase == "test" or readable_by_opencv:
            return None
        raise UserError(f"{path}: cannot read the image {name}: the file is damaged or is not an image.") from error
