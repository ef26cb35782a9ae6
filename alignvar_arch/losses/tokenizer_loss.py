"""What trains the tokenizer beside a pixel loss: vector quantisation, and perceptual distance."""
import torch
import torch.nn.functional as F
from basicsr.utils.registry import LOSS_REGISTRY
from torch import nn

from alignvar_arch.archs.lpips import SMALLEST, LPIPSSqueeze
from alignvar_arch.archs.tokenizer_arch import Encoded

STRIDE = 8  # of LPIPS-squeeze's last layers, pixels


@LOSS_REGISTRY.register()
class VQLoss(nn.Module):
    """Mean over scales of beta·MSE(sg f̂, z) + MSE(f̂, sg z), as VAR trains its tokenizer.

    Args:
        loss_weight: factor.
        beta: commitment of the encoder to the codes, 0 or more.

    Raises:
        ValueError: a negative beta.
    """

    def __init__(self, *, loss_weight: float = 1.0, beta: float = 0.25):
        super().__init__()
        if not beta >= 0:
            raise ValueError(f"beta must be 0 or more, not {beta}")
        self.loss_weight, self.beta = loss_weight, beta

    def forward(self, encoded: Encoded) -> torch.Tensor:
        latent = encoded.latent
        terms = [self.beta * F.mse_loss(latent, f_hat.detach()) + F.mse_loss(f_hat, latent.detach())
                 for f_hat in encoded.cumulative]
        return self.loss_weight * torch.stack(terms).mean()


@LOSS_REGISTRY.register()
class LPIPSLoss(nn.Module):
    """LPIPS-squeeze distance of pictures (B, 3, H, W) in [0, 1], the mean over the batch.

    Each call first cuts 0 to 7 pixels off the top and the left, drawn from a seed. The network looks at every other
    pixel, later at every fourth and eighth, and a network that shuffles pixels learns to hide a dither between them:
    trained without the cut, Set5's LPIPS was 0.130 on the grid of the training and 0.174 a pixel beside.

    Args:
        loss_weight: factor.
        weights: folder of the LPIPS weights; None looks in the usual places (``archs.lpips``).

    Raises:
        UserError: the weights are not there.
    """

    def __init__(self, *, loss_weight: float = 1.0, weights: str | None = None):
        super().__init__()
        self.loss_weight = loss_weight
        self.lpips = LPIPSSqueeze(weights=weights)

    def forward(self, prediction: torch.Tensor, target: torch.Tensor, seed: int | None = None) -> torch.Tensor:
        """Return the weighted distance, 0-dim; without a ``seed`` torch's global generator draws."""
        draw = torch.default_generator if seed is None else torch.Generator().manual_seed(seed)
        top, left = (int(torch.randint(min(STRIDE, max(1, side - SMALLEST)), (), generator=draw))
                     for side in target.shape[-2:])
        return self.loss_weight * self.lpips(prediction[..., top:, left:], target[..., top:, left:]).mean()


@LOSS_REGISTRY.register()
class LPIPSPerceptualLoss(LPIPSLoss):
    """``LPIPSLoss`` as BasicSR's models want a ``perceptual_opt``, where VGG's weights are not at hand: no style loss.

    Args:
        loss_weight, weights: as for ``LPIPSLoss``.
    """

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, None]:
        return super().forward(prediction, target), None
