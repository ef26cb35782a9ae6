"""AlignVARTokenizer: a picture as K token maps, and back."""
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from alignvar_arch.archs.scales import ScaleSchedule
from alignvar_arch.archs.tokenizer.autoencoder import Decoder, Encoder
from alignvar_arch.archs.tokenizer.guided import SCALE, GuidedDecoder, GuidedEncoder
from alignvar_arch.archs.tokenizer.pyramid import ResidualPyramid
from alignvar_arch.checkpoints.shapes import SCHEDULES

PAPER_SCALES = SCHEDULES[512]


class Encoded(NamedTuple):
    """A tokenised picture.

    Attributes:
        latent: z, the encoder's output, (B, C, S, S).
        maps: token maps r_1 … r_K, int64 (B, s, s) each.
        cumulative: f̂ after each scale, (B, C, S, S) each; the last one is what the decoder gets.
    """

    latent: torch.Tensor
    maps: list[torch.Tensor]
    cumulative: list[torch.Tensor]


def reduction(ch_mult: Sequence[float], target: str) -> int:
    """Return how many pixels of the picture a place of the latent stands for, along a side."""
    return 2 ** (len(ch_mult) - 1) * (SCALE if target == "residual" else 1)


def bicubic(lr: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize pictures (B, 3, h, w) to ``size`` with the bicubic kernel of MATLAB and PIL (a = −0.5)."""
    return F.interpolate(lr.float(), size=size, mode="bicubic", align_corners=False, antialias=True)


@ARCH_REGISTRY.register()
class AlignVARTokenizer(nn.Module):
    """Multi-scale residual VQ autoencoder (paper "Task"; VAR's layout, whose public weights fit the defaults).

    Args:
        ch: width of the finest level; a multiple of 32.
        ch_mult: width factors from fine to coarse; each level after the first halves the size.
        num_res_blocks: residual blocks a level in the encoder, one more in the image target's decoder.
        codebook_size: V, number of codes.
        latent_dim: C, width of a code.
        scales: sides of the token maps; the last is the side of the latent.
        num_phi: phi convolutions shared among the scales.
        phi_on_last: False skips phi on the finest scale, as VARSR does.
        target: ``image`` encodes 2·HR − 1 by VAR's networks, whose finest level has the picture's resolution;
            ``residual`` encodes 4·(HR − bicubic(LR)) by networks that begin at the LR's and decodes it with the LR in
            view (``tokenizer.guided``). Ours, not the paper's.
        guide_blocks: blocks at the LR's resolution in the residual target's decoder.

    Raises:
        ValueError: a width that is not a multiple of 32, an unknown target, blocks that the target does not have, an
            impossible scale schedule.
    """

    def __init__(self, *, ch: int = 160, ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4), num_res_blocks: int = 2,
                 codebook_size: int = 4096, latent_dim: int = 32, scales: tuple[int, ...] = PAPER_SCALES,
                 num_phi: int = 4, phi_on_last: bool = True, target: str = "image", guide_blocks: int = 0):
        super().__init__()
        if ch % 32:
            raise ValueError(f"ch must be a multiple of 32, the groups of GroupNorm, not {ch}")
        if target not in ("image", "residual"):
            raise ValueError(f"target must be image or residual, not {target!r}")
        if guide_blocks < 0 or guide_blocks and target == "image":
            raise ValueError(f"guide_blocks must be 0 with target image and at least 0 otherwise, not {guide_blocks}")
        self.target = target
        self.factor = reduction(ch_mult, target)
        if target == "image":
            self.encoder = Encoder(ch, tuple(ch_mult), num_res_blocks, latent_dim)
            self.decoder = Decoder(ch, tuple(ch_mult), num_res_blocks, latent_dim)
        else:
            widths = tuple(ch * mult for mult in ch_mult)
            self.encoder = GuidedEncoder(widths, num_res_blocks, latent_dim)
            self.decoder = GuidedDecoder(widths, num_res_blocks, guide_blocks, latent_dim)
        self.quant_conv = nn.Conv2d(latent_dim, latent_dim, 3, padding=1)
        self.post_quant_conv = nn.Conv2d(latent_dim, latent_dim, 3, padding=1)
        if target == "residual":
            self.decoder.begin_as_transpose(self.encoder)
            for conv in (self.quant_conv, self.post_quant_conv):
                nn.init.dirac_(conv.weight)
                nn.init.zeros_(conv.bias)
        self.quantize = ResidualPyramid(ScaleSchedule(scales), codebook_size, latent_dim, num_phi, phi_on_last)

    @property
    def schedule(self) -> ScaleSchedule:
        return self.quantize.schedule

    @property
    def image_side(self) -> int:
        """Side of the square pictures that the scale schedule describes, in pixels."""
        return self.schedule.latent_side * self.factor

    def to_target(self, gt: torch.Tensor, lr: torch.Tensor | None = None) -> torch.Tensor:
        """Return what is encoded: gt (B, 3, H, W) and lr (B, 3, h, w; the residual target's alone) in [0, 1]."""
        if self.target == "image":
            return 2 * gt - 1
        return 4 * (gt - bicubic(lr, gt.shape[-2:]))

    def to_image(self, decoded: torch.Tensor, lr: torch.Tensor | None = None, own: bool = False) -> torch.Tensor:
        """Return the picture (B, 3, H, W) in [0, 1], not clamped, that a decoder output stands for.

        ``own`` tells that nobody needs ``decoded`` again: it becomes the picture, which saves copies of large ones.
        """
        image = decoded if own else decoded.clone()
        if self.target == "image":
            return image.add_(1).div_(2)
        return image.div_(4).add_(bicubic(lr, image.shape[-2:]))

    def encode_latent(self, x: torch.Tensor) -> torch.Tensor:
        """Return z (B, C, S, S) of a target (B, 3, S·factor, S·factor).

        Raises:
            ValueError: the picture is not of the side that the schedule describes.
        """
        if x.shape[-2:] != (self.image_side,) * 2:
            raise ValueError(f"this tokenizer takes pictures of {self.image_side}×{self.image_side}, "
                             f"not {x.shape[-2]}×{x.shape[-1]}")
        return self.quant_conv(self.encoder(x))

    def encode(self, x: torch.Tensor) -> Encoded:
        """Tokenise a target (B, 3, H, W) in about [−1, 1]."""
        latent = self.encode_latent(x)
        with torch.autocast(x.device.type, enabled=False):
            latent = latent.float()
            return Encoded(latent, *self.quantize.tokenize(latent))

    def decode(self, f_hat: torch.Tensor, lr: torch.Tensor | None = None) -> torch.Tensor:
        """Return the target (B, 3, H, W) of a latent (B, C, S, S); the image target's is clamped to [−1, 1].

        ``lr`` (B, 3, H / 4, W / 4) in [0, 1] is what the residual target's decoder is guided by; the other needs none.

        Raises:
            ValueError: the residual target, and no LR.
        """
        decoded = self._decode(f_hat.to(self.post_quant_conv.weight.dtype), lr)
        return decoded.clamp(-1, 1) if self.target == "image" else decoded

    def _decode(self, latent: torch.Tensor, lr: torch.Tensor | None) -> torch.Tensor:
        if self.target == "residual" and lr is None:
            raise ValueError("a residual tokenizer decodes with the LR in view; give lr")
        latent = self.post_quant_conv(latent)
        return (self.decoder(latent) if self.target == "image" else self.decoder(latent, lr)).float()

    def forward(self, gt: torch.Tensor, lr: torch.Tensor | None = None, quantise: bool = True,
                kept: torch.Tensor | None = None,
                latent: torch.Tensor | None = None) -> tuple[torch.Tensor, Encoded | None]:
        """Reconstruct pictures in [0, 1], for training: straight-through past the codes, nothing clamped.

        ``quantise=False`` decodes the latent itself, which is how an untrained autoencoder gets its footing. ``kept``,
        int64 (B,) from 0 to K, decodes each picture from so many of its scales. A ``latent`` (B, C, S, S) is decoded as
        it is, and nothing encoded.
        """
        if latent is not None:
            return self.to_image(self._decode(latent, lr), lr), None
        encoded = self.encode(self.to_target(gt, lr))
        passed = encoded.latent
        if quantise:
            passed = passed + (encoded.cumulative[-1] - passed).detach()
        if kept is not None:
            stages = torch.stack([torch.zeros_like(passed), *(passed + (f_hat - passed).detach()
                                                              for f_hat in encoded.cumulative)])
            some = stages[kept, torch.arange(len(kept), device=kept.device)]
            passed = torch.where((kept < len(self.schedule)).view(-1, 1, 1, 1), some, passed)
        return self.to_image(self._decode(passed, lr), lr), encoded
