"""The release's training pairs: random crops of photographs, each with an LR of one of several kinds in turn.

    python benchmarks/release_data.py PHOTOS [PHOTOS …] -o datasets/release

makes datasets/release_gt.lmdb and datasets/release_lq.lmdb, which LMDBPairDataset and PairedImageDataset read, of all
photographs in the folders and their sub-folders. LR is

- bicubic: MATLAB's kernel, as the classic test sets have it;
- blurred: one of Real-ESRGAN's first-stage kernels, then MATLAB's bicubic, nothing else: a lens and a clean sensor;
- degraded: Real-ESRGAN's two stages by benchmarks/release_degradation.yml.

What is drawn follows from a crop's number, so that the same photographs give the same stores. Both get their names when
both are made.
"""
import argparse
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import common  # before basicsr, which does not import without it

# isort: split
import torch
import yaml
from basicsr.data.realesrgan_dataset import RealESRGANDataset
from basicsr.utils import imwrite, tensor2img
from basicsr.utils.img_process_util import filter2D
from basicsr.utils.matlab_functions import imresize
from torch.utils.data import default_collate

from alignvar_arch.cli.lmdb.flags import positive
from alignvar_arch.cli.main import main as basicsr
from alignvar_arch.data.photos import find_photos, read_photo
from alignvar_arch.data.store.index import RECORDS
from alignvar_arch.errors import UserError
from alignvar_arch.models.degradation import Degradation
from alignvar_arch.training import rng

KINDS = ("bicubic", "blurred", "degraded")
DEGRADATION = Path(__file__).parent / "release_degradation.yml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", help="folders of photographs")
    parser.add_argument("-o", "--output", default="datasets/release", help="start of the two stores' names")
    parser.add_argument("--crop", type=positive, default=256, help="side of a crop of GT")
    parser.add_argument("--most", type=positive, default=32, help="most crops of a photograph")
    args = parser.parse_args()
    output = Path(args.output)
    if not output.name or args.crop % common.SCALE:
        parser.error("--output needs a name, and --crop must be a multiple of 4")
    stores = {name: output.with_name(f"{output.name}_{name}.lmdb") for name in ("gt", "lq")}
    if all(store.exists() for store in stores.values()):
        raise UserError(f"--output: {stores['gt']} and {stores['lq']} are there already; delete them, or name others.")
    work = output.with_name(f".{output.name}.part")
    shutil.rmtree(work, ignore_errors=True)  # of a call that was killed
    number = 0
    for key, gt, lq in pairs(args.photos, args.crop, args.most):
        for name, picture in (("gt", gt), ("lq", lq)):
            imwrite(tensor2img(picture), str(work / name / f"{key}.png"))
        number += 1
    if not number:
        raise UserError(f"no photograph in {', '.join(args.photos)} has room for a crop of {args.crop} x {args.crop}.")
    for name in stores:
        code = basicsr(["lmdb", "create", str(work / name), "-o", str(work / f"{name}.lmdb"), "--codec", "raw"])
        if code:
            raise SystemExit(code)
    for name, store in stores.items():
        if not store.exists():
            (work / f"{name}.lmdb").rename(store)
        elif _records(store) != _records(work / f"{name}.lmdb"):  # of a call killed between the two names
            raise UserError(f"--output: {store} is there already, of other photographs; delete it, or name another.")
    shutil.rmtree(work)
    print(f"{number} pairs")


def _records(store: Path) -> bytes | None:
    """Return a store's list of records, hashes of their content among them; None where this is no store."""
    path = store / RECORDS
    return path.read_bytes() if path.is_file() else None


def pairs(folders: list[str], side: int, most: int) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Yield name, GT (1, 3, side, side) and LR of all crops, in [0, 1].

    Raises:
        UserError: a folder is missing or holds no photographs, or one cannot be read.
    """
    values = yaml.safe_load(DEGRADATION.read_text())
    number = 0
    for folder in folders:
        photos = find_photos(os.path.abspath(folder))  # a folder, never one of the embedded sets, which are in boxes
        data = {**values, "gt_size": side, "scale": common.SCALE, "phase": "train", "dataroot_gt": folder,
                "meta_info": os.devnull, "io_backend": {"type": "disk"}, "use_hflip": False, "use_rot": False}
        photographs = RealESRGANDataset(data)
        photographs.paths = [str(photo.path) for photo in photos]  # its list would cut names at a space
        degrade = Degradation({**data, "datasets": {"train": data}}, torch.device("cpu"))
        for index, photo in enumerate(photos):
            height, width, _ = read_photo(photo).shape
            for _ in range(min(most, width * height // side ** 2)):
                rng.seed(number)
                item = default_collate([photographs[index]])
                gt, lq = degrade(item, [number])
                kind = KINDS[number % len(KINDS)]
                if kind != "degraded":
                    sharp = filter2D(gt, item["kernel1"]) if kind == "blurred" else gt
                    lq = imresize(sharp[0], 1 / common.SCALE)[None]
                yield f"{number:05d}_{photo.path.stem}", gt, lq
                number += 1


if __name__ == "__main__":
    common.run(main)
