"""The LR as prefix tokens."""
import torch
import torch.nn.functional as F
from torch import nn

from alignvar_arch.archs.layers.conv import PlainBlock
from alignvar_arch.archs.layers.group_norm import silu


class ConditionEncoder(nn.Module):
    """LR (B, 3, h, w) in [0, 1] → prefix tokens (B, S², embed_dim), row-major. Attribute names are VARSR's.

    Along ``widths`` a 3×3 of the same width and a 3×3 of stride 2 each, SiLU after all but the last convolution. The LR
    is resized to S·2^(len(widths) − 1), so that the prefix has the side S of the latent. ``extra`` residual blocks
    before the last convolution are ours: a small model has to learn in hours what the LR's neighbourhoods mean.
    """

    def __init__(self, widths: tuple[int, ...], embed_dim: int, latent_side: int, extra: int = 0):
        super().__init__()
        self.side = latent_side * 2 ** (len(widths) - 1)
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for width, following in zip(widths, widths[1:], strict=False):
            self.blocks.append(nn.Conv2d(width, width, 3, padding=1))
            self.blocks.append(nn.Conv2d(width, following, 3, stride=2, padding=1))
        self.extra = nn.Sequential(*[PlainBlock(widths[-1]) for _ in range(extra)])
        self.conv_out = nn.Conv2d(widths[-1], embed_dim, 3, padding=1)

    def resize(self, lr: torch.Tensor) -> torch.Tensor:
        """Return the LR as the encoder sees it, (B, 3, side, side) in [−1, 1]."""
        x = 2 * lr - 1
        if x.shape[-2:] != (self.side,) * 2:
            x = F.interpolate(x, size=(self.side,) * 2, mode="bicubic", align_corners=False).clamp(-1, 1)
        return x

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        x = self.resize(lr).to(self.conv_in.weight.dtype)
        if not torch.is_grad_enabled():
            x = x.to(memory_format=torch.channels_last)
        for conv in (self.conv_in, *self.blocks):
            x = silu(conv(x))
        return self.conv_out(self.extra(x)).flatten(2).transpose(1, 2)
