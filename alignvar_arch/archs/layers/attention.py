"""The attention call: every attention of the package goes through here.

Shapes: B batch, H heads, N queries, M keys, D head width.
"""
from collections.abc import Iterable

import torch
import torch.nn.functional as F


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None = None) -> torch.Tensor:
    """Attend from every query to every key. q (B, H, N, D), k and v (B, H, M, D) → (B, H, N, D).

    ``scale`` multiplies q·k; None is D^-0.5.
    """
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def attend_block_causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ends: Iterable[int],
                        scale: float | None = None) -> torch.Tensor:
    """Attend so that a query sees the keys of its own level and of all levels before it.

    ``ends`` are the ends of the levels in the sequence. One unmasked call a level: no L×L mask exists, nothing masked
    is computed, and a level's call is the one that cached generation makes.
    """
    start, out = 0, []
    for end in ends:
        out.append(attend(q[:, :, start:end], k[:, :, :end], v[:, :, :end], scale))
        start = end
    return torch.cat(out, dim=2)
