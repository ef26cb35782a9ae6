"""GroupNorm with the SiLU that follows it, and what else is done to a picture in place.

A picture is large and the arithmetic on it little: on a CPU most of the time goes into fresh memory. Without gradients,
what a block has made for itself is overwritten.
"""
import torch
import torch.nn.functional as F
from torch import nn


def group_norm(width: int) -> nn.GroupNorm:
    """GroupNorm of 32 groups, eps 1e-6."""
    return nn.GroupNorm(32, width, eps=1e-6)


def silu(x: torch.Tensor) -> torch.Tensor:
    """SiLU of a tensor that nothing else reads."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def add(x: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor and one that nothing else reads."""
    return x + own if torch.is_grad_enabled() else own.add_(x)


def norm_silu(norm: nn.GroupNorm, x: torch.Tensor, own: bool = False) -> torch.Tensor:
    """SiLU of ``norm(x)``, (B, C, H, W); ``own`` says that nothing else reads x."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not _on_cpu_by_channels(x):
        return silu(norm(x))
    gain, shift = _affine(norm, x)
    return silu(torch.addcmul(shift, x, gain, out=x if own else None))


def _on_cpu_by_channels(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)


def _affine(norm: nn.GroupNorm, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return gain and shift, (B, C, 1, 1) each, with which ``norm`` is x·gain + shift; x in channels-last.

    torch's own GroupNorm sums a channels-last group number by number and loses three digits at 512×512. Here each
    column of the picture has its statistics, and those are brought together.
    """
    each = [torch.batch_norm_update_stats(image, None, None, 0.0) for image in x.permute(0, 2, 3, 1).flatten(2)]
    mean, variance = (torch.stack(parts).unflatten(1, (x.shape[3], norm.num_groups, -1))
                      for parts in zip(*each, strict=True))  # (B, W, groups, C / groups)
    middle = mean.mean((1, 3), keepdim=True)
    variance = (variance + (mean - middle).square()).mean((1, 3), keepdim=True)
    gain = norm.weight.view(norm.num_groups, -1) * (variance + norm.eps).rsqrt()
    shift = norm.bias.view(norm.num_groups, -1) - middle * gain
    return gain.view(len(x), -1, 1, 1), shift.view(len(x), -1, 1, 1)
