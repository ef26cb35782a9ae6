"""Linear layers as 1×1 convolutions, where that is faster.

On a CPU torch multiplies matrices with MKL, which does without AVX-512 on AMD's processors, and convolves with oneDNN,
which does not: the same product takes less than half the time (an EPYC with AVX-512, 324 tokens and more, width 512),
and so do the two of its backward pass.
"""
import torch
import torch.nn.functional as F
from torch import nn

FEWEST = 20480  # numbers; of fewer, and on a single thread, torch convolves without oneDNN
ROWS = 64  # of fewer tokens the convolution makes no less, at some widths more


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return ``F.linear(x, weight, bias)``, equal up to rounding; x (B, N, C)."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype != torch.float32 \
            or x.numel() <= max(FEWEST, ROWS * x.shape[-1]) or torch.get_num_threads() == 1:
        return F.linear(x, weight, bias)
    # One row of pixels, (1, C, 1, B·N), channels-last as it lies; of a column oneDNN makes a third less.
    row = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    made = F.conv2d(row, weight[..., None, None], bias).permute(0, 2, 3, 1)
    return made.reshape(*x.shape[:-1], len(weight))


class Linear(nn.Linear):
    """``nn.Linear`` of tokens (B, N, C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)
