"""The paper's ablations at the release's scale: each variant trained from several seeds, then measured on test sets.

    python benchmarks/release.py --stages ablation_tokenizer_x4        # their tokenizer, once
    ALIGNVAR_LPIPS=FOLDER python benchmarks/ablation.py --sets set5=HR realsr=HR,LR [--seeds 0 1 2] [--minutes 10]
    ALIGNVAR_LPIPS=FOLDER python benchmarks/ablation.py --sets set5=HR --table     # what has been measured so far

It works in the folder where the tokenizer has been trained. Runs are options/release/ablation_x4.yml with the changes
below, named ablation_VARIANT_SEED; what is found lies in their folders as figures.json, and, when a seed has all its
variants, diagnosis.json, of `basicsr diagnose`. What is finished is left alone, and what --minutes cuts off goes on
when called again. Printed are means and standard deviations over seeds, and in how many of them a variant is better
than `base` of the same seed (of diagnosis.json's: lower).

Figures: pictures of the expected codes, and of `drawn` tokens; `ce` in nat a token, on up to four crops a picture, and
`ce other lr`, with another crop's LR. Of diagnosis.json, on the middle crops of four pictures a set: mean distance and
3×3 share of attention among the tokens of the finest scale, over those of attention that looks everywhere alike; `error
left`, the drawn latent's squared error over that of no tokens; and of an error planted in one token of nine, at the
scale of 3×3, the squared error left at the last scale, over the planted one, and the share of its tokens that change.
"""
import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import common
import numpy as np
import torch
import yaml
from basicsr.utils import tensor2img
from curves import ALL, figures_of
from release import OPTIONS, SAVED, piece
from tokens import crops, predict, tokenise

from alignvar_arch.archs.loading import load
from alignvar_arch.inference.picture import picture
from alignvar_arch.metrics.tokens import scale_cross_entropy
from alignvar_arch.options.reader import force

FILE = OPTIONS / "ablation_x4.yml"
HCC = "train:hcc_opt:"
VARIANTS = {
    "base": [],  # SCA laplacian, HCC cumulative with lambda 1
    "sca_random": ["network_g:sca=random"],
    "sca_off": ["network_g:sca=off"],
    "hcc_0": [f"{HCC}loss_weight=0"],
    "hcc_0.5": [f"{HCC}loss_weight=0.5"],
    "hcc_2": [f"{HCC}loss_weight=2"],
    "target_quantised": [f"{HCC}target=quantised"],
    "target_latent": [f"{HCC}target=latent"],
}
DRAWN = {"choice": "sample", "top_k": 0, "top_p": 0.95, "temperature": 1.0}  # the options take the mean of all draws
HIGHER = ("psnr", "ssim")  # of the figures; the others are better when lower
FINE = ("ssim", "lpips", "changed")  # have four digits in the table, the others two
DIAGNOSED = 4  # pictures of each set that `basicsr diagnose` runs on
PLANT, PLANTED = 10, "2"  # % of tokens exchanged, and the index of the scale, of those that diagnose plants at


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", required=True, metavar="NAME=HR[,LR]")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, help="stop after so many")
    parser.add_argument("--force_yml", nargs="+", default=[], help="as for basicsr train, for all runs")
    parser.add_argument("--table", action="store_true", help="train and measure nothing")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes if args.minutes is not None else float("inf")
    sets = dict(entry.split("=", 1) for entry in args.sets)
    if not args.table:
        for seed in args.seeds:  # whole columns first: what there is of a table can be read at any time
            for variant in args.variants:
                code = make(variant, seed, sets, end, args.force_yml)
                if code:
                    return 0 if code == SAVED else code
            code = diagnose(args.variants, seed, args.sets, end, args.force_yml)
            if code:
                return 0 if code == SAVED else code
    print(common.machine())
    print(table(args.variants, args.seeds))
    return 0


def run_folder(variant: str, seed: int) -> Path:
    return Path("experiments", f"ablation_{variant}_{seed}")


def make(variant: str, seed: int, sets: dict[str, str], end: float, forced: list[str]) -> int:
    """Train and measure one run where that has not been done; return an exit code."""
    folder = run_folder(variant, seed)
    weights, figures = folder / "models/net_g_latest.pth", folder / "figures.json"
    if figures.exists():
        return 0
    left = end - time.monotonic()
    if left <= 0:
        print(f"{folder.name} is next; call again to go on.")
        return SAVED
    if not weights.exists():
        command = [sys.executable, "-m", "alignvar_arch", "train", "--auto_resume", "-opt", str(FILE), "--force_yml",
                   f"name={folder.name}", f"manual_seed={seed}", *VARIANTS[variant], *forced]
        with open(f"{folder.name}.log", "a") as log:
            code = piece(command, left, stdout=log)
        if code:
            return code
    figures.write_text(json.dumps(measure(str(weights), sets, forced), indent=1))
    return 0


@torch.no_grad()
def measure(weights: str, sets: dict[str, str], forced: list[str]) -> dict[str, float]:
    """Return figures by ``set figure``: of pictures of the expected codes and of drawn ones, and cross-entropies in
    nat a token, teacher-forced, with the picture's own LR and with another's."""
    opt = yaml.safe_load(FILE.read_text())
    force(opt, forced)
    net, tokenizer = load(weights), load(opt["path"]["pretrain_network_tokenizer"])
    ways = {"": {key: opt["val"][key] for key in DRAWN}, " drawn": DRAWN}
    found = {}
    for name, folders in sets.items():
        rows = {f"{metric}{way}": [] for way in ways for metric in ALL}
        for _, gt, lr in common.pairs(*folders.split(",")):
            truth = tensor2img(gt)
            for way, sampling in ways.items():
                made = tensor2img(picture(net, tokenizer, lr, **sampling))
                for metric, value in figures_of(made, truth).items():
                    rows[f"{metric}{way}"].append(value)
        found |= {f"{name} {key}": float(np.mean(values)) for key, values in rows.items()}
        gt, lr = crops(folders, tokenizer.image_side, most=4)
        tokens, teacher = tokenise(tokenizer, gt, lr)
        for row, given in (("ce", lr), ("ce other lr", lr.roll(len(lr) // 2, 0))):
            by_scale = scale_cross_entropy(predict(net, given, teacher), tokens, tokenizer.schedule.spans)
            found[f"{name} {row}"] = float((by_scale * torch.tensor(tokenizer.schedule.lengths)).sum()
                                           / tokenizer.schedule.tokens)
    return found


def diagnose(variants: list[str], seed: int, sets: list[str], end: float, forced: list[str]) -> int:
    """Run `basicsr diagnose` on a seed's variants side by side where that has not been done, and leave each run's
    figures of it in its folder; return an exit code."""
    output, files = Path(f"ablation_diagnosis_{seed}"), []
    if all((run_folder(variant, seed) / "diagnosis.json").exists() for variant in variants):
        return 0
    if end <= time.monotonic():
        print(f"the diagnosis of seed {seed} is next; call again to go on.")
        return SAVED
    for variant in variants:
        opt, folder = yaml.safe_load(FILE.read_text()), run_folder(variant, seed)
        force(opt, [*VARIANTS[variant], *forced])
        del opt["train"]
        opt |= {"name": folder.name, "datasets": {}}
        opt["val"] |= DRAWN
        opt["path"] |= {"pretrain_network_g": str(folder / "models/net_g_latest.pth"), "param_key_g": "params_ema"}
        files.append(folder / f"{variant}.yml")
        files[-1].write_text(yaml.safe_dump(opt))
    shutil.rmtree(output, ignore_errors=True)  # of other variants, or cut off
    code = piece([sys.executable, "-m", "alignvar_arch", "diagnose", "-opt", *map(str, files), "--sets", *sets,
                  "--limit", str(DIAGNOSED), "--plant", str(PLANT), "-o", str(output)])
    if code > 1:  # 1: some pictures could not be used, the others are done
        return code
    content = json.loads((output / "diagnose.json").read_text())
    overall, uniform = content["overall"], content["uniform_attention"]
    labels = {subject["file"]: subject["label"] for subject in reversed(content["subjects"])}  # the first of a file
    for variant, file in zip(variants, files, strict=True):
        label = labels[str(file)]
        looks, travel = overall["attention"][label], overall["planting"][label][PLANTED]
        figures = {
            "attention distance": np.mean(looks["distance"], axis=0)[-1] / uniform["distance"][-1],
            "attention 3x3": np.mean(looks["window"], axis=0)[-1] / uniform["window"][-1],
            "error left": overall["to_latent"][label][-1] / overall["to_latent"]["nothing"][-1],
            "planted error carried": travel["carried"][-1],
            "tokens changed by it": travel["changed"][-1]}
        (run_folder(variant, seed) / "diagnosis.json").write_text(json.dumps(figures, indent=1))
    return 0


def recorded(variant: str, seed: int) -> dict[str, float]:
    """Return what has been found of a run, by figure; nothing where nothing has been measured."""
    files = [run_folder(variant, seed) / name for name in ("figures.json", "diagnosis.json")]
    return {key: value for file in files if file.exists() for key, value in json.loads(file.read_text()).items()}


def table(variants: list[str], seeds: list[int]) -> str:
    """Return what has been measured, as Markdown, a column a variant: mean ± standard deviation, and in how many seeds
    it is better than base, or lower where no figure is better."""
    found = {variant: {seed: figures for seed in seeds if (figures := recorded(variant, seed))}
             for variant in variants}
    found = {variant: runs for variant, runs in found.items() if runs}
    if not found:
        return "nothing has been measured here yet."
    keys = dict.fromkeys(key for runs in found.values() for figures in runs.values() for key in figures)
    lines = ["| seeds | " + " | ".join(f"{variant} ({len(runs)})" for variant, runs in found.items()) + " |",
             "|---" * (len(found) + 1) + "|"]
    for key in keys:
        cells, digits = [], 4 if any(word in FINE for word in key.split()) else 2
        for variant, runs in found.items():
            values = {seed: figures[key] for seed, figures in runs.items() if key in figures}
            if not values:
                cells.append("")
                continue
            every = list(values.values())
            cell = f"{np.mean(every):.{digits}f} ± {np.std(every, ddof=len(every) > 1):.{digits}f}"
            base = {seed: figures[key] for seed, figures in found.get("base", {}).items() if key in figures}
            both = values.keys() & base.keys()
            if variant != "base" and both:
                sign = -1 if any(word in HIGHER for word in key.split()) else 1
                cell += f" ({sum(sign * values[seed] < sign * base[seed] for seed in both)}/{len(both)})"
            cells.append(cell)
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    common.run(main)
