"""Colour fix: give a picture the colours of its LR where a network has shifted them."""
import torch
import torch.nn.functional as F

from alignvar_arch.archs.tokenizer_arch import bicubic

COLOURS = ("off", "wavelet", "adain")
LEVELS = 5  # of the wavelet: details finer than about 2^5 pixels stay


def fix_colour(picture: torch.Tensor, lr: torch.Tensor, how: str) -> torch.Tensor:
    """Return the picture with the colours of its LR.

    Args:
        picture: (B, 3, H, W) in about [0, 1].
        lr: (B, 3, h, w) in [0, 1], of the same view.
        how: ``off`` changes nothing; ``wavelet`` takes the low frequencies from the LR; ``adain`` its mean and
            deviation, channel by channel.

    Raises:
        ValueError: another ``how``.
    """
    if how not in COLOURS:
        raise ValueError(f"the colour fix must be one of {', '.join(COLOURS)}, not {how!r}")
    if how == "off":
        return picture
    reference = bicubic(lr, picture.shape[-2:]).to(picture.dtype)
    if how == "wavelet":
        return picture + low_frequencies(reference - picture)
    deviation, mean = torch.std_mean(picture, (2, 3), keepdim=True, correction=0)
    wanted, target = torch.std_mean(reference, (2, 3), keepdim=True, correction=0)
    # A flat picture has no deviation to scale.
    gain = torch.where(deviation > 1e-6, wanted / deviation.clamp(min=1e-6), 1.0)
    return (picture - mean) * gain + target


def low_frequencies(picture: torch.Tensor) -> torch.Tensor:
    """Blur (B, C, H, W) by the à-trous wavelet: (1, 2, 1)/4 along both sides, five times, each twice as wide."""
    channels = picture.shape[1]
    kernel = picture.new_tensor([0.25, 0.5, 0.25]).expand(channels, 1, 3)
    for level in range(LEVELS):
        reach = 2 ** level
        for weight, padding in ((kernel[:, :, None], (reach, reach, 0, 0)),
                                (kernel[..., None], (0, 0, reach, reach))):
            picture = F.conv2d(F.pad(picture, padding, mode="replicate"), weight, dilation=reach, groups=channels)
    return picture
