"""The residual pyramid against a naive loop, and a codebook written by hand."""
import small
import torch
import torch.nn.functional as F

from alignvar_arch.archs.scales import ScaleSchedule
from alignvar_arch.archs.tokenizer.codebook import count_hits, fold_hits, revive
from alignvar_arch.archs.tokenizer.pyramid import ResidualPyramid


@torch.no_grad()
def test_pyramid_equals_a_naive_loop():
    pyramid = small.tokenizer().quantize
    latent = torch.randn(2, 4, 4, 4)
    maps, cumulative = pyramid.tokenize(latent)
    for b in range(2):
        rest, f_hat = latent[b:b + 1].clone(), torch.zeros(1, 4, 4, 4)
        for k, side in enumerate(small.SCALES):
            small_map = F.adaptive_avg_pool2d(rest, side)
            codes = torch.zeros(1, 4, side, side)
            for y in range(side):
                for x in range(side):
                    distance = [(small_map[0, :, y, x] - code).square().sum() for code in pyramid.embedding.weight]
                    best = int(torch.stack(distance).argmin())
                    assert best == maps[k][b, y, x]
                    codes[0, :, y, x] = pyramid.embedding.weight[best]
            if side < 4:
                codes = F.interpolate(codes, size=(4, 4), mode="bicubic", align_corners=False)
            phi = pyramid.quant_resi["qresi_ls"][pyramid.phi_index[k]]
            added = 0.5 * codes + 0.5 * F.conv2d(codes, phi.weight, phi.bias, padding=1)
            f_hat, rest = f_hat + added, rest - added
            torch.testing.assert_close(f_hat, cumulative[k][b:b + 1], atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_indices_reproduce_every_cumulative_latent():
    pyramid = small.tokenizer().quantize
    maps, cumulative = pyramid.tokenize(torch.randn(2, 4, 4, 4))
    again = pyramid.accumulate(pyramid.unflatten(pyramid.flatten(maps)))
    for one, other in zip(cumulative, again, strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_a_hand_written_codebook_is_searched_by_euclid():
    pyramid = ResidualPyramid(ScaleSchedule((1, 2)), codebook_size=3, latent_dim=2, num_phi=1, phi_on_last=True)
    pyramid.embedding.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 5.0]]))
    places = torch.tensor([[0.6, 0.0], [0.4, 0.0], [0.0, 2.6], [9.0, 0.0]]).T.reshape(1, 2, 2, 2)
    assert pyramid.nearest(places).flatten().tolist() == [1, 0, 2, 1]


@torch.no_grad()
def test_teacher_input_is_what_generation_is_given():
    pyramid = small.tokenizer().quantize
    _, cumulative = pyramid.tokenize(torch.randn(1, 4, 4, 4))
    teacher = pyramid.teacher_input(cumulative)
    assert teacher.shape == (1, 29, 4)
    expected = F.adaptive_avg_pool2d(cumulative[1], 3).flatten(2).transpose(1, 2)
    torch.testing.assert_close(teacher[:, 4:13], expected)


def test_dead_codes_move_onto_residuals_and_live_ones_stay():
    torch.manual_seed(0)
    pyramid = small.tokenizer().quantize
    latent = torch.randn(4, 4, 4, 4)
    with torch.no_grad():
        pyramid.embedding.weight[5:] = 100.0  # never nearest
    before = pyramid.embedding.weight.clone()
    hits = fold_hits(pyramid, count_hits(pyramid, pyramid.tokenize(latent)[0]), momentum=0.0)
    assert hits.sum() == 4 * pyramid.schedule.tokens and hits[:, 5:].sum() == 0
    alive = hits.sum(0) > 0
    moved = revive(pyramid, latent)
    assert moved == int((~alive).sum()) >= 19
    assert torch.equal(pyramid.embedding.weight[alive], before[alive])
    assert pyramid.embedding.weight[~alive].abs().max() < 10
    used = torch.cat([indices.flatten() for indices in pyramid.tokenize(latent)[0]]).unique()
    assert len(used) > 5
    assert revive(pyramid, latent) == 0
