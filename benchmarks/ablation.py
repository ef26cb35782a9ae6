"""The paper's ablations at the release's scale: each variant trained from several seeds, then measured on test sets.

    ALIGNVAR_LPIPS=FOLDER python benchmarks/ablation.py --sets set5=HR realsr=HR,LR [--seeds 0 1 2] [--minutes 10]
    ALIGNVAR_LPIPS=FOLDER python benchmarks/ablation.py --sets set5=HR --table     # what has been measured so far

It works in the folder where benchmarks/release.py has trained the tokenizer. Runs are options/release/ablation_x4.yml
with the changes below, named ablation_VARIANT_SEED; figures lie in their folders as ablation.json. What is finished is
left alone, and what --minutes cuts off goes on when called again. Printed are means and standard deviations over seeds,
and in how many of them a variant is better than `base` of the same seed.
"""
import argparse
import json
import sys
import time
from pathlib import Path

import common
import numpy as np
import torch
import yaml
from basicsr.metrics import calculate_metric
from basicsr.utils import tensor2img
from quality import METRICS
from release import OPTIONS, SAVED, piece
from tokens import crops, predict, tokenise

from alignvar_arch.archs.loading import load
from alignvar_arch.inference.picture import picture
from alignvar_arch.metrics.tokens import scale_cross_entropy

FILE = OPTIONS / "ablation_x4.yml"
HCC = "train:hcc_opt:"
VARIANTS = {
    "base": [],  # SCA laplacian, HCC cumulative with lambda 1
    "sca_random": ["network_g:sca=random"],
    "sca_off": ["network_g:sca=off"],
    "hcc_0": [f"{HCC}loss_weight=0"],
    "hcc_0.5": [f"{HCC}loss_weight=0.5"],
    "hcc_2": [f"{HCC}loss_weight=2"],
    "hcc_20": [f"{HCC}loss_weight=20"],
    "target_quantised": [f"{HCC}target=quantised"],
    "target_latent": [f"{HCC}target=latent"],
}
HIGHER = ("psnr", "ssim")  # of the figures; the others are better when lower


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", required=True, metavar="NAME=HR[,LR]")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, help="stop after so many")
    parser.add_argument("--table", action="store_true", help="train and measure nothing")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes if args.minutes is not None else float("inf")
    sets = dict(entry.split("=", 1) for entry in args.sets)
    if not args.table:
        for seed in args.seeds:  # whole columns first: what there is of a table can be read at any time
            for variant in args.variants:
                code = make(variant, seed, sets, end)
                if code:
                    return 0 if code == SAVED else code
    print(common.machine())
    print(table(args.variants, args.seeds))
    return 0


def make(variant: str, seed: int, sets: dict[str, str], end: float) -> int:
    """Train and measure one run where that has not been done; return an exit code."""
    name = f"ablation_{variant}_{seed}"
    folder = Path("experiments", name)
    weights, figures = folder / "models/net_g_latest.pth", folder / "ablation.json"
    if not weights.exists():
        left = end - time.monotonic()
        if left <= 0:
            print(f"{name} is next; call again to go on.")
            return SAVED
        command = [sys.executable, "-m", "alignvar_arch", "train", "--auto_resume", "-opt", str(FILE), "--force_yml",
                   f"name={name}", f"manual_seed={seed}", *VARIANTS[variant]]
        with open(f"{name}.log", "a") as log:
            code = piece(command, left, stdout=log)
        if code:
            return code
    if not figures.exists():
        figures.write_text(json.dumps(measure(str(weights), sets), indent=1))
    return 0


@torch.no_grad()
def measure(weights: str, sets: dict[str, str]) -> dict[str, float]:
    """Return figures by ``set figure``: pictures sampled as the options say, and cross-entropies in nat a token."""
    opt = yaml.safe_load(FILE.read_text())
    net, tokenizer = load(weights), load(opt["path"]["pretrain_network_tokenizer"])
    sampling = {key: opt["val"][key] for key in ("choice", "top_k", "top_p", "temperature")}
    found = {}
    for name, folders in sets.items():
        rows = []
        for _, gt, lr in common.pairs(*folders.split(",")):
            made, truth = tensor2img(picture(net, tokenizer, lr, **sampling)), tensor2img(gt)
            rows.append([float(calculate_metric({"img": made, "img2": truth}, dict(metric)))
                         for metric in METRICS.values()])
        found |= {f"{name} {key}": value for key, value in zip(METRICS, np.mean(rows, axis=0).tolist(), strict=True)}
        gt, lr = crops(folders, tokenizer.image_side, most=4)
        tokens, teacher = tokenise(tokenizer, gt, lr)
        for row, given in (("ce", lr), ("ce_other_lr", lr.roll(len(lr) // 2, 0))):
            by_scale = scale_cross_entropy(predict(net, given, teacher), tokens, tokenizer.schedule.spans)
            found[f"{name} {row}"] = float((by_scale * torch.tensor(tokenizer.schedule.lengths)).sum()
                                           / tokenizer.schedule.tokens)
    return found


def table(variants: list[str], seeds: list[int]) -> str:
    """Return what has been measured, as Markdown: mean ± standard deviation, and seeds in which base is beaten."""
    found = {(variant, seed): json.loads(path.read_text()) for variant in variants for seed in seeds
             if (path := Path(f"experiments/ablation_{variant}_{seed}/ablation.json")).exists()}
    if not found:
        return "nothing has been measured here yet."
    keys = list(next(iter(found.values())))
    lines = ["| | seeds | " + " | ".join(keys) + " |", "|---" * (len(keys) + 2) + "|"]
    for variant in variants:
        own = [seed for seed in seeds if (variant, seed) in found]
        if not own:
            continue
        cells = []
        for key in keys:
            values = [found[variant, seed][key] for seed in own]
            cell = f"{np.mean(values):.4f} ± {np.std(values, ddof=len(values) > 1):.4f}"
            both = [seed for seed in own if ("base", seed) in found]
            if variant != "base" and both:
                sign = -1 if key.split()[-1] in HIGHER else 1
                better = sum(sign * found[variant, seed][key] < sign * found["base", seed][key] for seed in both)
                cell += f" ({better}/{len(both)})"
            cells.append(cell)
        lines.append(f"| {variant} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
