"""The release's training pairs: random crops of photographs, each with an LR of one of several kinds in turn.

    python benchmarks/release_data.py PHOTOS [PHOTOS …] -o datasets/release

makes datasets/release_gt.lmdb and datasets/release_lq.lmdb, which LMDBPairDataset and PairedImageDataset read. LR is

- bicubic: MATLAB's kernel, as the classic test sets have it;
- blurred: one of Real-ESRGAN's first-stage kernels, then MATLAB's bicubic, nothing else: a lens and a clean sensor;
- degraded: Real-ESRGAN's two stages by benchmarks/release_degradation.yml.

What is drawn follows from a crop's number, so that the same photographs give the same stores.
"""
import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import common  # before basicsr, which does not import without it

# isort: split
import torch
import yaml
from basicsr.data.realesrgan_dataset import RealESRGANDataset
from basicsr.utils import imwrite, scandir, tensor2img
from basicsr.utils.img_process_util import filter2D
from basicsr.utils.matlab_functions import imresize
from PIL import Image
from torch.utils.data import default_collate

from alignvar_arch.cli.main import main as basicsr
from alignvar_arch.models.degradation import Degradation
from alignvar_arch.training import rng

KINDS = ("bicubic", "blurred", "degraded")
ENDINGS = (".png", ".jpg", ".jpeg")
DEGRADATION = Path(__file__).parent / "release_degradation.yml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", help="folders of photographs")
    parser.add_argument("-o", "--output", default="datasets/release", help="start of the two stores' names")
    parser.add_argument("--crop", type=int, default=256, help="side of a crop of GT")
    parser.add_argument("--most", type=int, default=32, help="crops of a photograph, which gets as many as it has room")
    args = parser.parse_args()
    folders = {name: Path(f"{args.output}_{name}") for name in ("gt", "lq")}
    number = 0
    for key, gt, lq in pairs(args.photos, args.crop, args.most):
        for name, picture in (("gt", gt), ("lq", lq)):
            imwrite(tensor2img(picture), str(folders[name] / f"{key}.png"))
        number += 1
    for folder in folders.values():
        code = basicsr(["lmdb", "create", str(folder), "-o", f"{folder}.lmdb", "--codec", "raw"])
        if code:
            raise SystemExit(code)
        shutil.rmtree(folder)
    print(f"{number} pairs")


def pairs(folders: list[str], side: int, most: int) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Yield name, GT (1, 3, side, side) and LR of all crops, in [0, 1]."""
    values = yaml.safe_load(DEGRADATION.read_text())
    number = 0
    for folder in folders:
        names = sorted(scandir(folder, ENDINGS))
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as listing:
            listing.writelines(f"{name}\n" for name in names)
            listing.flush()
            data = {**values, "gt_size": side, "scale": common.SCALE, "phase": "train", "dataroot_gt": folder,
                    "meta_info": listing.name, "io_backend": {"type": "disk"}, "use_hflip": False, "use_rot": False}
            photographs = RealESRGANDataset(data)
        degrade = Degradation({**data, "datasets": {"train": data}}, torch.device("cpu"))
        for index, name in enumerate(names):
            width, height = Image.open(Path(folder, name)).size
            for _ in range(min(most, width * height // side ** 2)):
                rng.seed(number)
                item = default_collate([photographs[index]])
                gt, lq = degrade(item, [number])
                kind = KINDS[number % len(KINDS)]
                if kind != "degraded":
                    sharp = filter2D(gt, item["kernel1"]) if kind == "blurred" else gt
                    lq = imresize(sharp[0], 1 / common.SCALE)[None]
                yield f"{number:05d}_{Path(name).stem}", gt, lq
                number += 1


if __name__ == "__main__":
    main()
