"""Decoding a large latent whole and in tiles: peak memory, time, and how far apart the pictures are.

    python benchmarks/decode.py [--side 1024] [--tile 8 16] [--keep 64] [--small]

The paper's tokenizer with random weights, or the small one's layout; float32 on the CPU. Each way is a process of its
own; its peak is the kernel's (VmHWM, Linux) less what was there before decoding. A ``--keep`` of MiB adds a row for
each tile that stores no larger maps than that.
"""
import argparse
import multiprocessing
import re
import time
from pathlib import Path

import common
import torch

from alignvar_arch.archs import AlignVARTokenizer
from alignvar_arch.inference.decode import decode_tiled

SMALL = {"ch": 64, "ch_mult": (1, 2), "num_res_blocks": 2, "guide_blocks": 10, "latent_dim": 16, "target": "residual"}


def status(field: str) -> float:
    """Return a figure of this process from the kernel, in MiB."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def decode(side: int, tile: int | None, keep: int | None, small: bool) -> tuple[float, float, torch.Tensor]:
    """Return peak MiB, seconds, and the picture at every fourth pixel."""
    torch.manual_seed(0)
    tokenizer = AlignVARTokenizer(**(SMALL if small else {})).eval()
    torch.nn.init.normal_(tokenizer.decoder.conv_out.weight, std=0.05)
    cells = side // tokenizer.factor
    f_hat, lr = torch.randn(1, tokenizer.quantize.latent_dim, cells, cells), torch.rand(1, 3, side // 4, side // 4)
    before, start = status("VmRSS"), time.perf_counter()
    with torch.no_grad():
        made = tokenizer.decode(f_hat, lr) if tile is None else decode_tiled(tokenizer, f_hat, lr, tile, keep)
    return status("VmHWM") - before, time.perf_counter() - start, made[..., ::4, ::4].clone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024, help="of the picture, pixels")
    parser.add_argument("--tile", type=int, nargs="+", default=[8, 16], help="latent pixels")
    parser.add_argument("--keep", type=int, help="MiB")
    parser.add_argument("--small", action="store_true", help="the layout of the tokenizer that ships")
    args = parser.parse_args()
    print(common.machine())
    ways = [(None, None)] + [(tile, keep) for tile in args.tile
                             for keep in ([None] if args.keep is None else [None, args.keep * 2 ** 20])]
    whole = None
    for tile, keep in ways:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak, seconds, made = pool.apply(decode, (args.side, tile, keep, args.small))
        whole = made if whole is None else whole
        name = "whole" if tile is None else f"tiles of {tile}" + ("" if keep is None else f", maps to {args.keep} MiB")
        print(f"{name:<28}{peak:8.0f} MiB {seconds:8.1f} s   largest difference {(made - whole).abs().max():.1e} "
              f"of {whole.abs().max():.2f}", flush=True)


if __name__ == "__main__":
    main()
