"""Ways to a picture larger than the networks', side by side: seams, quality, time.

    ALIGNVAR_LPIPS=FOLDER python benchmarks/seams.py --sets set5=HR_FOLDER [--large PHOTO ...]

Square middles of the pictures (at most --side pixels), protocol as in quality.py, tokens chosen as in
options/alignvar_x4_test.yml. Photographs named by --large are taken as LR, 512 pixels a side: their 2048×2048 results
have no ground truth, and only their seams are measured.

Ways: `latent` blends the tiles' latents and decodes once (what the package does), `wavelet` and `adain` fix its
colours; `pixel` blends decoded tiles; `own` blends latents, then decodes each tile with its own statistics and blends
those; `schedule` takes the picture whole, with a scale schedule and positions stretched to its size.

Seam: mean absolute step between the pixels on both sides of a tile's border, over the same measure one pixel inside.
Cells: the same at the other borders between the tokenizer's patches, where no tile ends: what would be there anyway.
"""
import argparse
import json
import time
from collections import defaultdict

import common
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from basicsr.metrics import calculate_metric
from basicsr.utils import tensor2img
from quality import METRICS

from alignvar_arch.archs import AlignVAR, AlignVARTokenizer
from alignvar_arch.archs.loading import load
from alignvar_arch.checkpoints.recognise import recognise
from alignvar_arch.inference.colour import fix_colour
from alignvar_arch.inference.picture import picture, seeds, upscale_latent
from alignvar_arch.inference.tiles import Tiling, blended

SAMPLING = {"choice": "expected"}


def latent(net, tokenizer, lr, seed):
    return picture(net, tokenizer, lr, seed=seed, **SAMPLING)


def pixel(net, tokenizer, lr, seed):
    def run(places, tiles):
        return torch.cat([picture(net, tokenizer, tile[None], seed=own, **SAMPLING)
                          for tile, own in zip(tiles, seeds(seed, places), strict=True)])

    return _cropped(blended(run, lr, tiling=Tiling.of(tokenizer, common.SCALE), scale=common.SCALE), lr)


def own(net, tokenizer, lr, seed):
    tiling, side = Tiling.of(tokenizer, common.SCALE), tokenizer.schedule.latent_side
    f_hat = upscale_latent(net, tokenizer, lr, tiling=tiling, seed=seed, **SAMPLING)

    def run(places, tiles):
        corners = [(place.top * side // tiling.tile, place.left * side // tiling.tile) for place in places]
        cut = torch.cat([f_hat[..., y:y + side, x:x + side] for y, x in corners])
        return tokenizer.to_image(tokenizer.decode(cut, tiles), tiles)

    return _cropped(blended(run, lr, tiling=tiling, scale=common.SCALE), lr)


def schedule(net, tokenizer, lr, seed):
    side = lr.shape[-1] * common.SCALE // tokenizer.factor
    sides = [1, *(round(s * side / net.schedule.latent_side) for s in net.schedule.sides[1:])]
    state = net.state_dict()
    grid = state["pos_start"][:, :-1].unflatten(1, (net.schedule.latent_side,) * 2).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic").flatten(2).transpose(1, 2)
    state["pos_start"] = torch.cat([grid, state["pos_start"][:, -1:]], 1)
    return latent(_rebuilt(AlignVAR, common.MODEL, sides, state),
                  _rebuilt(AlignVARTokenizer, common.TOKENIZER, sides, tokenizer.state_dict()), lr, seed)


WAYS = {"latent": latent, "pixel": pixel, "own": own, "schedule": schedule}


def _rebuilt(kind, path, sides, state):
    options = json.loads(recognise(path).metadata["network"])
    net = kind(**{key: value for key, value in options.items() if key != "type"} | {"scales": sides})
    net.load_state_dict(state)
    return net.eval()


def _cropped(made: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
    return made[..., :lr.shape[-2] * common.SCALE, :lr.shape[-1] * common.SCALE].clamp(0, 1)


def steps(made: torch.Tensor, tokenizer: AlignVARTokenizer) -> dict[str, float]:
    """Return the measure at tile borders and at the other patch borders of a picture (1, 3, H, W)."""
    sums = defaultdict(lambda: np.zeros(2))
    tiling = Tiling.of(tokenizer, common.SCALE)
    for x in (made, made.transpose(-1, -2)):
        step = x.diff(dim=-1).abs().mean((0, 1, 2)).double()
        starts = tiling.starts(x.shape[-1] // common.SCALE)
        borders = {start * common.SCALE for start in [*starts, *(start + tiling.tile for start in starts)]}
        for place in range(tokenizer.factor, x.shape[-1] - 1, tokenizer.factor):
            across, inside = step[place - 1], (step[place - 2] + step[place]) / 2
            sums["seam" if place in borders else "cells"] += [float(across), float(inside)]
    return {key: across / inside for key, (across, inside) in sums.items()}


def middle(image: torch.Tensor, side: int) -> torch.Tensor:
    top, left = ((length - side) // 2 for length in image.shape[-2:])
    return image[..., top:top + side, left:left + side]


def material(args) -> list[tuple[str, torch.Tensor | None, torch.Tensor]]:
    """Return set, GT (None where there is none) and LR of every picture."""
    found = []
    for name, folder in (entry.split("=", 1) for entry in args.sets):
        for _, gt, lr in common.pairs(folder):
            side = min(*lr.shape[-2:], args.side // common.SCALE) // 2 * 2
            lr_top, lr_left = ((length - side) // 2 for length in lr.shape[-2:])
            cut = [slice(start * common.SCALE, (start + side) * common.SCALE) for start in (lr_top, lr_left)]
            found.append((name, gt[..., cut[0], cut[1]], middle(lr, side)))
    for path in args.large:
        image = cv2.imread(path, cv2.IMREAD_COLOR)
        if image is None or min(image.shape[:2]) < 512:
            raise SystemExit(f"{path}: not a picture of 512 pixels a side or more.")
        lr = torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).astype(np.float32) / 255)[None]
        found.append(("large", None, middle(lr, 512)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--large", nargs="+", default=[], metavar="PHOTO")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    net, tokenizer = load(common.MODEL), load(common.TOKENIZER)
    print(common.machine())
    rows = defaultdict(list)

    def add(key, gt, made, seconds):
        figures = {**steps(made, tokenizer), "seconds": seconds}
        if gt is not None:
            pair = {"img": tensor2img(made), "img2": tensor2img(gt)}
            figures |= {name: float(calculate_metric(pair, dict(metric))) for name, metric in METRICS.items()}
        rows[key].append(figures)

    for name, gt, lr in material(args):
        for way in args.ways:
            start = time.perf_counter()
            with torch.no_grad():
                made = WAYS[way](net, tokenizer, lr, 0)
            add((name, way), gt, made, time.perf_counter() - start)
            if way == "latent":
                for how in ("wavelet", "adain"):
                    add((name, how), gt, fix_colour(made, lr, how).clamp(0, 1), time.perf_counter() - start)
    for (name, way), figures in rows.items():
        means = {key: np.mean([row[key] for row in figures if key in row])
                 for key in (*METRICS, "seam", "cells", "seconds") if any(key in row for row in figures)}
        print(f"{name:<8}{way:<10}" + "  ".join(f"{key} {value:.4f}" for key, value in means.items()), flush=True)


if __name__ == "__main__":
    main()
