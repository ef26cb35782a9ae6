"""Tiled decoding equals decoding the whole, whatever the tile and whatever is stored."""
import pytest
import small
import torch

from alignvar_arch.inference.decode import decode_tiled

LAYOUTS = {"plain": {}, "residual": {"target": "residual", "patch_path": True, "num_res_blocks": 2},
           "one level": {"ch_mult": (1,)}, "four levels": {"ch_mult": (1, 1, 2, 2)}}


def awake(**changes) -> torch.nn.Module:
    """A tokenizer in which every weight counts."""
    net = small.tokenizer(**changes)
    with torch.no_grad():
        for parameter in net.decoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(2, 3), (5, 7), (1, 13)])
@torch.no_grad()
def test_it_equals_decoding_the_whole(layout, size):
    net = awake(**LAYOUTS[layout])
    f_hat = torch.randn(2, 4, *size) * torch.tensor([1.0, 5.0]).view(2, 1, 1, 1)  # statistics are a picture's own
    whole = net.decode(f_hat)
    for tile, keep in ((3, None), (3, 0), (2, 20000), (16, None)):
        apart = (decode_tiled(net, f_hat, tile, keep) - whole).abs().max()
        assert apart <= 1e-5 * max(whole.abs().max(), 1), (tile, keep)


@torch.no_grad()
def test_statistics_of_a_tile_alone_would_not_do():
    net, f_hat = awake(target="residual"), torch.randn(1, 4, 8, 8)
    f_hat[..., 4:] *= 0.1
    alone = torch.cat([net.decode(half) for half in f_hat.chunk(2, -1)], -1)
    assert (alone - net.decode(f_hat)).abs().max() > 1e-2


@torch.no_grad()
def test_half_precision_loses_no_more_than_decoding_the_whole():
    net, f_hat = awake(target="residual"), torch.randn(1, 4, 5, 6)
    exact, half = net.decode(f_hat), net.bfloat16()
    tiled, whole = decode_tiled(half, f_hat.bfloat16(), 2), half.decode(f_hat.bfloat16())
    assert (tiled.float() - exact).abs().mean() < 1.5 * (whole.float() - exact).abs().mean()
