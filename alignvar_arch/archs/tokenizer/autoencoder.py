"""Encoder and decoder around the residual pyramid. Attribute names are the public VAR checkpoint's.

Widths are ``ch · ch_mult[level]``; level 0 has the picture's resolution, each further level half of the one before.
Attention stands at the latent's resolution only.
"""
import torch
from torch import nn

from alignvar_arch.archs.layers.conv import Downsample, ResidualBlock, SpatialAttention, Upsample
from alignvar_arch.archs.layers.group_norm import group_norm, norm_silu


def _middle(width: int) -> nn.ModuleDict:
    return nn.ModuleDict({"block_1": ResidualBlock(width, width), "attn_1": SpatialAttention(width),
                          "block_2": ResidualBlock(width, width)})


def _run_level(level: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
    for i, block in enumerate(level["block"]):
        x = block(x)
        if level["attn"]:
            x = level["attn"][i](x)
    return x


def _level(widths: list[int], attention: bool) -> nn.ModuleDict:
    blocks = [ResidualBlock(a, b) for a, b in zip(widths, widths[1:], strict=False)]
    return nn.ModuleDict({"block": nn.ModuleList(blocks), "attn": nn.ModuleList(
        [SpatialAttention(width) for width in widths[1:]] if attention else [])})


class Encoder(nn.Module):
    """Picture (B, 3, H, W) → (B, latent_dim, H / factor, W / factor), factor = 2^(levels − 1)."""

    def __init__(self, ch: int, ch_mult: tuple[int, ...], num_res_blocks: int, latent_dim: int):
        super().__init__()
        widths = [ch * mult for mult in ch_mult]
        self.conv_in = nn.Conv2d(3, ch, 3, padding=1)
        self.down = nn.ModuleList()
        for i, (before, width) in enumerate(zip([ch] + widths, widths, strict=False)):
            last = i == len(widths) - 1
            level = _level([before] + [width] * num_res_blocks, attention=last)
            if not last:
                level["downsample"] = Downsample(width)
            self.down.append(level)
        self.mid = _middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], latent_dim, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = _run_level(level, x)
            if "downsample" in level:
                x = level["downsample"](x)
        for part in self.mid.values():
            x = part(x)
        return self.conv_out(norm_silu(self.norm_out, x, own=True))


class Decoder(nn.Module):
    """Latent (B, latent_dim, h, w) → picture (B, 3, h · factor, w · factor), not clamped."""

    def __init__(self, ch: int, ch_mult: tuple[int, ...], num_res_blocks: int, latent_dim: int):
        super().__init__()
        widths = [ch * mult for mult in ch_mult]
        self.conv_in = nn.Conv2d(latent_dim, widths[-1], 3, padding=1)
        self.mid = _middle(widths[-1])
        levels = []
        for i, width in enumerate(widths):  # built from fine to coarse, as they are named; run from coarse to fine
            last = i == len(widths) - 1
            before = width if last else widths[i + 1]
            level = _level([before] + [width] * (num_res_blocks + 1), attention=last)
            if i > 0:
                level["upsample"] = Upsample(width)
            levels.append(level)
        self.up = nn.ModuleList(levels)
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            z = z.to(memory_format=torch.channels_last)
        x = self.conv_in(z)
        for part in self.mid.values():
            x = part(x)
        for level in reversed(self.up):
            x = _run_level(level, x)
            if "upsample" in level:
                x = level["upsample"](x)
        return self.conv_out(norm_silu(self.norm_out, x, own=True))
