"""Encoder and decoder of the residual target: at the LR's resolution and below it, and guided by the LR.

Ours, not the paper's. The decoder sees the LR itself, so that tokens need only say what it leaves open: where they say
nothing the picture is that of a plain SR network. There is no normalisation, which would take away the amplitude that
tells a flat residual from a strong one and make a picture's pixel depend on all the others, and no attention: what a
pixel depends on is ``reach`` away at most.

Level 0 has the LR's resolution, each further level half of the one before. Pixels of HR come and go as channels, 4×4
of them a place of level 0 (pixel shuffle).
"""
import torch
import torch.nn.functional as F
from torch import nn

from alignvar_arch.archs.layers.conv import PlainBlock

SCALE = 4  # HR pixels a place of level 0, along a side


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*[PlainBlock(width) for _ in range(count)])


def _thin(conv: nn.Conv2d) -> nn.Conv2d:
    """Make a convolution an orthogonal map of channels: of a 3×3 only the middle counts, of a patch all of it."""
    middle = conv.weight if conv.kernel_size == conv.stride else conv.weight[:, :, 1:2, 1:2]
    matrix = nn.init.orthogonal_(torch.empty(len(middle), middle[0].numel()))
    with torch.no_grad():
        conv.weight.zero_()
        middle.copy_(matrix.view_as(middle))
        conv.bias.zero_()
    return conv


class GuidedEncoder(nn.Module):
    """Residual (B, 3, H, W) → (B, latent_dim, H / factor, W / factor), factor = SCALE·2^(levels − 1)."""

    def __init__(self, widths: tuple[int, ...], num_res_blocks: int, latent_dim: int):
        super().__init__()
        self.conv_in = _thin(nn.Conv2d(3 * SCALE ** 2, widths[0], 3, padding=1))
        self.down = nn.ModuleList([nn.Sequential(_blocks(width, num_res_blocks),
                                                 _thin(nn.Conv2d(width, coarser, 2, stride=2)))
                                   for width, coarser in zip(widths, widths[1:], strict=False)])
        self.mid = _blocks(widths[-1], num_res_blocks)
        self.conv_out = _thin(nn.Conv2d(widths[-1], latent_dim, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(F.pixel_unshuffle(x, SCALE))
        for level in self.down:
            x = level(x)
        return self.conv_out(self.mid(x))


class GuidedDecoder(nn.Module):
    """Latent (B, latent_dim, h, w) and LR (B, 3, h·factor / SCALE, …) in [0, 1] → residual (B, 3, h·factor, …).

    Half of ``guide_blocks`` reads the LR before the latent joins, half goes on with both.
    """

    def __init__(self, widths: tuple[int, ...], num_res_blocks: int, guide_blocks: int, latent_dim: int):
        super().__init__()
        before = guide_blocks // 2
        self.guide = nn.Sequential(nn.Conv2d(3, widths[0], 3, padding=1), _blocks(widths[0], before),
                                   nn.Conv2d(widths[0], widths[0], 1))
        nn.init.zeros_(self.guide[2].weight)  # without tokens it begins as bicubic
        nn.init.zeros_(self.guide[2].bias)
        self.conv_in = nn.Conv2d(latent_dim, widths[-1], 3, padding=1)
        self.mid = _blocks(widths[-1], num_res_blocks)
        self.up = nn.ModuleList([nn.Sequential(nn.Conv2d(coarser, 4 * width, 1), nn.PixelShuffle(2),
                                               _blocks(width, num_res_blocks if i else 0))
                                 for i, (width, coarser) in enumerate(zip(widths, widths[1:], strict=False))])
        self.joined = _blocks(widths[0], guide_blocks - before)
        self.conv_out = nn.Conv2d(widths[0], 3 * SCALE ** 2, 3, padding=1)

    @torch.no_grad()
    def begin_as_transpose(self, encoder: GuidedEncoder) -> None:
        """Take the fresh encoder's maps, turned round: together they begin as an orthogonal projection of residuals.

        A deep linear network would find one slowly: convolutions that begin at random had gained 0.2 dB on bicubic
        after 1000 iterations, with tokens that said next to nothing.
        """
        for own, other in ((self.conv_in, encoder.conv_out), (self.conv_out, encoder.conv_in)):
            own.weight.copy_(other.weight.transpose(0, 1))
            own.bias.zero_()
        for up, down in zip(self.up, encoder.down, strict=True):
            up[0].weight.copy_(down[1].weight.flatten(1).T[..., None, None])
            up[0].bias.zero_()

    @property
    def reach(self) -> int:
        """How far a pixel of the result sees, in places of the latent, rounded up."""
        fine = 1 + 2 * len(self.joined)
        for level in self.up:
            fine = -(-(fine + 2 * len(level[2])) // 2)
        latent = fine + 2 * len(self.mid) + 1
        lr = 1 + 2 * len(self.joined) + 2 * len(self.guide[1]) + 1
        return max(latent, -(-lr // 2 ** len(self.up)))

    def forward(self, z: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():  # a third less memory
            z, lr = (x.to(memory_format=torch.channels_last) for x in (z, lr))
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        x = self.joined(x + self.guide(2 * lr.to(x.dtype) - 1))
        return F.pixel_shuffle(self.conv_out(x), SCALE)
