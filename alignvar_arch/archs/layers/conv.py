"""Convolution blocks. Attribute names are the public VAR checkpoint's."""
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from alignvar_arch.archs.layers.attention import attend
from alignvar_arch.archs.layers.group_norm import add, group_norm, norm_silu, silu
from alignvar_arch.archs.layers.windows import blending, cover


class ResidualBlock(nn.Module):
    """(norm → SiLU → 3×3) twice around a shortcut; (B, width_in, H, W) → (B, width_out, H, W)."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.norm1 = group_norm(width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm2 = group_norm(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(norm_silu(self.norm1, x))
        return add(self.nin_shortcut(x), self.conv2(norm_silu(self.norm2, h, own=True)))


class PlainBlock(nn.Module):
    """x + 3×3(SiLU(3×3(x))), without a norm; (B, width, H, W)."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():  # however many follow each other, they begin near the identity, and leave zero alone
            self.conv2.weight.mul_(0.1)
            self.conv1.bias.zero_()
            self.conv2.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return add(x, self.conv2(silu(self.conv1(x))))


class SpatialAttention(nn.Module):
    """Single-head attention over all positions of a map.

    Larger maps than ``window`` a side, which no training has seen, are attended to in overlapping windows, blended: all
    pairs of a 12-megapixel picture's positions would take hours on a CPU (benchmarks/README.md has what it changes).
    """

    window = 64

    def __init__(self, width: int):
        super().__init__()
        self.norm = group_norm(width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(self.norm(x))
        return add(x, self.proj_out(_attend(qkv) if max(x.shape[2:]) <= self.window else self._by_windows(qkv)))

    def _by_windows(self, qkv: torch.Tensor) -> torch.Tensor:
        height, width = qkv.shape[2:]
        sides = min(height, self.window), min(width, self.window)
        weight = blending(*sides, qkv.device).to(qkv.dtype)
        total, weights = torch.zeros_like(qkv[:, :qkv.shape[1] // 3]), torch.zeros_like(qkv[:1, :1])
        for top in cover(height, sides[0], sides[0] // 2):
            for left in cover(width, sides[1], sides[1] // 2):
                area = ..., slice(top, top + sides[0]), slice(left, left + sides[1])
                total[area] += _attend(qkv[area]) * weight
                weights[area] += weight
        return total / weights


def _attend(qkv: torch.Tensor) -> torch.Tensor:
    q, k, v = rearrange(qkv, "b (three c) h w -> three b 1 (h w) c", three=3)
    return rearrange(attend(q, k, v), "b 1 (h w) c -> b c h w", h=qkv.shape[2])


class Downsample(nn.Module):
    """Halve the size: zeros to the right and below, then 3×3 with stride 2."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the size: nearest, then 3×3.

    Both in one transposed convolution of stride 2, whose 4×4 kernel holds the sums of the weights that fall on the same
    pixel: 4 products a pixel and channel pair where there were 9.
    """

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sums = F.avg_pool2d(self.conv.weight.flip(2, 3), 2, stride=1, padding=1, divisor_override=1)
        return F.conv_transpose2d(x, sums.transpose(0, 1), self.conv.bias, stride=2, padding=1)
