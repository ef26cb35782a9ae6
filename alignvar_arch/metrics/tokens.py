"""How well token maps are predicted, scale by scale."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F


def scale_cross_entropy(logits: torch.Tensor, tokens: torch.Tensor, spans: Sequence[slice]) -> torch.Tensor:
    """Return the mean cross-entropy of each scale in nat, (K,); logits (B, L, V), tokens int64 (B, L)."""
    every = F.cross_entropy(logits.float().transpose(1, 2), tokens, reduction="none")
    return torch.stack([every[:, span].mean() for span in spans])


def scale_accuracy(logits: torch.Tensor, tokens: torch.Tensor, spans: Sequence[slice]) -> torch.Tensor:
    """Return the share of tokens of each scale whose most likely code is the right one, (K,)."""
    right = (logits.argmax(-1) == tokens).float()
    return torch.stack([right[:, span].mean() for span in spans])
