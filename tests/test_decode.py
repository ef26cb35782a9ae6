"""Tiled decoding equals decoding the whole, whatever the tile and whatever is stored."""
import pytest
import small
import torch

from alignvar_arch.archs import AlignVARTokenizer
from alignvar_arch.archs.layers.conv import PlainBlock
from alignvar_arch.archs.tokenizer.guided import SCALE, GuidedDecoder
from alignvar_arch.archs.tokenizer_arch import bicubic
from alignvar_arch.inference.decode import decode_tiled

IMAGE = {"plain": {}, "one level": {"ch_mult": (1,)}, "four levels": {"ch_mult": (1, 1, 2, 2)}}
# Of the guided decoders, the first sees furthest in the LR, the second and third in the latent.
GUIDED = {"guided": {"ch_mult": (1, 2), "num_res_blocks": 1, "guide_blocks": 8},
          "guided one level": {"ch_mult": (1,), "num_res_blocks": 2, "guide_blocks": 1},
          "guided three levels": {"ch_mult": (1, 2, 1), "num_res_blocks": 1, "guide_blocks": 1}}
LAYOUTS = {**IMAGE, **{name: {"target": "residual", **layout} for name, layout in GUIDED.items()}}


def awake(**changes) -> torch.nn.Module:
    """A tokenizer in which every weight counts."""
    net = small.tokenizer(**changes)
    with torch.no_grad():
        for parameter in (*net.decoder.parameters(), *net.post_quant_conv.parameters()):
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net


def inputs(net: torch.nn.Module, *size: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A latent of any size, and the LR that belongs to it."""
    f_hat = torch.randn(batch, 4, *size)
    if net.target == "image":
        return f_hat, None
    return f_hat, torch.rand(batch, 3, *(side * net.factor // SCALE for side in size))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(2, 3), (5, 7), (1, 13), (11, 17)])
@torch.no_grad()
def test_it_equals_decoding_the_whole(layout, size):
    net = awake(**LAYOUTS[layout])
    f_hat, lr = inputs(net, *size, batch=2)
    f_hat *= torch.tensor([1.0, 5.0]).view(2, 1, 1, 1)  # statistics are a picture's own
    whole = net.decode(f_hat, lr)
    for tile, keep in ((3, None), (3, 0), (2, 20000), (16, None)):
        apart = (decode_tiled(net, f_hat, lr, tile, keep) - whole).abs().max()
        assert apart <= 1e-5 * max(whole.abs().max(), 1), (tile, keep)


@torch.no_grad()
def test_statistics_of_a_tile_alone_would_not_do():
    net, f_hat = awake(), torch.randn(1, 4, 8, 8)
    f_hat[..., 4:] *= 0.1
    alone = torch.cat([net.decode(half) for half in f_hat.chunk(2, -1)], -1)
    assert (alone - net.decode(f_hat)).abs().max() > 1e-2


def seen(before: torch.Tensor, after: torch.Tensor, factor: int, middle: int) -> int:
    """How far from the middle place of a row of the latent two results (1, 3, H, W) differ, in places of it."""
    columns = (before != after).any(1).any(1)[0].unflatten(0, (-1, factor)).any(1).nonzero()
    return int((columns - middle).abs().max())


@pytest.mark.parametrize("layout", GUIDED)
@torch.no_grad()
def test_the_guided_decoder_sees_as_far_as_it_says(layout):
    """Measured: one place of the latent, then its pixels of the LR, are another, in float64 and a picture large enough.
    """
    net, middle, length = awake(target="residual", **GUIDED[layout]).double(), 40, 81
    with torch.no_grad():
        for parameter in (*net.decoder.parameters(), *net.post_quant_conv.parameters()):
            parameter.mul_(3)  # so that what comes from afar is not lost in the digits
    f_hat, lr = (value.double() for value in inputs(net, 1, length))
    before, fine = net.decoder(f_hat, lr), net.factor // SCALE
    latent, other = f_hat.clone(), lr.clone()
    latent[..., middle] += 10
    other[..., middle * fine:(middle + 1) * fine] += 10
    far = [seen(before, net.decoder(*given), net.factor, middle) for given in ((latent, lr), (f_hat, other))]
    assert max(far) == net.decoder.reach < middle
    assert (far[0] > far[1]) == (layout != "guided")  # so that both have been the further one


@torch.no_grad()
def test_less_than_what_the_guided_decoder_sees_would_not_do(monkeypatch):
    net = awake(target="residual", **GUIDED["guided three levels"]).double()
    f_hat, lr = (value.double() for value in inputs(net, 1, 40))
    whole, reach = net.decode(f_hat, lr), net.decoder.reach
    torch.testing.assert_close(decode_tiled(net, f_hat, lr, 4), whole, atol=1e-12, rtol=0)
    monkeypatch.setattr(GuidedDecoder, "reach", reach - 1)
    assert (decode_tiled(net, f_hat, lr, 4) - whole).abs().max() > 1e-10


@torch.no_grad()
def test_a_guided_tokenizer_begins_as_an_orthogonal_projection_of_residuals_on_bicubic():
    net = AlignVARTokenizer(ch=32, num_res_blocks=1, latent_dim=4, scales=small.SCALES, **small.RESIDUAL)
    gt, lr = small.pictures()
    nothing = torch.zeros(2, 4, 4, 4)
    assert net.decode(nothing, lr).count_nonzero() == 0
    assert torch.equal(net.to_image(net.decode(nothing, lr), lr), bicubic(lr, gt.shape[-2:]))
    for part in (net.encoder, net.decoder):  # without what the blocks add, which begins small
        for module in part.modules():
            if isinstance(module, PlainBlock):
                torch.nn.init.zeros_(module.conv2.weight)
    once = net.decode(net.encode_latent(net.to_target(gt, lr)), lr)
    torch.testing.assert_close(net.decode(net.encode_latent(once), lr), once, atol=1e-5, rtol=0)
    assert once.std() > 0.1


@torch.no_grad()
def test_what_a_guided_decoder_makes_depends_on_tokens_and_lr():
    net = small.tokenizer(target="residual")
    gt, lr = small.pictures()
    f_hat = torch.randn(2, 4, 4, 4)
    made, alone, other = (net.decode(*given) for given in ((f_hat, lr), (0 * f_hat, lr), (0 * f_hat, lr.flip(0))))
    assert made.shape == gt.shape and alone.std() > 0
    assert (made - alone).abs().max() > 1e-2 and (other - alone).abs().max() > 1e-2


@pytest.mark.parametrize("layout", ["plain", "guided"])
@torch.no_grad()
def test_half_precision_loses_no_more_than_decoding_the_whole(layout):
    net = awake(**LAYOUTS[layout])
    f_hat, lr = inputs(net, 5, 6)
    exact, half = net.decode(f_hat, lr), net.bfloat16()
    tiled, whole = decode_tiled(half, f_hat.bfloat16(), lr, 2), half.decode(f_hat.bfloat16(), lr)
    assert (tiled.float() - exact).abs().mean() < 1.5 * (whole.float() - exact).abs().mean()
