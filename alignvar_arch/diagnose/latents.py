"""The picture and the latent after each scale, generated and of the ground truth's tokens (paper, "HCC").

Shapes: C latent width, S its side, K scales.
"""
import torch
from basicsr.metrics import calculate_psnr
from basicsr.utils import tensor2img

from alignvar_arch.archs.tokenizer.pyramid import ResidualPyramid
from alignvar_arch.archs.tokenizer_arch import AlignVARTokenizer


@torch.no_grad()
def pictures(tokenizer: AlignVARTokenizer, cumulative: list[torch.Tensor], lr: torch.Tensor) -> torch.Tensor:
    """Return the picture that each cumulative latent (1, C, S, S) decodes to, (K, 3, H, W) in [0, 1]."""
    return torch.cat([tokenizer.to_image(tokenizer.decode(f_hat, lr), lr).float().clamp(0, 1)
                      for f_hat in cumulative])


def psnr(pictures_: torch.Tensor, gt: torch.Tensor, border: int) -> list[float]:
    """Return the PSNR in dB, on Y without ``border`` pixels at each edge, of 8-bit pictures (K, 3, H, W) to gt (1, …).
    """
    truth = tensor2img(gt)
    return [float(calculate_psnr(tensor2img(picture), truth, crop_border=border, test_y_channel=True))
            for picture in pictures_]


def errors(pyramid: ResidualPyramid, cumulative: list[torch.Tensor], references: list[torch.Tensor]) -> list[float]:
    """Return the mean squared difference of cumulative latents to a reference each, both reduced to the scale's side.
    """
    return [(pyramid.reduce(k, f_hat) - pyramid.reduce(k, reference)).square().mean().item()
            for k, (f_hat, reference) in enumerate(zip(cumulative, references, strict=True))]
