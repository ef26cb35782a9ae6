"""PSNR, SSIM and LPIPS of bicubic, the tokenizer's reconstruction and AlignVAR, side by side on folders of HR pictures.

    ALIGNVAR_LPIPS=FOLDER python benchmarks/quality.py --sets set5=HR_FOLDER set14=HR_FOLDER

Protocol: ×4, LR by MATLAB's bicubic kernel rounded to 8 bits, PSNR and SSIM on Y and LPIPS-squeeze on RGB, all without
a border of 4 pixels; guidance 0, seed 0; sampling as in options/alignvar_x4_test.yml.
"""
import argparse
import json
from pathlib import Path

import common
import numpy as np
import torch
from basicsr.metrics import calculate_metric
from basicsr.utils import imwrite, tensor2img
from basicsr.utils.matlab_functions import imresize

from alignvar_arch.archs.loading import load
from alignvar_arch.inference.picture import picture as upscale
from alignvar_arch.inference.picture import reconstruction

METRICS = {"psnr": {"type": "calculate_psnr", "crop_border": 4, "test_y_channel": True},
           "ssim": {"type": "calculate_ssim", "crop_border": 4, "test_y_channel": True},
           "lpips": {"type": "calculate_lpips_squeeze", "crop_border": 4}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--tokenizer", default=common.TOKENIZER)
    parser.add_argument("--model", default=common.MODEL, help="'none' leaves the transformer out")
    parser.add_argument("--choice", default="expected", help="or sample, by the next three")
    parser.add_argument("--top_k", type=int, default=1, help="1 is greedy")
    parser.add_argument("--top_p", type=float, default=1.0)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--save", help="folder for the pictures")
    parser.add_argument("--json", help="file for the figures")
    args = parser.parse_args()
    tokenizer = load(args.tokenizer)
    methods = {"bicubic": lambda gt, lr: imresize(lr[0], common.SCALE)[None].clamp(0, 1),
               "tokenizer": lambda gt, lr: reconstruction(tokenizer, gt, lr)}
    if args.model != "none":
        model = load(args.model)
        sampling = {"choice": args.choice, "top_k": args.top_k, "top_p": args.top_p, "temperature": args.temperature}
        methods["alignvar"] = lambda gt, lr: upscale(model, tokenizer, lr, **sampling)
    print(common.machine())
    result = {}
    for name, folder in (entry.split("=", 1) for entry in args.sets):
        rows = {method: [] for method in methods}
        for stem, gt, lr in common.pairs(folder):
            for method, function in methods.items():
                with torch.no_grad():
                    picture = tensor2img(function(gt, lr))
                rows[method].append([float(calculate_metric({"img": picture, "img2": tensor2img(gt)}, dict(metric)))
                                     for metric in METRICS.values()])
                if args.save:
                    imwrite(picture, str(Path(args.save) / name / f"{stem}_{method}.png"))
        result[name] = {method: dict(zip(METRICS, np.mean(row, axis=0).tolist(), strict=True))
                        for method, row in rows.items()}
        print(f"{name} ({len(rows['bicubic'])} pictures)")
        for method, figures in result[name].items():
            print(f"  {method:<10}" + "  ".join(f"{key} {value:8.4f}" for key, value in figures.items()), flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
