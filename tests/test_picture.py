"""From an LR of any size to its picture: one function, whose result depends on the picture and the seed alone."""
from types import SimpleNamespace

import pytest
import small
import torch

from alignvar_arch.archs.tokenizer_arch import bicubic
from alignvar_arch.archs.transformer.sampling import CHOICES
from alignvar_arch.inference.picture import picture, reconstruction, upscale_latent
from alignvar_arch.inference.tiles import Tiling

SAMPLED = {"top_k": 0, "top_p": 0.95}


@pytest.fixture(scope="module")
def nets():
    return small.transformer(), small.tokenizer(target="residual")


def lr(*size: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (13, 12), (51, 1), (10, 7)])
@pytest.mark.parametrize("changes", [{}, {"ch_mult": (1, 1)}])
def test_any_size(size, changes):
    net, tokenizer = small.transformer(), small.tokenizer(target="residual", **changes)
    made = picture(net, tokenizer, lr(*size))
    assert made.shape == (1, 3, 4 * size[0], 4 * size[1]) and 0 <= made.min() <= made.max() <= 1
    assert torch.isfinite(made).all() and (made - bicubic(lr(*size), made.shape[-2:])).abs().max() > 1e-3


@pytest.mark.parametrize("sca", ["laplacian", "random"])
def test_the_batch_does_not_matter(sca):
    net, tokenizer = small.transformer(sca=sca), small.tokenizer(target="residual")
    some = lr(9, 11, batch=2)

    def tokens(lr: torch.Tensor, batch: int) -> torch.Tensor:
        made = []

        def generate(*given, **named):
            made.append(net.generate(*given, **named))
            return made[-1]

        watched = SimpleNamespace(generate=generate, structure=net.structure, sca=net.sca, pos_start=net.pos_start)
        upscale_latent(watched, tokenizer, lr, tiling=Tiling.of(tokenizer, 4, 1, batch), **SAMPLED)
        return torch.cat([tokenizer.quantize.flatten(one.maps) for one in made])

    alone, many, own = tokens(some, 1), tokens(some, 16), tokens(some[1:], 5)
    # A sampled token may fall to its neighbour by rounding, and what follows in its tile with it.
    for one, other in ((alone, many), (own, many[len(own):])):
        assert len(one) == len(other) >= 12 and (one == other).all(1).float().mean() >= 0.9


def test_indices_agree_whatever_the_batch(nets):
    net, tokenizer = nets
    tiles = lr(4, 4, batch=40)

    def indices(batch: int) -> torch.Tensor:
        made = [net.generate(some, tokenizer.quantize, net.structure(some), top_k=0, temperature=2.0, generator=[
            torch.Generator().manual_seed(int(i)) for i in numbers])
            for some, numbers in zip(tiles.split(batch), torch.arange(40).split(batch), strict=True)]
        return torch.cat([tokenizer.quantize.flatten(one.maps) for one in made])

    alone = indices(1)
    assert (alone == indices(16)).float().mean() >= 0.999
    assert (alone[1:] != alone[:-1]).any(1).all()  # every tile drew its own


def test_a_seed_is_a_picture(nets):
    first, again, other = (picture(*nets, lr(9, 9), seed=seed, **SAMPLED) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_equal_tiles_draw_different_numbers(nets):
    flat = torch.full((1, 3, 4, 8), 0.5)
    f_hat = upscale_latent(*nets, flat, tiling=Tiling.of(nets[1], 4, 0), **SAMPLED)
    assert not torch.equal(f_hat[..., :4], f_hat[..., 4:])


def test_one_tile_is_what_the_networks_make_of_it(nets):
    net, tokenizer = nets
    tile = lr(4, 4)
    made = net.generate(tile, tokenizer.quantize, net.structure(tile), generator=torch.Generator().manual_seed(5),
                        **SAMPLED)
    wanted = tokenizer.to_image(tokenizer.decode(made.f_hat, tile), tile).clamp(0, 1)
    torch.testing.assert_close(picture(net, tokenizer, tile, seed=5, **SAMPLED), wanted)


def test_progress_counts_tiles_and_tiled_decoding_changes_nothing(nets):
    counted = []
    whole = picture(*nets, lr(7, 9), batch=4, progress=counted.append)
    assert sum(counted) == len(Tiling.of(nets[1], 4).places(7, 9)) and max(counted) == 4
    torch.testing.assert_close(picture(*nets, lr(7, 9), decode_tile=3), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("choice", CHOICES)
def test_half_precision_networks_take_a_full_precision_lr(nets, choice):
    net, tokenizer = small.transformer().bfloat16(), small.tokenizer(target="residual").bfloat16()
    assert picture(net, tokenizer, lr(5, 6), choice=choice).dtype == torch.float32


def test_the_colour_fix_is_applied(nets):
    wanted = bicubic(lr(9, 9), (36, 36)).mean((2, 3))
    off, adain = (picture(*nets, lr(9, 9), colour=how).mean((2, 3)) for how in ("off", "adain"))
    assert (adain - wanted).abs().max() < (off - wanted).abs().max()


def test_a_reconstruction_of_one_tile_is_the_tokenizers(nets):
    tokenizer = nets[1]
    gt, some = small.pictures(1)
    decoded = tokenizer.decode(tokenizer.encode(tokenizer.to_target(gt, some)).cumulative[-1], some)
    torch.testing.assert_close(reconstruction(tokenizer, gt, some), tokenizer.to_image(decoded, some).clamp(0, 1))
    gt = torch.rand(1, 3, 20, 52)
    assert reconstruction(tokenizer, gt, torch.rand(1, 3, 5, 13)).shape == gt.shape
