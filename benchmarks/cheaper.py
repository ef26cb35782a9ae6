"""Ways to compute less than the model asks for: what they win in time and lose in quality, side by side.

    ALIGNVAR_LPIPS=FOLDER python benchmarks/cheaper.py --sets set5=HR_FOLDER [--depth 8] [--seeds 3] [--repeat 3]

Ways: `stop n` leaves out the last n scales; `structure p` and `residual p` compute, at the last two scales, only the
share p of the tokens where the LR's Laplacian is largest, or where the scale before added most, and add nothing
elsewhere; `guided from k` begins with guidance at scale k. All ways share the scales before the last two, so that the
same numbers are drawn there; what a way costs is the time of its steps and of decoding.

Quality is the shipped model's (or --model's), protocol as in quality.py, tokens drawn (top_p 0.8, temperature 0.8), the
mean over --seeds seeds. Time is that of the same pictures and, with random weights, of one 512×512 picture at the
paper's geometry with --depth blocks (0 leaves it out), the best of --repeat. Guidance is timed there only. What the bad
branch needs of the scales without guidance is taken as free, so that the ratio printed is more than any such way can
win.

A way is worth an option if it wins 1.3 times or more at both sizes and loses 0.01 LPIPS or less.
"""
import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import common
import numpy as np
import torch
from basicsr.metrics import calculate_metric
from basicsr.utils import tensor2img
from quality import METRICS

from alignvar_arch.archs import AlignVAR, AlignVARTokenizer
from alignvar_arch.archs.alignvar_arch import BAD, GOOD
from alignvar_arch.archs.layers.kv_cache import KVCache
from alignvar_arch.archs.transformer.sampling import choose
from alignvar_arch.inference.picture import decode
from alignvar_arch.inference.picture import seeds as own_seeds
from alignvar_arch.inference.tiles import Tiling, blended

GAIN, LOSS = 1.3, 0.01
SAMPLING = {"top_k": 0, "top_p": 0.8, "temperature": 0.8}


class Way(NamedTuple):
    """How the last two scales are computed: as many are left out, and a share of the tokens, chosen by something."""

    stop: int = 0
    keep: float = 1.0
    by: str = ""


WAYS = {"full": Way(), "stop 1": Way(stop=1), "stop 2": Way(stop=2)} | {
    f"{by} {keep}": Way(keep=keep, by=by) for by in ("structure", "residual") for keep in (0.5, 0.25)}


class Generation:
    """A generation that can be continued in several ways from any scale, and knows what each scale took."""

    def __init__(self, net: AlignVAR, tokenizer: AlignVARTokenizer, lr: torch.Tensor, own: list[int],
                 branches: int = 1):
        start = time.perf_counter()
        self.net, self.pyramid, self.batch, self.branches = net, tokenizer.quantize, len(lr), branches
        self.draw = [torch.Generator().manual_seed(seed) for seed in own]  # one a picture, as the package has it
        condition = net.class_emb.weight[[GOOD, BAD][:branches]]
        *self.tables, self.head_table = [part.modulation(condition).repeat_interleave(self.batch, dim=1)
                                         for part in (*net.blocks, net.head_nm)]
        self.structure = net.structure(lr)
        repeated = None if self.structure is None else self.structure.repeat(branches, 1, 1)
        prefix = net.con_embedding(lr)
        self.local = net._local(prefix)
        local = None if self.local is None else self.local.repeat(branches, 1, 1)
        self.x, _ = net._start(prefix.repeat(branches, 1, 1), local,
                               condition.repeat_interleave(self.batch, dim=0), repeated)
        self.memory = net.memory(self.x, branches * self.batch)
        self.f_hat, self.added, self.filled = self.pyramid.empty(self.batch), None, 0
        self.seconds = [time.perf_counter() - start]

    def run(self, scales: range, keep: float = 1.0, by: str = "") -> None:
        for k in scales:
            start = time.perf_counter()
            self._step(k, None if keep == 1 else self._kept(k, keep, by))
            self.seconds.append(time.perf_counter() - start)

    def _kept(self, k: int, keep: float, by: str) -> torch.Tensor:
        """Return the places of the tokens that are computed, (B, n), in order."""
        length = self.net.schedule.lengths[k]
        if by == "structure":
            weight = self.structure[:, self.net.schedule.spans[k], 0]
        else:
            weight = self.pyramid.reduce(k, self.added.square().sum(1, keepdim=True)).flatten(1)
        return weight.topk(max(1, round(keep * length)), dim=1).indices.sort(dim=1).values

    def _step(self, k: int, kept: torch.Tensor | None) -> None:
        net, schedule, side = self.net, self.net.schedule, self.net.schedule.sides[k]
        first, length = net.prefix + schedule.spans[k].start, schedule.lengths[k]
        x, rope, wanted = self.x, net.rope[:, :first + length], length
        if k > 0:
            tokens, structure = self.pyramid.next_input(k, self.f_hat), self.structure
            structure, local = (None if part is None else part[:, schedule.spans[k]]
                                for part in (structure, self.local))
            rope, wanted = net.rope[:, first:first + length], None
            if kept is not None:
                tokens = tokens.take_along_dim(kept[..., None], 1)
                structure, local = (None if part is None else part.take_along_dim(kept[..., None], 1)
                                    for part in (structure, local))
                rope = rope[:, kept][:, :, None]  # each picture its own places: (2, B, 1, n, D / 2)
            x = net._gate(net.word_embed(tokens), structure, slice(None))[0] + net.lvl_embed.weight[k]
            x = (x if local is None else x + local).repeat(self.branches, 1, 1)
        before, self.filled = self.filled, self.filled + x.shape[1]
        for block, table, (keys, values) in zip(net.blocks, self.tables, self.memory, strict=True):
            x = block(x, table, rope, cache=KVCache(keys, values, before),
                      wanted=wanted if block is net.blocks[-1] else None)
        logits = net.head(net.head_nm(x, self.head_table)).float()
        chosen = choose(logits[:self.batch], **SAMPLING, generator=self.draw)
        codes = self.pyramid.embedding(chosen)
        if kept is not None:
            codes = codes.new_zeros(self.batch, length, codes.shape[-1]).scatter(
                1, kept[..., None].expand_as(codes), codes)
        self.added = self.pyramid.step(k, codes.transpose(1, 2).unflatten(2, (side, side)))
        self.f_hat = self.f_hat + self.added


def all_ways(net: AlignVAR, tokenizer: AlignVARTokenizer, lr: torch.Tensor,
             own: list[int]) -> dict[str, tuple[torch.Tensor, list[float]]]:
    """Return the latent and the seconds of each scale, of every way, from LRs of a tile's size and a seed for each."""
    common_scales, scales = len(net.schedule) - 2, len(net.schedule)
    base = Generation(net, tokenizer, lr, own)
    base.run(range(common_scales))
    state, drawn = (base.f_hat, base.added, base.filled), [draw.get_state() for draw in base.draw]
    seconds = base.seconds
    made = {}
    for name, way in WAYS.items():
        if way.by == "structure" and base.structure is None:
            continue
        base.f_hat, base.added, base.filled = state
        base.seconds = list(seconds)
        for draw, then in zip(base.draw, drawn, strict=True):
            draw.set_state(then)
        base.run(range(common_scales, scales - way.stop), way.keep, way.by)
        made[name] = base.f_hat, base.seconds
    return made


def timed(function: Callable, *given, **named) -> tuple[torch.Tensor, float]:
    start = time.perf_counter()
    made = function(*given, **named)
    return made, time.perf_counter() - start


def measure_set(net: AlignVAR, tokenizer: AlignVARTokenizer, folder: str, seeds: int) -> dict[str, dict[str, float]]:
    """Return the mean of each metric, and the seconds a picture, of every way."""
    rows, tiling = defaultdict(list), Tiling.of(tokenizer, common.SCALE)
    for _, gt, lr in common.pairs(folder):
        for seed in range(seeds):
            seconds, names = defaultdict(float), []

            def run(places, tiles, seed=seed, seconds=seconds, names=names):
                made = all_ways(net, tokenizer, tiles, own_seeds(seed, places))
                names[:] = made
                for name, (_, each) in made.items():
                    seconds[name] += sum(each)
                return torch.cat([f_hat for f_hat, _ in made.values()], dim=1)

            blend = blended(run, lr, tiling=tiling, scale=common.SCALE)
            latents = blend.chunk(len(names), dim=1)
            for name, f_hat in zip(names, latents, strict=True):
                image, took = timed(decode, tokenizer, f_hat.contiguous(), lr)
                pair = {"img": tensor2img(image.clamp(0, 1)), "img2": tensor2img(gt)}
                rows[name].append([*(float(calculate_metric(pair, dict(metric))) for metric in METRICS.values()),
                                   seconds[name] + took])
    return {name: dict(zip((*METRICS, "seconds"), np.mean(row, axis=0).tolist(), strict=True))
            for name, row in rows.items()}


def measure_paper(depth: int, repeat: int) -> dict[str, float]:
    """Return the seconds of one 512×512 picture of every way, at the paper's geometry with random weights."""
    torch.manual_seed(0)
    tokenizer = AlignVARTokenizer().eval()
    net = AlignVAR(depth=depth).eval()
    lr, best, lists = torch.rand(1, 3, 128, 128), defaultdict(lambda: float("inf")), {}
    for seed in range(repeat):
        made = all_ways(net, tokenizer, lr, [seed])
        two = Generation(net, tokenizer, lr, [seed], branches=2)
        two.run(range(len(net.schedule)))
        lists = {name: each for name, (_, each) in made.items()} | {"guided": two.seconds}
        for name, each in lists.items():
            for index, value in enumerate(each):
                best[name, index] = min(best[name, index], value)
        best["decode"] = min(best["decode"], timed(tokenizer.decode, two.f_hat)[1])
    each = {name: [best[name, index] for index in range(len(values))] for name, values in lists.items()}
    seconds = {name: sum(values) + best["decode"] for name, values in each.items()}
    for first in (3, 5, 7, 8):  # the first entry is what comes before the scales
        seconds[f"guided from {first}"] = (sum(each["full"][:first + 1]) + sum(each["guided"][first + 1:])
                                           + best["decode"])
    return seconds | {"decode alone": best["decode"]}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--tokenizer", default=common.TOKENIZER)
    parser.add_argument("--model", default=common.MODEL)
    parser.add_argument("--depth", type=int, default=8, help="blocks at the paper's geometry; 0 leaves it out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", help="file for the figures")
    args = parser.parse_args()
    print(common.machine())
    result = {}
    if args.depth:
        result["paper"] = measure_paper(args.depth, args.repeat)
        print(f"512×512, the paper's geometry, depth {args.depth}")
        for name, seconds in result["paper"].items():
            whole = result["paper"]["guided" if name.startswith("guided") else "full"]
            print(f"  {name:<16}{seconds:8.2f} s  {whole / seconds:5.2f} times as fast", flush=True)
    net, tokenizer = common.networks(args.model, args.tokenizer)
    for entry in args.sets:
        name, folder = entry.split("=", 1)
        result[name] = rows = measure_set(net, tokenizer, folder, args.seeds)
        print(f"{name}, {Path(args.model.split(':')[-1]).name}")
        for way, figures in rows.items():
            gain, loss = rows["full"]["seconds"] / figures["seconds"], figures["lpips"] - rows["full"]["lpips"]
            paper = result["paper"]["full"] / result["paper"][way] if args.depth else 0  # one size alone proves nothing
            worth = min(gain, paper) >= GAIN and loss <= LOSS
            print(f"  {way:<16}psnr {figures['psnr']:6.2f}  ssim {figures['ssim']:.4f}  lpips {figures['lpips']:.4f} "
                  f"({loss:+.4f})  {figures['seconds']:6.2f} s  {gain:5.2f} times as fast"
                  f"{'  WORTH AN OPTION' if worth else ''}", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    common.run(main)
