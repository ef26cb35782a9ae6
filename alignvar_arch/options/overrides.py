"""`--weights` and `--sets`: other weights and other data than the options file names, for tests and comparisons."""

import os

from alignvar_arch import checkpoints
from alignvar_arch.errors import UserError


def use_weights(opt: dict, weights: str | None) -> None:
    """Puts `weights` (a path, or None for what the file says) in place of `path.pretrain_network_g`.

    Raises:
        UserError: there is no such file, or the options have no network_g to load it into.
    """
    if weights is None:
        return
    if "network_g" not in opt:
        raise UserError("--weights: the options have no block network_g to load them into.")
    if not os.path.isfile(checkpoints.resolve(weights)):
        raise UserError(f"--weights: there is no file {weights}.")
    opt["path"]["pretrain_network_g"] = weights


def use_sets(opt: dict, sets: list[str] | None) -> None:
    """Puts EvaluationDatasets test_1, test_2, … made from `sets` (None: what the file says) in place of `datasets`.

    Raises:
        UserError: an entry is no NAME=HR_FOLDER[,LR_FOLDER], a name is given twice, or a folder is missing.
    """
    if sets is None:
        return
    blocks: dict[str, dict] = {}
    for entry in sets:
        name, gt, lq = parse_set(entry)
        if name in blocks:
            raise UserError(f"--sets: the name {name!r} is given twice; rename one.")
        blocks[name] = {"name": name, "type": "EvaluationDataset", "dataroot_gt": gt, "dataroot_lq": lq}
    opt["datasets"] = {f"test_{number}": block for number, block in enumerate(blocks.values(), 1)}


def parse_set(entry: str) -> tuple[str, str, str | None]:
    """Splits NAME=HR_FOLDER[,LR_FOLDER]; a comma parts the folders unless a folder of the whole name exists.

    Returns:
        The name, the folder (or LMDB) of HR, and the one of LR or None.

    Raises:
        UserError: a part is missing, or a folder is.
    """
    name, sign, folders = entry.partition("=")
    gt, comma, lq = ("", "", "") if _is_folder(folders) else folders.rpartition(",")
    if not comma:
        gt, lq = folders, None
    if not sign or not name or not gt or lq == "":
        raise UserError(f"--sets {entry!r} does not read as NAME=HR_FOLDER or NAME=HR_FOLDER,LR_FOLDER.")
    for folder in (gt, lq):
        if folder is not None and not _is_folder(folder):
            raise UserError(f"--sets {name}: there is no folder {folder}.")
    return name, gt, lq


def _is_folder(path: str) -> bool:
    return os.path.isdir(os.path.expanduser(path))
