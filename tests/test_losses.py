"""HCC, cross-entropy and the tokenizer's losses."""
import pytest
import small
import torch
import torch.nn.functional as F
from basicsr.losses import build_loss

from alignvar_arch.archs.lpips import SMALLEST
from alignvar_arch.archs.transformer.structure import laplacian_map, structure_maps
from alignvar_arch.losses import HCCLoss, TokenCrossEntropyLoss, VQLoss, tokenizer_loss
from alignvar_arch.metrics.tokens import scale_accuracy, scale_cross_entropy


@pytest.fixture
def case():
    tokenizer = small.tokenizer().requires_grad_(False)
    gt, lr = small.pictures()
    encoded = tokenizer.encode(tokenizer.to_target(gt, lr))
    return tokenizer.quantize, encoded, tokenizer.quantize.flatten(encoded.maps), lr


def one_hot(tokens):
    return 1e4 * F.one_hot(tokens, 24).float()


@pytest.mark.parametrize("estimate", ["soft", "straight_through"])
def test_cumulative_hcc_is_zero_on_the_ground_truth(case, estimate):
    pyramid, encoded, tokens, _ = case
    result = HCCLoss(target="cumulative", estimate=estimate)(one_hot(tokens), pyramid, encoded)
    assert result.loss < 1e-10 and result.floor.abs().max() == 0
    wrong = HCCLoss(target="cumulative", estimate=estimate)(one_hot((tokens + 1) % 24), pyramid, encoded)
    assert wrong.loss > 1e-2


@pytest.mark.parametrize("target", ["quantised", "latent"])
def test_the_other_targets_have_the_floor_they_report(case, target):
    pyramid, encoded, tokens, _ = case
    result = HCCLoss(target=target)(one_hot(tokens), pyramid, encoded)
    torch.testing.assert_close(result.per_scale, result.floor)
    assert result.floor.sum() > 1e-3


def test_hcc_equals_the_formula_written_out(case):
    pyramid, encoded, tokens, _ = case
    torch.manual_seed(1)
    logits = torch.randn(2, 30, 24)
    result = HCCLoss(loss_weight=0.5, target="quantised")(logits, pyramid, encoded)
    u, total = torch.zeros(2, 4, 4, 4), 0.0
    for k, (span, side) in enumerate(zip(pyramid.schedule.spans, small.SCALES, strict=True)):
        r = (logits[:, span].softmax(-1) @ pyramid.embedding.weight).transpose(1, 2).reshape(2, 4, side, side)
        if side < 4:
            r = F.interpolate(r, size=(4, 4), mode="bicubic", align_corners=False)
        phi = pyramid.quant_resi["qresi_ls"][pyramid.phi_index[k]]
        u = u + 0.5 * r + 0.5 * F.conv2d(r, phi.weight, phi.bias, padding=1)
        z = F.adaptive_avg_pool2d(encoded.latent, side).permute(0, 2, 3, 1)
        nearest = (z[..., None, :] - pyramid.embedding.weight).square().sum(-1).argmin(-1)
        target = pyramid.embedding.weight[nearest].permute(0, 3, 1, 2)
        total = total + (F.adaptive_avg_pool2d(u, side) - target).square().mean()
    torch.testing.assert_close(result.loss, 0.5 * total)


def test_hcc_gradient_reaches_every_block_and_passes_through_phi(case):
    pyramid, encoded, _, lr = case
    net = small.transformer().train()
    teacher, good = pyramid.teacher_input(encoded.cumulative), torch.zeros(2, dtype=torch.long)
    logits = net(lr, teacher, good, net.structure(lr)).logits
    logits.retain_grad()
    HCCLoss()(logits, pyramid, encoded).loss.backward()
    for i, block in enumerate(net.blocks):
        for name, parameter in block.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, (i, name)
    assert all(parameter.grad is None for parameter in pyramid.parameters())


def test_an_error_at_the_last_scale_reaches_the_predictions_of_the_first(case):
    pyramid, encoded, _, _ = case
    logits = torch.randn(2, 30, 24, generator=torch.Generator().manual_seed(3)).requires_grad_()
    loss, changed = HCCLoss(), []
    for shift in (0.0, 1.0):
        loss._target = lambda k, *_, shift=shift: pyramid.reduce(k, encoded.cumulative[k]) + (k == 3) * shift
        changed.append(torch.autograd.grad(loss(logits, pyramid, encoded).loss, logits)[0][:, 0])
    assert (changed[0] - changed[1]).abs().max() > 1e-6


def test_straight_through_is_hard_forwards_and_soft_backwards(case):
    pyramid, encoded, _, _ = case
    torch.manual_seed(2)
    logits = torch.randn(2, 30, 24, requires_grad=True)
    hard = HCCLoss(estimate="straight_through")(logits, pyramid, encoded)
    expected = HCCLoss()(one_hot(logits.argmax(-1)), pyramid, encoded)
    torch.testing.assert_close(hard.per_scale, expected.per_scale, atol=1e-6, rtol=1e-5)
    hard.loss.backward()
    assert (logits.grad.abs().amax(-1) > 0).all()


def test_losses_are_registered_and_refuse_what_they_do_not_know():
    assert isinstance(build_loss({"type": "HCCLoss", "loss_weight": 1.0, "target": "latent"}), HCCLoss)
    with pytest.raises(ValueError, match="quantised, cumulative or latent"):
        HCCLoss(target="quantized")
    with pytest.raises(ValueError, match="soft or straight_through"):
        HCCLoss(estimate="hard")


def test_cross_entropy_and_its_scales_agree(case):
    pyramid, _, tokens, _ = case
    logits = torch.randn(2, 30, 24)
    by_scale = scale_cross_entropy(logits, tokens, pyramid.schedule.spans)
    weights = torch.tensor(pyramid.schedule.lengths) / 30
    torch.testing.assert_close((by_scale * weights).sum(), TokenCrossEntropyLoss()(logits, tokens))
    assert scale_accuracy(one_hot(tokens), tokens, pyramid.schedule.spans).tolist() == [1.0] * 4


def test_vq_loss_pulls_codes_with_weight_one_and_the_encoder_with_beta(case):
    _, encoded, _, _ = case
    latent = encoded.latent.detach().requires_grad_()
    f_hats = [f.detach().requires_grad_() for f in encoded.cumulative]
    VQLoss(beta=0.25)(encoded._replace(latent=latent, cumulative=f_hats)).backward()
    pull = sum(f.grad for f in f_hats)
    torch.testing.assert_close(latent.grad, -0.25 * pull)


def test_laplacian_map_by_hand():
    lr = torch.zeros(1, 3, 3, 3)
    lr[..., 1, 1] = 1.0
    assert torch.allclose(laplacian_map(lr)[0, 0], torch.tensor([[0., 1, 0], [1, 4, 1], [0, 1, 0]]), atol=1e-6)
    edge = torch.tensor([0.0, 0.0, 1.0]).expand(1, 3, 3, 3)
    assert torch.allclose(laplacian_map(edge)[0, 0], torch.tensor([0.0, 1, 1]).expand(3, 3), atol=1e-6)


def test_structure_maps_are_min_max_normalised_per_scale():
    from alignvar_arch.archs.scales import ScaleSchedule
    structure = torch.arange(16.0).reshape(1, 1, 4, 4)
    maps = structure_maps(structure, ScaleSchedule((1, 2, 4)))[0, :, 0]
    assert maps[0] == 0  # a single value has no range
    torch.testing.assert_close(maps[1:5], torch.tensor([0.0, 0.2, 0.8, 1.0]))
    torch.testing.assert_close(maps[5:], torch.arange(16.0) / 15)


def test_lpips_as_a_loss_cuts_both_pictures_alike_at_random_from_its_seed(monkeypatch):
    class Distance(torch.nn.Module):
        def __init__(self, weights):
            super().__init__()
            self.seen = []

        def forward(self, x, y):
            self.seen.append((x, y))
            return (x - y).abs().mean((1, 2, 3))

    monkeypatch.setattr(tokenizer_loss, "LPIPSSqueeze", Distance)
    loss, (one, other) = tokenizer_loss.LPIPSLoss(loss_weight=2.0), torch.rand(2, 2, 3, 40, 33)
    for seed in range(60):
        value = loss(one, other, seed)
        x, y = loss.lpips.seen[-1]
        top, left = 40 - x.shape[-2], 33 - x.shape[-1]
        assert torch.equal(x, one[..., top:, left:]) and torch.equal(y, other[..., top:, left:])
        assert value == 2 * (x - y).abs().mean((1, 2, 3)).mean() and loss(one, other, seed) == value
    for axis, side in ((-2, 40), (-1, 33)):
        assert {side - x.shape[axis] for x, _ in loss.lpips.seen} == set(range(8))
    small_ones = torch.rand(1, 3, 18, 17)
    for seed in range(20):  # no smaller than LPIPS takes
        loss(small_ones, small_ones, seed)
        assert min(loss.lpips.seen[-1][0].shape[-2:]) >= SMALLEST
    percep, style = tokenizer_loss.LPIPSPerceptualLoss()(one, other)
    assert percep > 0 and style is None
