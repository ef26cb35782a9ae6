"""What guidance, sampling and the number of steps do to the pictures, and what tokens add at all.

    ALIGNVAR_LPIPS=FOLDER python benchmarks/curves.py --sets set5=HR realsr10=HR,LR [--guidance 0 1 2 3 4 5 6]

For each set: bicubic; the decoder alone, whose tokens say nothing; the expected choice after each number of steps
(after all K it is AlignVAR as it ships); other ways to choose; guidance, with the expected choice; and the tokenizer
with the ground truth's tokens, the ceiling.
PSNR and SSIM on Y, LPIPS-squeeze on RGB, NIQE on Y; all without a border of 4 pixels, but for `lpips beside`: LPIPS
without a border of 5, so that a dither hidden between the strides of its network shows.
"""
import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np
import torch
from basicsr.metrics import calculate_metric
from basicsr.utils import tensor2img
from basicsr.utils.matlab_functions import imresize
from quality import METRICS

from alignvar_arch.archs import AlignVAR, AlignVARTokenizer
from alignvar_arch.inference.picture import decode, reconstruction, structure
from alignvar_arch.inference.picture import seeds as own_seeds
from alignvar_arch.inference.tiles import Place, Tiling, blended

ALL = {**METRICS, "lpips beside": {"type": "calculate_lpips_squeeze", "crop_border": 5},
       "niqe": {"type": "calculate_niqe", "crop_border": 4}}
EXPECTED = {"choice": "expected"}
DRAWS = {"expected, temperature 2": {"choice": "expected", "temperature": 2.0}, "greedy": {"top_k": 1},
         "top_p 0.5, temperature 0.7": {"top_k": 0, "top_p": 0.5, "temperature": 0.7},
         "top_p 0.8, temperature 0.8": {"top_k": 0, "top_p": 0.8, "temperature": 0.8},
         "top_p 0.95, temperature 1": {"top_k": 0, "top_p": 0.95}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", required=True, metavar="NAME=HR[,LR]")
    parser.add_argument("--tokenizer", default=common.TOKENIZER)
    parser.add_argument("--model", default=common.MODEL)
    parser.add_argument("--guidance", nargs="*", type=float, default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--most", type=int, help="pictures of each set, by name")
    parser.add_argument("--json", help="file for the figures")
    args = parser.parse_args()
    net, tokenizer = common.networks(args.model, args.tokenizer, guided=any(args.guidance))
    print(common.machine())
    result = {}
    for name, folders in (entry.split("=", 1) for entry in args.sets):
        rows: dict[str, list[list[float]]] = {}
        for _, gt, lr in list(common.pairs(*folders.split(",")))[:args.most]:
            truth = tensor2img(gt)
            for way, made in ways(net, tokenizer, gt, lr, args.guidance):
                rows.setdefault(way, []).append(list(figures_of(tensor2img(made.clamp(0, 1)), truth).values()))
        result[name] = {way: dict(zip(ALL, np.mean(row, axis=0).tolist(), strict=True)) for way, row in rows.items()}
        print(f"\n| {name} ({len(rows['bicubic'])}) | " + " | ".join(ALL) + " |\n" + "|---" * (len(ALL) + 1) + "|")
        for way, figures in result[name].items():
            print(f"| {way} | " + " | ".join(f"{value:.4f}" for value in figures.values()) + " |", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1))


def figures_of(made: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the figures of a picture, uint8 BGR as BasicSR has them, by the names of ``ALL``."""
    given = {"img": made, "img2": truth}
    return {key: float(calculate_metric(given if key != "niqe" else {"img": made}, dict(metric)))
            for key, metric in ALL.items()}


@torch.no_grad()
def ways(net: AlignVAR, tokenizer: AlignVARTokenizer, gt: torch.Tensor, lr: torch.Tensor,
         guidance: list[float]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the name and the picture (1, 3, H, W) of every way to make one of an LR."""
    yield "bicubic", imresize(lr[0], common.SCALE)[None]
    count = len(tokenizer.schedule)
    steps = after_each_step(net, tokenizer, lr, **EXPECTED)
    yield "no tokens", decode(tokenizer, torch.zeros_like(steps[0]), lr)
    for k, f_hat in enumerate(steps):
        yield f"expected, {k + 1} of {count} steps", decode(tokenizer, f_hat, lr)
    for name, how in DRAWS.items():
        yield name, decode(tokenizer, after_each_step(net, tokenizer, lr, **how)[-1], lr)
    for strength in guidance:
        f_hat = after_each_step(net, tokenizer, lr, guidance=strength, **EXPECTED)[-1]
        yield f"expected, guidance {strength:g}", decode(tokenizer, f_hat, lr)
    yield "ground truth's tokens", reconstruction(tokenizer, gt, lr)


def after_each_step(net: AlignVAR, tokenizer: AlignVARTokenizer, lr: torch.Tensor, **how) -> list[torch.Tensor]:
    """Return the picture's latent (1, C, H, W) as it is after each step: tiles blended, as the package does."""
    def run(places: list[Place], tiles: torch.Tensor) -> torch.Tensor:
        own = own_seeds(0, places)
        draw = [torch.Generator().manual_seed(seed) for seed in own]
        return torch.cat(net.generate(tiles, tokenizer.quantize, structure(net, tiles, own), generator=draw,
                                      **how).cumulative, dim=1)

    tiling = Tiling.of(tokenizer, common.SCALE)
    return list(blended(run, lr, tiling=tiling, scale=common.SCALE).chunk(len(tokenizer.schedule), dim=1))


if __name__ == "__main__":
    common.run(main)
