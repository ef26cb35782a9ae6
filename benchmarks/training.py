"""Training steps a second and peak memory, ours beside a plain step that works as the public references do.

    python benchmarks/training.py [--quick] [--json FILE] [--depth 8] [--batch 1] [--rounds 5] [--profile]

The 512-pixel schedule, C = 64·depth, the paper's condition encoder and tokenizer, random weights. Both ways train the
same network on the same batch with the same tokens, in turn, and must agree on the loss and on the gradients' norm;
tokenising has a row of its own. On a CPU: depth 8, float32, each way's peak memory from a process of its own. On a GPU:
depth 24, batch 4, bf16 autocast for both, ours with checkpointing as a third way, and ways to attend in a table.
"""
import argparse
import json
import statistics
import time
from pathlib import Path

import attention
import common
import torch
import training_steps
from training_steps import WAYS, Step, encode, make_network, make_tokenizer

CHECKPOINTED = "ours, checkpointing"
LIMIT = 40.0  # GiB at depth 24, batch 4, bf16, with checkpointing


def take(step: Step, way: str, update: bool = True) -> float:
    """Take a step in a way whose name may ask for checkpointing; return its loss."""
    step.net.checkpointing = way == CHECKPOINTED
    return step(way, update)


def agree(step: Step, ways: list[str]) -> dict[str, dict[str, float]]:
    """Warm up, and return the loss and the gradients' norm of every way on the same weights; stop where they differ.

    A way for which a GPU is too small is left out, and a line says so.
    """
    found = {}
    for way in ways:
        try:
            loss = take(step, way, update=False)
        except torch.cuda.OutOfMemoryError as error:
            print(f"{way}: out of memory ({str(error).splitlines()[0]})")
            continue
        norm = torch.stack([gradient.float().norm() for gradient in step.gradients().values()]).norm()
        found[way] = {"loss": loss, "gradient": float(norm)}
    if "plain" not in found or len(found) == 1:
        raise SystemExit("this GPU has no room for both ways; try a smaller --batch or --depth")
    close = 2e-2 if step.half else 1e-4
    for figure in ("loss", "gradient"):
        low, high = (pick(row[figure] for row in found.values()) for pick in (min, max))
        if high - low > close * high:
            raise SystemExit(f"the ways do not learn the same: {found}")
    return found


def timed(step: Step, ways: list[str], rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the seconds of every step by way, in turn, and on a GPU each way's peak memory in GiB."""
    cuda = step.batch.lr.is_cuda
    seconds, memory = {way: [] for way in ways}, {}
    for _ in range(rounds):
        for way in ways:
            if cuda:
                step.optimizer.zero_grad(set_to_none=True)
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            take(step, way)
            if cuda:
                torch.cuda.synchronize()
                memory[way] = torch.cuda.max_memory_allocated() / 2 ** 30
            seconds[way].append(time.perf_counter() - start)
    return seconds, memory


def measure_encoding(tokenizer: torch.nn.Module, size: int, rounds: int) -> tuple[training_steps.Batch, float]:
    """Return a tokenised batch and the median seconds of tokenising it."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        batch = encode(tokenizer, size)
        float(batch.teacher.sum())  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return batch, statistics.median(seconds)


def profile(step: Step) -> None:
    """Print where a step of each way spends its time."""
    device = "cuda" if step.batch.lr.is_cuda else "cpu"
    for way in WAYS:
        with torch.profiler.profile() as profiler:
            take(step, way)
        print(f"\n{way}\n{profiler.key_averages().table(sort_by=f'self_{device}_time_total', row_limit=20)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds, tokenising once: within five minutes")
    parser.add_argument("--json", help="write all figures here")
    parser.add_argument("--depth", type=int, help="default 8, on a GPU 24")
    parser.add_argument("--batch", type=int, help="default 1, on a GPU 4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="print torch.profiler's tables after the figures")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)  # for the test of this file
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cuda = device.type == "cuda"
    depth, size = args.depth or (24 if cuda else 8), args.batch or (4 if cuda else 1)
    rounds = min(args.rounds, 3) if args.quick else args.rounds
    ways = [*WAYS, CHECKPOINTED] if cuda else list(WAYS)

    tokenizer = make_tokenizer(device, args.tiny)
    if cuda:
        encode(tokenizer, size)  # choosing kernels is no part of it
    batch, encoding = measure_encoding(tokenizer, size, 1 if args.quick else rounds)
    memory = {} if cuda else {way: training_steps.peak_memory(way, depth, args.tiny, batch) for way in ways}
    step = Step(make_network(depth, device, args.tiny), batch, half=cuda)
    agreed = agree(step, ways)
    ways = list(agreed)
    seconds, on_gpu = timed(step, ways, rounds)
    memory |= on_gpu
    each = {way: statistics.median(seconds[way]) for way in ways}
    schedule = step.net.schedule
    tokens = step.net.prefix + schedule.tokens
    result = {
        "machine": common.machine(), "depth": depth, "batch": size, "dtype": "bf16 autocast" if cuda else "float32",
        "sequence": tokens, "agreed": agreed, "seconds": seconds, "encoding_seconds": encoding,
        "images_per_second": {way: size / each[way] for way in ways}, "memory_gib": memory,
        "speedup": {"train": each["plain"] / min(each[way] for way in ways if way != "plain")},
    }
    print(f"{result['machine']}\ndepth {depth}, batch {size}, {result['dtype']}, {tokens} tokens a picture, "
          f"medians of {rounds}, in turn\n")
    print(f"{'':<22}{'images/s':>10}{'s a step':>10}{'peak GiB':>10}{'loss':>10}{'gradient':>10}")
    for way in ways:
        print(f"{way:<22}{size / each[way]:>10.3f}{each[way]:>10.3f}{memory[way]:>10.2f}{agreed[way]['loss']:>10.4f}"
              f"{agreed[way]['gradient']:>10.4f}")
    print(f"{'tokenising (float32)':<22}{size / encoding:>10.3f}{encoding:>10.3f}")
    print(f"ours over plain: {result['speedup']['train']:.2f} times the images/s")
    if cuda:
        if (depth, size) == (24, 4) and CHECKPOINTED in memory:
            print(f"depth 24, batch 4, bf16, checkpointing: {memory[CHECKPOINTED]:.1f} GiB, the target is {LIMIT:g}")
        step.optimizer.zero_grad(set_to_none=True)
        result["attention"] = attention.compare(schedule, size, depth, device, torch.bfloat16, 3 if args.quick else 10)
        print(f"\n{attention.table(result['attention'])}")
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1))
    if args.profile:
        profile(step)


if __name__ == "__main__":
    main()
