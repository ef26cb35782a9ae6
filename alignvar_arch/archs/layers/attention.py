"""The attention call: every attention of the package goes through here.

Shapes: B batch, H heads, N queries, M keys, D head width.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None = None) -> torch.Tensor:
    """Attend from every query to every key. q (B, H, N, D), k and v (B, H, M, D) → (B, H, N, D).

    ``scale`` multiplies q·k; None is D^-0.5.
    """
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


class _Beginnings(torch.autograd.Function):
    """Views of x (B, H, M, D) up to each of the ends, the last of which is M.

    Plain slices would answer every gradient with zeros as large as x, and add those up.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, ends: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(x[:, :, :end] for end in ends)

    @staticmethod
    def backward(ctx, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        *shorter, whole = gradients
        total = whole.clone()
        for gradient in shorter:
            total[:, :, :gradient.shape[2]].add_(gradient)
        return total, None


def attend_block_causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ends: Sequence[int],
                        scale: float | None = None) -> torch.Tensor:
    """Attend so that a query sees the keys of its own level and of all levels before it.

    ``ends`` are the ends of the levels in the sequence, the last its length M; the N queries are its last. One
    unmasked call a level: no L×L mask exists, nothing masked is computed, and a level's call is the one that cached
    generation makes.
    """
    starts = k.shape[2] - q.shape[2], *ends[:-1]
    queries = q.split([end - start for start, end in zip(starts, ends, strict=True)], dim=2)
    keys, values = (_Beginnings.apply(x, tuple(ends)) for x in (k, v))
    out = [attend(*level, scale).transpose(1, 2) for level in zip(queries, keys, values, strict=True)]
    # Joined in (B, N, H, D), as the output's projection reads it and as the kernels write it.
    return torch.cat(out, dim=1).transpose(1, 2)
