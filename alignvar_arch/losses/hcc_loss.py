"""HCC: the cumulative latent of the predictions is held to the ground truth's, at every scale."""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from basicsr.utils.registry import LOSS_REGISTRY
from torch import nn

from alignvar_arch.archs.tokenizer.pyramid import ResidualPyramid
from alignvar_arch.archs.tokenizer_arch import Encoded
from alignvar_arch.archs.transformer.sampling import expect


class HCCResult(NamedTuple):
    """What ``HCCLoss`` gives.

    Attributes:
        loss: λ·Σ_k of ``per_scale``, with gradient.
        per_scale: mean squared error of the latent at each scale, (K,), without gradient.
        floor: what perfect predictions would leave at each scale, (K,): 0 for ``cumulative``, more for the others.
    """

    loss: torch.Tensor
    per_scale: torch.Tensor
    floor: torch.Tensor


@LOSS_REGISTRY.register()
class HCCLoss(nn.Module):
    """Hierarchical Consistency Constraint, λ·Σ_k mean‖area(û^k, side_k) − u_gt^k‖² (paper, "HCC").

    û^k = û^{k−1} + phi_k(up(r̂^k)) from the model's own predictions r̂ in one teacher-forced pass, never detached, in
    fp32. The mean over a scale's elements keeps λ's meaning whatever the size.

    Args:
        loss_weight: λ; with 0 the figures per scale are still computed.
        target: u_gt^k. ``quantised`` is Q(area(z, side_k)), the paper's formula; ``cumulative`` is
            area(f̂_gt^k, side_k), the only one that is zero on the ground truth; ``latent`` is area(z, side_k).
        estimate: r̂^k. ``soft`` is the expectation Σ_v softmax(logits)(v)·e_v; ``straight_through`` is the most likely
            code, with the expectation's gradient.

    Raises:
        ValueError: an unknown target or estimate.
    """

    def __init__(self, *, loss_weight: float = 1.0, target: str = "cumulative", estimate: str = "soft"):
        super().__init__()
        if target not in ("quantised", "cumulative", "latent"):
            raise ValueError(f"HCCLoss target must be quantised, cumulative or latent, not {target!r}")
        if estimate not in ("soft", "straight_through"):
            raise ValueError(f"HCCLoss estimate must be soft or straight_through, not {estimate!r}")
        self.loss_weight, self.target, self.estimate = loss_weight, target, estimate

    def _estimate(self, logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Return r̂ (B, N, C) of logits (B, N, V)."""
        if self.estimate == "soft":
            return expect(logits, codes)
        probabilities = logits.float().softmax(-1)
        hard = F.one_hot(logits.argmax(-1), logits.shape[-1]).to(probabilities.dtype)
        return (hard + probabilities - probabilities.detach()) @ codes

    @torch.no_grad()
    def _target(self, k: int, pyramid: ResidualPyramid, encoded: Encoded) -> torch.Tensor:
        """Return u_gt^k, (B, C, s, s)."""
        if self.target == "cumulative":
            return pyramid.reduce(k, encoded.cumulative[k])
        latent = pyramid.reduce(k, encoded.latent)
        return latent if self.target == "latent" else pyramid.lookup(pyramid.nearest(latent))

    def forward(self, logits: torch.Tensor, pyramid: ResidualPyramid, encoded: Encoded) -> HCCResult:
        """logits (B, L, V); pyramid and encoded of the frozen tokenizer; the gradient passes through phi."""
        schedule = pyramid.schedule
        with torch.autocast(logits.device.type, enabled=False):
            codes = pyramid.embedding.weight.float()
            u, errors, floors = pyramid.empty(logits.shape[0]), [], []
            for k, (span, side) in enumerate(zip(schedule.spans, schedule.sides, strict=True)):
                r = self._estimate(logits[:, span], codes).transpose(1, 2).unflatten(2, (side, side))
                u = u + pyramid.step(k, r)
                target = self._target(k, pyramid, encoded)
                errors.append(F.mse_loss(pyramid.reduce(k, u), target))
                floors.append(F.mse_loss(pyramid.reduce(k, encoded.cumulative[k].detach()), target))
            per_scale = torch.stack(errors)
        return HCCResult(self.loss_weight * per_scale.sum(), per_scale.detach(), torch.stack(floors))
