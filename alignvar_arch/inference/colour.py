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
        # In place: a picture of tens of megapixels leaves no room for another copy.
        return blur_(reference.sub_(picture)).add_(picture)
    wanted, target = torch.std_mean(reference, (2, 3), keepdim=True, correction=0)
    del reference
    deviation, mean = torch.std_mean(picture, (2, 3), keepdim=True, correction=0)
    # A flat picture has no deviation to scale.
    gain = torch.where(deviation > 1e-6, wanted / deviation.clamp(min=1e-6), 1.0)
    return (picture - mean).mul_(gain).add_(target)


def blur_(picture: torch.Tensor) -> torch.Tensor:
    """Blur (B, C, H, W) in place by the à-trous wavelet: (1, 2, 1)/4 along both sides, five times, each twice as wide.

    Plane by plane and by shifted sums, as oneDNN's convolution pads three channels to sixteen.
    """
    for plane in (plane for one in picture for plane in one):
        for level in range(LEVELS):
            for axis in (1, 0):
                _blur_(plane, 2 ** level, axis)
    return picture


def _blur_(plane: torch.Tensor, reach: int, axis: int) -> None:
    padded = F.pad(plane[None], (reach, reach, 0, 0) if axis else (0, 0, reach, reach), mode="replicate")[0]
    before, here, after = (padded.narrow(axis, start, plane.shape[axis]) for start in (0, reach, 2 * reach))
    torch.mul(here, 0.5, out=plane).add_(before, alpha=0.25).add_(after, alpha=0.25)
