"""Ways to attend block-causally in training, forward and backward: calls by scale, a dense mask, FlexAttention.

    python benchmarks/attention.py [--batch 4] [--heads 24] [--rounds 10]

Prefix and tokens of the 512-pixel schedule, heads of 64, bf16. ``training.py`` prints the same table on a GPU. It is by
this table that FlexAttention would stand beside ``attend_block_causal``; on a CPU it has no backward.
"""
import argparse
import statistics
import time
from collections.abc import Callable

import common
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from alignvar_arch.archs.layers.attention import attend_block_causal
from alignvar_arch.archs.scales import ScaleSchedule
from alignvar_arch.archs.tokenizer_arch import PAPER_SCALES

Way = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def levels(schedule: ScaleSchedule) -> tuple[torch.Tensor, list[int]]:
    """Return the level of each place of the sequence, prefix first, and the ends of the levels."""
    prefix = schedule.lengths[-1]
    ends = [prefix + span.stop for span in schedule.spans]
    counts = torch.tensor([ends[0], *schedule.lengths[1:]])
    return torch.arange(len(schedule)).repeat_interleave(counts), ends


def ways(schedule: ScaleSchedule, device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[], Way]]:
    """Return what makes each way, by name: making may fail where a device lacks something."""
    level, ends = levels(schedule)
    level = level.to(device)

    def by_scale() -> Way:
        return lambda q, k, v: attend_block_causal(q, k, v, ends, scale=1.0)

    def dense() -> Way:
        mask = torch.zeros(len(level), len(level), dtype=dtype, device=device)
        mask.masked_fill_(level[:, None] < level[None], -torch.inf)
        return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)

    def flex() -> Way:
        blocks = create_block_mask(lambda b, h, i, j: level[i] >= level[j], None, None, len(level), len(level),
                                   device=device)
        compiled = torch.compile(flex_attention, dynamic=False)
        return lambda q, k, v: compiled(q, k, v, block_mask=blocks, scale=1.0)

    return {"by scale": by_scale, "dense mask": dense, "FlexAttention": flex}


def _timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call, a GPU's queue emptied before and after."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def compare(schedule: ScaleSchedule, batch: int, heads: int, device: torch.device, dtype: torch.dtype,
            rounds: int) -> dict[str, dict[str, float | str]]:
    """Time every way, round by round in turn.

    Returns:
        By way the median seconds ``forward`` and ``both`` (with backward) and the largest ``difference`` of its output
        from the first way's; or ``failed``, the reason.
    """
    torch.manual_seed(0)
    length = schedule.lengths[-1] + schedule.tokens
    q, k, v, slope = torch.randn(4, batch, heads, length, 64, device=device).unbind()
    # As in a block: q and k of length one, q scaled by 4.
    q, k, v = (x.to(dtype).requires_grad_() for x in (4 * F.normalize(q, dim=-1), F.normalize(k, dim=-1), v))
    slope, able, found, first = slope.to(dtype), {}, {}, None
    for name, make in ways(schedule, device, dtype).items():
        try:
            way = make()
            out = way(q, k, v)
            torch.autograd.grad(out, (q, k, v), slope)
            with torch.no_grad():  # another kernel to compile
                way(q, k, v)
        except Exception as error:  # noqa: BLE001 - whatever a device or a version lacks is a line of the table
            found[name] = {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
            continue
        first = out.detach() if first is None else first
        able[name], found[name] = way, {"difference": float((out.detach() - first).abs().max())}
    times = {name: ([], []) for name in able}
    for _ in range(rounds):
        for name, way in able.items():
            with torch.no_grad():
                times[name][0].append(_timed(lambda way=way: way(q, k, v), device))
            times[name][1].append(_timed(lambda way=way: torch.autograd.grad(way(q, k, v), (q, k, v), slope), device))
    for name, (forward, both) in times.items():
        found[name] |= {"forward": statistics.median(forward), "both": statistics.median(both)}
    return found


def table(found: dict[str, dict[str, float | str]]) -> str:
    """Return the lines to print."""
    lines = [f"{'attention':<16}{'forward':>12}{'+ backward':>12}{'difference':>12}"]
    for name, row in found.items():
        if "failed" in row:
            lines.append(f"{name:<16}  {row['failed'][:100]}")
        else:
            milliseconds = "".join(f"{1000 * row[part]:>9.2f} ms" for part in ("forward", "both"))
            lines.append(f"{name:<16}{milliseconds}{row['difference']:>12.1e}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--heads", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    print(common.machine())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(table(compare(ScaleSchedule(PAPER_SCALES), args.batch, args.heads, device, torch.bfloat16, args.rounds)))


if __name__ == "__main__":
    main()
