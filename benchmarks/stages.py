"""Making one picture in stages, ours and the plain loop's, on a meter: a clock, or torch's counter of operations.

Stages are the condition encoder with all that precedes the first scale, then the scales, then the decoder. The meter is
read as modules are called that both loops call: after the condition encoder, and before each embedding of a next scale.

What is counted is what is run, two operations a multiply-add, on networks without memory (the meta device) with
attention as two products; a test holds the counts to the table of multiply-adds a stage that goes with the public
checkpoints. Work that a loop saves is not counted for it: a higher share of the peak is better use, not less work.
"""
import time
from collections.abc import Callable
from typing import NamedTuple

import plain
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from alignvar_arch.archs import AlignVAR, AlignVARTokenizer

GUIDANCE = 6.0  # VARSR's


class Pair(NamedTuple):
    """Networks that belong together, and an LR (B, 3, h, w) for them."""

    net: AlignVAR
    tokenizer: AlignVARTokenizer
    lr: torch.Tensor


class Way(NamedTuple):
    """How a picture is made.

    Attributes:
        generate: takes what ``AlignVAR.generate`` takes, the network first.
        decode: takes a tokenizer and a latent.
        guidance: strength.
    """

    generate: Callable
    decode: Callable
    guidance: float


# The plain loop computes both branches whatever the guidance is: it has one time.
WAYS = {"plain": Way(plain.generate, plain.decode, GUIDANCE),
        "guidance_on": Way(AlignVAR.generate, AlignVARTokenizer.decode, GUIDANCE),
        "guidance_off": Way(AlignVAR.generate, AlignVARTokenizer.decode, 0.0)}


def paper(depth: int, device: str, dtype: torch.dtype = torch.float32, **changes) -> Pair:
    """Return networks of the paper's geometry with random weights, as ``Upscaler`` would load them, and a noisy LR.

    ``changes`` are keyword arguments of ``AlignVAR``.
    """
    with torch.device(device):
        net = AlignVAR(**{"depth": depth, "embed_dim": 64 * depth, "num_heads": depth, **changes}).to(dtype).eval()
        net.make_tables()  # which stay fp32
        tokenizer = AlignVARTokenizer().eval()
        tokenizer.decoder.to(dtype)
        tokenizer.post_quant_conv.to(dtype)
        return Pair(net, tokenizer, torch.rand(1, 3, 128, 128, dtype=dtype))


def names(pair: Pair) -> list[str]:
    """Return what the stages of ``generate`` are called."""
    return ["condition", *(f"scale_{side}" for side in pair.net.schedule.sides)]


@torch.no_grad()
def generate(way: Way, pair: Pair, read: Callable[[], object]) -> tuple[torch.Tensor, list]:
    """Return the latent, and what the meter read: at the start and at the end of each stage."""
    read_on, seen = (lambda *_: seen.append(read())), []
    handles = [pair.net.con_embedding.register_forward_hook(read_on),
               pair.net.word_embed.register_forward_pre_hook(read_on)]
    try:
        seen.append(read())
        made = way.generate(pair.net, pair.lr, pair.tokenizer.quantize, pair.net.structure(pair.lr),
                            guidance=way.guidance)
        seen.append(read())
    finally:
        for handle in handles:
            handle.remove()
    return made.f_hat, seen


def count(way: Way, pair: Pair) -> dict[str, float]:
    """Return the floating-point operations of each stage, the decoder's last; of networks on any device, best meta."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        latent, seen = generate(way, pair, counter.get_total_flops)
        way.decode(pair.tokenizer, latent)
        seen.append(counter.get_total_flops())
    return dict(zip([*names(pair), "decode"], [b - a for a, b in zip(seen, seen[1:], strict=False)], strict=True))


def count_call(network: nn.Module, lr: torch.Tensor) -> int:
    """Return the floating-point operations of one call."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(lr)
    return counter.get_total_flops()


class Clock:
    """A device's clock: on a GPU its own events, so that nothing waits between the stages."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"

    def read(self) -> object:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def milliseconds(self, seen: list) -> list[float]:
        """Return the times between readings."""
        if not self.cuda:
            return [1000 * (b - a) for a, b in zip(seen, seen[1:], strict=False)]
        torch.cuda.synchronize()
        return [a.elapsed_time(b) for a, b in zip(seen, seen[1:], strict=False)]

    @torch.no_grad()
    def time(self, work: Callable[[], object]) -> float:
        """Return the milliseconds of a call."""
        start = self.read()
        work()
        return self.milliseconds([start, self.read()])[0]
