"""Cross-entropy of the predicted token maps."""
import torch
import torch.nn.functional as F
from basicsr.utils.registry import LOSS_REGISTRY
from torch import nn


@LOSS_REGISTRY.register()
class TokenCrossEntropyLoss(nn.Module):
    """L_CE, the mean over all tokens in nat (paper, "HCC": L = L_CE + λ·L_HCC).

    Args:
        loss_weight: factor.
        label_smoothing: share of the target spread over all codes, in [0, 1).

    Raises:
        ValueError: a smoothing outside of that.
    """

    def __init__(self, *, loss_weight: float = 1.0, label_smoothing: float = 0.0):
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be from 0 to below 1, not {label_smoothing}")
        self.loss_weight = loss_weight
        self.label_smoothing = label_smoothing

    def forward(self, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """logits (B, L, V), tokens int64 (B, L) → the weighted loss."""
        return self.loss_weight * F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten(),
                                                  label_smoothing=self.label_smoothing)
