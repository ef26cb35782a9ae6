"""Linear layers as 1×1 convolutions, where that is faster.

On a CPU torch multiplies matrices with MKL, which does without AVX-512 on AMD's processors, and convolves with oneDNN,
which does not: the same product takes half the time (two cores of an EPYC, 81 tokens and more, widths from 512).
"""
import torch
import torch.nn.functional as F
from torch import nn

FEWEST = 20480  # numbers; of fewer, and on a single thread, torch convolves without oneDNN


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return ``F.linear(x, weight, bias)``, equal up to rounding; x (B, N, C)."""
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > FEWEST and torch.get_num_threads() > 1
    if not on_cpu or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    picture = x.transpose(1, 2).unsqueeze(-1)  # (B, C, N, 1), channels-last as it lies
    made = F.conv2d(picture, weight[..., None, None], bias).squeeze(-1).transpose(1, 2)
    return made.contiguous()  # which it is, unless torch was built without oneDNN


class Linear(nn.Linear):
    """``nn.Linear`` of tokens (B, N, C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)
