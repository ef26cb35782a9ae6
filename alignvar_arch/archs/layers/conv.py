"""Convolution blocks of the tokenizer. Attribute names are the public VAR checkpoint's."""
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from alignvar_arch.archs.layers.attention import attend
from alignvar_arch.archs.layers.group_norm import add, group_norm, norm_silu


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


class SpatialAttention(nn.Module):
    """Single-head attention among the places of a map, residual; (B, C, H, W) → same."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = group_norm(width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = rearrange(self.qkv(self.norm(x)), "b (three c) h w -> three b 1 (h w) c", three=3)
        return add(x, self.proj_out(rearrange(attend(q, k, v), "b 1 (h w) c -> b c h w", h=x.shape[2])))


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
