"""SCA: the LR's structure gates the tokens that enter attention (paper, "SCA: Spatial Consistency Autoregression")."""
import torch
import torch.nn.functional as F
from torch import nn

from alignvar_arch.archs.scales import ScaleSchedule

FLAT = 1e-6  # a map whose range is smaller says nothing, and its min–max would be noise


def laplacian_map(lr: torch.Tensor) -> torch.Tensor:
    """Return s = |Laplacian| of the LR's luma: (B, 3, h, w) in [0, 1] → (B, 1, h, w).

    Four neighbours, edges replicated; luma by BT.601.
    """
    luma = (lr.float() * lr.new_tensor([0.299, 0.587, 0.114]).float().view(1, 3, 1, 1)).sum(1, keepdim=True)
    x = F.pad(luma, (1, 1, 1, 1), mode="replicate")
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return (around - 4 * luma).abs()


def structure_maps(source: torch.Tensor, schedule: ScaleSchedule) -> torch.Tensor:
    """Return s̄ of all scales as one sequence (B, L, 1) in [0, 1] from a map (B, 1, h, w).

    Area-downsampled, then min–max normalised per image and scale; 0 where the range is under 1e-6.
    """
    maps = []
    for side in schedule.sides:
        small = F.interpolate(source, size=(side, side), mode="area").flatten(1)
        low, high = small.amin(1, keepdim=True), small.amax(1, keepdim=True)
        maps.append(torch.where(high - low < FLAT, 0.0, (small - low) / (high - low).clamp(min=FLAT)))
    return torch.cat(maps, dim=1).unsqueeze(-1)


class MaskGenerator(nn.Module):
    """m = σ(MLP([e, s̄])), one number a token: tokens (B, N, C) and structure (B, N, 1) → (B, N, 1) in (0, 1).

    The last layer starts at N(0, 0.02) with bias −2, so that a fresh gate is nearly closed.
    """

    def __init__(self, embed_dim: int):
        super().__init__()
        hidden = embed_dim // 4
        self.fc1 = nn.Linear(embed_dim + 1, hidden)
        self.fc2 = nn.Linear(hidden, 1)
        nn.init.normal_(self.fc2.weight, std=0.02)
        nn.init.constant_(self.fc2.bias, -2.0)

    def forward(self, tokens: torch.Tensor, structure: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.silu(self.fc1(torch.cat([tokens, structure.to(tokens.dtype)], dim=-1)))).sigmoid()
