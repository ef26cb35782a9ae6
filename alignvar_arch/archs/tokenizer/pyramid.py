"""The residual pyramid: a latent as a sum of K quantised maps, from coarse to fine.

``ResidualPyramid.step`` is THE step: tokenising, decoding, teacher forcing, sampling and HCC all go through it.

Shapes: B batch, C latent width, V codebook size, S = latent side, s = side of one scale, L tokens of all scales.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from alignvar_arch.archs.scales import ScaleSchedule


class Phi(nn.Conv2d):
    """phi(h) = h/2 + conv(h)/2, which repairs what upsampling blurs."""

    def __init__(self, width: int):
        super().__init__(width, width, 3, padding=1)
        nn.init.dirac_(self.weight)  # phi begins as the identity
        nn.init.zeros_(self.bias)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return 0.5 * h + 0.5 * super().forward(h)


class ResidualPyramid(nn.Module):
    """Codebook and phi convolutions over a scale schedule. Attribute names are the public VAR checkpoint's.

    Args:
        schedule: the scales.
        codebook_size: V.
        latent_dim: C.
        num_phi: phi convolutions shared among the scales (``ScaleSchedule.phi_index``).
        phi_on_last: False skips phi on the finest scale, as VARSR does.
    """

    ema_vocab_hit_SV: torch.Tensor

    def __init__(self, schedule: ScaleSchedule, codebook_size: int, latent_dim: int, num_phi: int, phi_on_last: bool):
        super().__init__()
        self.schedule = schedule
        self.phi_on_last = phi_on_last
        self.embedding = nn.Embedding(codebook_size, latent_dim)
        nn.init.uniform_(self.embedding.weight, -1 / codebook_size, 1 / codebook_size)
        self.quant_resi = nn.ModuleDict({"qresi_ls": nn.ModuleList([Phi(latent_dim) for _ in range(num_phi)])})
        self.phi_index = schedule.phi_index(num_phi)
        # How often each code is hit at each scale, averaged over training batches: usage, and which codes are dead.
        self.register_buffer("ema_vocab_hit_SV", torch.zeros(len(schedule), codebook_size))

    @property
    def codebook_size(self) -> int:
        return self.embedding.num_embeddings

    @property
    def latent_dim(self) -> int:
        return self.embedding.embedding_dim

    def empty(self, batch: int) -> torch.Tensor:
        """Return f̂ before the first scale, zeros (B, C, S, S)."""
        side = self.schedule.latent_side
        return self.embedding.weight.new_zeros(batch, self.latent_dim, side, side)

    def step(self, k: int, codes: torch.Tensor) -> torch.Tensor:
        """Return what scale ``k`` adds to the latent: phi_k(up(codes)). codes (B, C, s, s) → (B, C, S, S)."""
        if k < self.schedule.last:
            codes = F.interpolate(codes, size=(self.schedule.latent_side,) * 2, mode="bicubic", align_corners=False)
        elif not self.phi_on_last:
            return codes
        return self.quant_resi["qresi_ls"][self.phi_index[k]](codes)

    def reduce(self, k: int, latent: torch.Tensor) -> torch.Tensor:
        """Return Down(latent, side_k), the area average (B, C, s, s)."""
        if k == self.schedule.last:
            return latent
        return F.interpolate(latent, size=(self.schedule.sides[k],) * 2, mode="area")

    def lookup(self, indices: torch.Tensor) -> torch.Tensor:
        """Return the codes of token maps (B, s, s) as (B, C, s, s)."""
        return rearrange(self.embedding(indices), "b h w c -> b c h w")

    @torch.no_grad()
    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """Return the Euclidean-nearest code of every place: (B, C, s, s) → int64 (B, s, s), searched in fp32."""
        with torch.autocast(x.device.type, enabled=False):
            flat = rearrange(x.float(), "b c h w -> (b h w) c")
            codes = self.embedding.weight.float()
            distance = torch.addmm(flat.square().sum(1, keepdim=True) + codes.square().sum(1), flat, codes.T, alpha=-2)
            return distance.argmin(1).view(x.shape[0], *x.shape[2:])

    def tokenize(self, latent: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Quantise a latent (B, C, S, S): token maps r_k (B, s, s) and cumulative latents f̂ (B, C, S, S) of all scales.

        Differentiable with respect to codebook and phi through f̂, never through the choice of codes.
        """
        rest, f_hat, maps, cumulative = latent.detach(), self.empty(latent.shape[0]), [], []
        for k in range(len(self.schedule)):
            indices = self.nearest(self.reduce(k, rest))
            added = self.step(k, self.lookup(indices))
            f_hat, rest = f_hat + added, rest - added.detach()
            maps.append(indices)
            cumulative.append(f_hat)
        return maps, cumulative

    def accumulate(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the cumulative latents f̂ after each of the given token maps (B, s, s)."""
        f_hat, cumulative = self.empty(maps[0].shape[0]), []
        for k, indices in enumerate(maps):
            f_hat = f_hat + self.step(k, self.lookup(indices))
            cumulative.append(f_hat)
        return cumulative

    def next_input(self, k: int, f_hat: torch.Tensor) -> torch.Tensor:
        """Return what the transformer is given for scale ``k``: f̂ of the scales before, reduced, as (B, s², C)."""
        return rearrange(self.reduce(k, f_hat), "b c h w -> b (h w) c")

    def teacher_input(self, cumulative: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the teacher-forced input of scales 1 … K−1 from the cumulative latents: (B, L − 1, C)."""
        return torch.cat([self.next_input(k, cumulative[k - 1]) for k in range(1, len(self.schedule))], dim=1)

    def flatten(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Token maps → one sequence (B, L)."""
        return torch.cat([indices.flatten(1) for indices in maps], dim=1)

    def unflatten(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        """One sequence (B, L) → token maps (B, s, s)."""
        return [tokens[:, span].unflatten(1, (side, side))
                for span, side in zip(self.schedule.spans, self.schedule.sides, strict=True)]
