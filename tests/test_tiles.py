"""Tiling: pictures of any size, seamless where the network is local."""
import pytest
import torch
import torch.nn.functional as F

from alignvar_arch.inference.tiles import tiled


def enlarge(lr):
    return F.interpolate(lr, scale_factor=4, mode="nearest")


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (8, 9), (5, 20), (31, 17), (40, 8)])
def test_a_pixelwise_function_comes_back_exactly(size):
    lr = torch.rand(1, 3, *size)
    out = tiled(enlarge, lr, scale=4, tile=8, overlap=2, batch=3)
    torch.testing.assert_close(out, enlarge(lr))


def test_other_pictures_are_cut_in_the_same_places():
    lr = torch.rand(1, 3, 13, 11)
    gt = torch.rand(1, 3, 52, 44)
    out = tiled(lambda lr, gt: enlarge(lr) + gt, lr, gt, scale=4, tile=8, overlap=3, batch=2)
    torch.testing.assert_close(out, enlarge(lr) + gt)


def test_neighbouring_tiles_are_blended_not_cut():
    lr = torch.zeros(1, 3, 8, 14)
    count = iter(range(2))
    out = tiled(lambda lr: torch.full((1, 3, 8, 8), float(next(count))), lr, scale=1, tile=8, overlap=2, batch=1)
    row = out[0, 0, 0]
    assert row[0] == 0 and row[-1] == 1 and 0 < row[6] < row[7] < 1


def test_an_overlap_of_a_whole_tile_is_refused():
    with pytest.raises(ValueError, match="from 0 to 7"):
        tiled(enlarge, torch.rand(1, 3, 9, 9), scale=4, tile=8, overlap=8, batch=1)
