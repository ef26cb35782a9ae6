"""The colour fix: shifted colours come back, details stay."""
import pytest
import torch
import torch.nn.functional as F

from alignvar_arch.archs.tokenizer_arch import bicubic
from alignvar_arch.inference.colour import fix_colour

SHIFT = torch.tensor([0.1, -0.05, 0.2]).view(1, 3, 1, 1)


@pytest.fixture
def pair():
    """An LR, and its picture with details that the LR does not have."""
    lr = torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    checks = (torch.arange(36)[:, None] + torch.arange(48)) % 2 - 0.5
    return lr, bicubic(lr, (36, 48)) + 0.1 * checks


@pytest.mark.parametrize(("how", "most"), [("wavelet", 1e-6), ("adain", 0.02)])
def test_a_shift_is_taken_back_and_details_stay(pair, how, most):
    lr, picture = pair
    fixed = fix_colour(picture + SHIFT, lr, how)
    assert (fixed - fix_colour(picture, lr, how)).abs().max() < 1e-5
    assert (fixed - picture).abs().mean() < most + 0.002


def test_adain_gives_the_lrs_mean_and_deviation(pair):
    lr, picture = pair
    fixed, wanted = fix_colour(picture * 0.5 + SHIFT, lr, "adain"), bicubic(lr, (36, 48))
    torch.testing.assert_close(fixed.mean((2, 3)), wanted.mean((2, 3)))
    torch.testing.assert_close(fixed.std((2, 3)), wanted.std((2, 3)))


def test_wavelet_takes_a_slow_ramp_back(pair):
    lr, picture = pair
    fixed = fix_colour(picture + torch.linspace(0, 0.2, 48), lr, "wavelet")
    assert (fixed - picture).abs().mean() < 0.2 * 0.1


@pytest.mark.parametrize("size", [(36, 48), (1, 5), (70, 3)])
def test_wavelet_is_five_convolutions_of_what_is_missing(size):
    lr, picture = torch.rand(2, 3, 9, 12), torch.rand(2, 3, *size)
    low = bicubic(lr, size) - picture
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).div(16).expand(3, 1, 3, 3)
    for reach in (1, 2, 4, 8, 16):
        low = F.conv2d(F.pad(low, (reach,) * 4, mode="replicate"), kernel, dilation=reach, groups=3)
    torch.testing.assert_close(fix_colour(picture, lr, "wavelet"), picture + low, atol=1e-6, rtol=0)


@pytest.mark.parametrize("how", ["off", "wavelet", "adain"])
@pytest.mark.parametrize("size", [(1, 1), (3, 40)])
def test_flat_pictures_of_any_size_stay_what_they_are(how, size):
    lr = torch.full((1, 3, *size), 0.4)
    picture = torch.full((1, 3, size[0] * 4, size[1] * 4), 0.4)
    torch.testing.assert_close(fix_colour(picture, lr, how), picture)


def test_off_is_off_and_nonsense_is_refused(pair):
    lr, picture = pair
    assert fix_colour(picture, lr, "off") is picture
    with pytest.raises(ValueError, match="off, wavelet, adain, not 'sepia'"):
        fix_colour(picture, lr, "sepia")
