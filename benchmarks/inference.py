"""Inference by stage beside the plain loop and BasicSR's networks, 128×128 → 512×512, against the device's peak.

    python benchmarks/inference.py [--quick] [--json FILE] [--depths 8 16]

Networks of the paper's geometry with random weights, depth 8 and 16 in fp32 on a CPU; on a GPU, in bf16, depth 24 as
well, then batch 8 and what a 512×512 and a 4096×4096 result take in memory. ``--quick`` is depth 8 alone, two minutes
on two quiet cores. Peaks of memory hold the weights, and on a CPU the whole process.

A lap runs the plain loop, ours, both decoders, and matrix products before, amid and after; the best of torch's products
is the lap's peak. On a CPU it may not be all that the device can do: the share of the best product by any library is
told beside. Ratios and shares are taken within a lap, so that other load hits both sides alike, and all that is told is
the median over the laps. An end-to-end time is the sum of its stages.
"""
import argparse
import datetime
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import common
import stages
import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from basicsr.archs.swinir_arch import SwinIR
from stages import WAYS, Clock, Pair

from alignvar_arch.archs.layers.linear import linear
from alignvar_arch.inference import memory
from alignvar_arch.inference.picture import picture

GIB, MIB = 2 ** 30, 2 ** 20
LIMITS = {512: 4, 4096: 6}  # GiB that results of these sides may take at depth 24
SQUARE = {"cpu": 2048, "cuda": 8192}  # side of a product that is large for the device
OTHERS = {  # the sizes that are published for × 4
    "SwinIR": lambda: SwinIR(upscale=4, img_size=128, window_size=8, embed_dim=180, depths=[6] * 6, num_heads=[6] * 6,
                             mlp_ratio=2, upsampler="pixelshuffle"),
    "RRDBNet": lambda: RRDBNet(3, 3, scale=4, num_feat=64, num_block=23, num_grow_ch=32),
    "SRVGGNetCompact": lambda: SRVGGNetCompact(num_feat=64, num_conv=32, upscale=4),
}


def product_rates(clock: Clock, like: torch.Tensor, width: int, tries: int = 4) -> dict[str, float]:
    """Return the best FLOP/s of products of ``like``'s dtype and device: the feed-forward's, and a large square one.

    ``matmul`` is torch's product, ``linear`` the same by our layer, which on a CPU may be another library's.
    """
    side, rates = SQUARE[like.device.type], {"matmul": 0.0, "linear": 0.0}
    for rows, inner, columns in ((2048, width, 4 * width), (2048, 4 * width, width), (side, side, side)):
        # Random: on a GPU products of equal numbers draw less power, and run faster than any real ones.
        x, weight, bias = (torch.randn(shape, dtype=like.dtype, device=like.device)
                           for shape in ((1, rows, inner), (columns, inner), (columns,)))
        for name, work in (("matmul", lambda x=x, weight=weight: x[0] @ weight.T),
                           ("linear", lambda x=x, weight=weight, bias=bias: linear(x, weight, bias))):
            fastest = min(clock.time(work) for _ in range(tries))
            rates[name] = max(rates[name], 2 * rows * inner * columns / fastest * 1000)
    return rates


def with_peak(device: torch.device, work: Callable):
    """Return what ``work`` returns, and the most MiB that were in use meanwhile; none where nobody counts them."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return work(), torch.cuda.max_memory_allocated() / MIB
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
    except OSError:
        return work(), None
    made = work()
    return made, int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def lap(pair: Pair, clock: Clock) -> dict[str, dict]:
    """Do everything once; return milliseconds by stage and MiB of each way, and FLOP/s of the best products."""
    device, width = pair.lr.device, pair.net.head.in_features
    found, rates = {}, [product_rates(clock, pair.lr, width)]
    for name, way in WAYS.items():
        (latent, seen), most = with_peak(device, lambda way=way: stages.generate(way, pair, clock.read))
        found[name] = {"ms": dict(zip(stages.names(pair), clock.milliseconds(seen), strict=True)), "peak_mib": most}
    rates.append(product_rates(clock, pair.lr, width))
    decoded = {}
    for name in ("plain", "guidance_off"):
        work = WAYS[name].decode
        decoded[name] = with_peak(device, lambda work=work: clock.time(lambda: work(pair.tokenizer, latent)))
    decoded["guidance_on"] = decoded["guidance_off"]  # the same decoder
    for name, (milliseconds, most) in decoded.items():
        found[name]["ms"]["decode"] = milliseconds
        found[name]["peak_mib"] = most and max(most, found[name]["peak_mib"])
    rates.append(product_rates(clock, pair.lr, width))
    return {**found, **{kind: max(rate[kind] for rate in rates) for kind in rates[0]}}


def summary(laps: list[dict], flops: dict[str, dict[str, float]], tokens: int) -> dict:
    """Return what is told of one depth.

    Args:
        laps: of ``lap``.
        flops: of each way by stage.
        tokens: that one way makes.
    """
    def over(figure: Callable[[dict], float]) -> float:
        return median(figure(one) for one in laps)

    def whole(one: dict, name: str) -> float:
        return sum(one[name]["ms"].values())

    def steps(one: dict, name: str) -> float:
        return whole(one, name) - one[name]["ms"]["decode"]

    def share(one: dict, name: str, peak: float) -> float:
        return sum(flops[name].values()) / (whole(one, name) / 1000) / peak

    found = {f"{kind}_tflops": over(lambda one, kind=kind: one[kind]) / 1e12 for kind in ("matmul", "linear")}
    for name in WAYS:
        peaks = [one[name]["peak_mib"] for one in laps]
        milliseconds = over(lambda one, name=name: whole(one, name))
        found[name] = {
            "ms": {stage: over(lambda one, name=name, stage=stage: one[name]["ms"][stage]) for stage in flops[name]},
            "total_ms": milliseconds,
            "tokens_per_s": tokens / milliseconds * 1000,
            "peak_mib": None if None in peaks else max(peaks),
            "tflop": sum(flops[name].values()) / 1e12,
            "share_of_peak": over(lambda one, name=name: share(one, name, one["matmul"])),
            "share_of_fastest": over(lambda one, name=name: share(one, name, max(one["matmul"], one["linear"])))}
    ways = ("guidance_on", "guidance_off")
    found["speedup"] = {
        **{name: over(lambda one, name=name: whole(one, "plain") / whole(one, name)) for name in ways},
        **{name.replace("guidance", "steps"): over(lambda one, name=name: steps(one, "plain") / steps(one, name))
           for name in ways},
        "decoder": over(lambda one: one["plain"]["ms"]["decode"] / one["guidance_off"]["ms"]["decode"])}
    return found


def measure(pair: Pair, counted: Pair, rounds: int) -> dict:
    """Measure one depth; ``counted`` is the same on the meta device."""
    clock = Clock(pair.lr.device)
    laps = [lap(pair, clock) for _ in range(rounds + 1)][1:]  # the first one warms up
    flops = {name: stages.count(way, counted) for name, way in WAYS.items()}
    return summary(laps, flops, len(pair.lr) * pair.net.schedule.tokens)


def measure_other(name: str, lr: torch.Tensor, rounds: int) -> dict[str, float]:
    """Measure one of BasicSR's networks on an LR (B, 3, h, w)."""
    clock = Clock(lr.device)
    network = OTHERS[name]().to(lr.device, lr.dtype).eval()

    def once() -> tuple[float, float | None, float]:
        rate = product_rates(clock, lr, width=512, tries=2)["matmul"]
        return *with_peak(lr.device, lambda: clock.time(lambda: network(lr))), rate

    laps = [once() for _ in range(rounds + 1)][1:]
    done = stages.count_call(network.to("meta"), lr.to("meta"))
    return {"total_ms": median(one[0] for one in laps), "peak_mib": laps[0][1], "tflop": done / 1e12,
            "share_of_peak": median(done / (milliseconds / 1000) / rate for milliseconds, _, rate in laps)}


def memory_of(pair: Pair, side: int, limit: float) -> dict[str, float]:
    """Return the GiB that a result of ``side``² takes, weights and all, decoded as suits a device of ``limit`` GiB."""
    net, tokenizer, lr = pair
    room = int(limit * GIB) - memory.weights(net, tokenizer) - memory.picture_bytes(side, side)
    cells = side // tokenizer.factor
    piece = memory.pieces(tokenizer, cells, cells, room)[0]
    small = torch.rand(1, 3, side // 4, side // 4, device=lr.device)
    _, most = with_peak(lr.device, lambda: picture(net, tokenizer, small, batch=1, decode_tile=piece.side,
                                                   keep=piece.keep))
    return {"peak_gib": most and most / 1024, "limit_gib": limit, "decode_tile": piece.side}


def on_a_gpu(pair: Pair, counted: Pair, rounds: int) -> dict:
    """Measure what a GPU alone is asked for: batch 8, and memory."""
    many, counted = (one._replace(lr=one.lr.repeat(8, 1, 1, 1)) for one in (pair, counted))
    return {"batch_8": measure(many, counted, rounds),
            "memory": {side: memory_of(pair, side, limit) for side, limit in LIMITS.items()}}


def told(title: str, found: dict) -> str:
    """Return what ``summary`` gives as a table."""
    lines = [f"\n{title}, matrix products {found['matmul_tflops']:.3f} TFLOP/s, "
             f"by our linear layer {found['linear_tflops']:.3f}",
             f"{'ms':<14}" + "".join(f"{name:>14}" for name in WAYS)]
    rows = {stage: [found[name]["ms"][stage] for name in WAYS] for stage in found["plain"]["ms"]}
    rows["end to end"] = [found[name]["total_ms"] for name in WAYS]
    lines += [f"{label:<14}" + "".join(f"{value:14.1f}" for value in values) for label, values in rows.items()]
    for label, key, form in (("tokens/s", "tokens_per_s", ".1f"), ("peak MiB", "peak_mib", ".0f"),
                             ("TFLOP", "tflop", ".3f"), ("share of peak", "share_of_peak", ".1%"),
                             ("… of fastest", "share_of_fastest", ".1%")):
        values = [found[name][key] for name in WAYS]
        lines.append(f"{label:<14}" + "".join(f"{'?' if value is None else format(value, form):>14}"
                                              for value in values))
    return "\n".join([*lines, "times faster than the plain loop: " + ", ".join(
        f"{name} {value:.2f}" for name, value in found["speedup"].items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", help="of the transformer; default 8 16, on a GPU 24 as well")
    parser.add_argument("--quick", action="store_true", help="depth 8 alone")
    parser.add_argument("--json", type=Path, help="write everything there")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    depths = sorted(args.depths or ([8] if args.quick else [8, 16, 24] if cuda else [8, 16]))
    # After a warm-up. Once would do on a quiet machine; the median of three forgives a neighbour's burst.
    rounds = 10 if cuda and not args.quick else 3
    said = {"machine": common.machine(), "dtype": str(dtype).removeprefix("torch."), "rounds": rounds,
            "date": datetime.date.today().isoformat(), "command": " ".join(["python", *sys.argv])}
    print(said["machine"], said["dtype"], flush=True)
    by_depth = {}
    for depth in depths:
        torch.manual_seed(0)
        pair = stages.paper(depth, device, dtype)
        counted = stages.paper(depth, "meta", dtype)
        by_depth[depth] = measure(pair, counted, rounds)
        print(told(f"depth {depth}", by_depth[depth]), flush=True)
    result = {**said, **by_depth[depths[0]], "depths": by_depth, "others": {}}
    result["share_of_peak"] = result["guidance_off"]["share_of_peak"]  # the default
    for name in OTHERS:
        found = result["others"][name] = measure_other(name, pair.lr, rounds)
        print(f"{name:<16}{found['total_ms']:10.1f} ms {found['tflop']:.3f} TFLOP, {found['share_of_peak']:.1%} of the "
              "peak", flush=True)
    if cuda:
        result |= on_a_gpu(pair, counted, rounds)
        print(told(f"depth {depths[-1]}, batch 8", result["batch_8"]))
        for side, found in result["memory"].items():
            print(f"{side}×{side}: {found['peak_gib']:.2f} GiB; at most {found['limit_gib']} are asked for")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
