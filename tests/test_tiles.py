"""Tiling: pictures of any size, cut on the latent's grid and blended."""
import pytest
import torch
import torch.nn.functional as F

from alignvar_arch.inference.tiles import Tiling, blended, cut


def enlarge(places, lr):
    return F.interpolate(lr, scale_factor=4, mode="nearest")


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (8, 9), (5, 20), (31, 17), (40, 8)])
@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_pixelwise_function_comes_back_exactly(size, step):
    lr = torch.rand(2, 3, *size)
    out = blended(enlarge, lr, tiling=Tiling(8, 2, step, 3), scale=4)
    assert out.shape[-2] % (4 * step) == out.shape[-1] % (4 * step) == 0
    torch.testing.assert_close(out[..., :size[0] * 4, :size[1] * 4], enlarge(None, lr))


def test_other_pictures_are_cut_in_the_same_places():
    lr, gt = torch.rand(1, 3, 13, 11), torch.rand(1, 3, 52, 44)
    out = blended(lambda places, lr, gt: enlarge(places, lr) + gt, lr, gt, tiling=Tiling(8, 3, 1, 2), scale=4)
    torch.testing.assert_close(out, enlarge(None, lr) + gt)


@pytest.mark.parametrize(("tile", "overlap", "step"), [(8, 2, 1), (8, 3, 2), (8, 7, 4), (32, 8, 2), (128, 32, 4)])
@pytest.mark.parametrize("length", [1, 8, 9, 33, 127, 512, 1000])
def test_tiles_cover_a_side_on_the_grid_and_overlap(tile, overlap, step, length):
    tiling = Tiling(tile, overlap, step)
    starts, end = tiling.starts(length), tiling.padded(length)
    assert starts[0] == 0 and starts[-1] + tile == end and length <= end < max(length, tile) + step
    assert all(start % step == 0 for start in starts)
    # A tile that lies on the grid overlaps its neighbour by a whole step at most less than itself.
    least = min(overlap, tile - step)
    assert all(a < b <= a + tile - least for a, b in zip(starts, starts[1:], strict=False))


def test_neighbouring_tiles_are_blended_not_cut():
    out = blended(lambda places, lr: torch.full((1, 3, 4, 4), float(places[0].index)), torch.zeros(1, 3, 8, 14),
                  tiling=Tiling(8, 4, 2, 1), scale=1)
    row = out[0, 0, 0].tolist()
    assert row[:2] == [0, 0] and row[-1] == 2 and len(row) == 7 and row == sorted(row) and len(set(row)) > 4


def test_places_name_picture_and_tile_whatever_the_batch():
    lr = torch.rand(2, 3, 14, 8)
    for batch in (1, 3, 9):
        places = [(place.picture, place.index, place.top) for some, _ in cut(lr, tiling=Tiling(8, 2, 1, batch), scale=1)
                  for place in some]
        assert places == [(0, 0, 0), (0, 1, 6), (1, 0, 0), (1, 1, 6)]


def test_an_overlap_of_a_whole_tile_is_refused():
    with pytest.raises(ValueError, match="from 0 to 7"):
        Tiling(8, 8)
