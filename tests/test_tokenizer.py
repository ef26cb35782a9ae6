"""AlignVARTokenizer: round trips, targets, gradients, refusals."""
import pytest
import small
import torch

from alignvar_arch.archs import AlignVARTokenizer
from alignvar_arch.archs.layers.conv import SpatialAttention, _attend
from alignvar_arch.losses import VQLoss


@pytest.mark.parametrize("target", ["image", "residual"])
@torch.no_grad()
def test_encode_indices_decode_reproduces_itself(target):
    net = small.tokenizer(target=target)
    gt, lr = small.pictures()
    encoded = net.encode(net.to_target(gt, lr))
    picture = net.to_image(net.decode(encoded.cumulative[-1], lr), lr)
    again = net.to_image(net.decode(net.quantize.accumulate(encoded.maps)[-1], lr), lr)
    assert torch.equal(picture, again) and picture.shape == gt.shape
    torch.testing.assert_close(net.to_image(net.to_target(gt, lr), lr), gt, atol=1e-6, rtol=0)


def test_residual_target_is_what_bicubic_lacks():
    net = small.tokenizer(target="residual")
    flat = torch.full((1, 3, 16, 16), 0.3)
    assert net.to_target(flat, flat[..., ::4, ::4]).abs().max() < 1e-6
    assert small.tokenizer(target="image").to_target(flat).allclose(torch.tensor(-0.4))


@pytest.mark.parametrize(("target", "kept"), [("image", None), ("residual", None),
                                              ("residual", torch.tensor([0, 1, 2, 4]))])
def test_every_parameter_gets_a_gradient(target, kept):
    net = small.tokenizer(target=target).train()
    gt, lr = small.pictures(4)
    output, encoded = net(gt, lr, True, kept)
    ((output - gt).abs().mean() + VQLoss()(encoded)).backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing


@pytest.mark.parametrize("target", ["image", "residual"])
def test_straight_through_decodes_the_codes_and_gives_their_gradient_to_the_latent(target):
    net = small.tokenizer(target=target).train()
    gt, lr = small.pictures()
    output, encoded = net(gt, lr)
    f_hat = encoded.cumulative[-1].detach().requires_grad_()
    decoded = net.to_image(net.decoder(net.post_quant_conv(f_hat), *([lr] if target == "residual" else [])), lr)
    torch.testing.assert_close(output, decoded)
    weight = torch.randn_like(output)
    (through,) = torch.autograd.grad((output * weight).sum(), encoded.latent)
    (expected,) = torch.autograd.grad((decoded * weight).sum(), f_hat)
    assert (through - expected).norm() < 1e-3 * expected.norm() > 0


def test_unquantised_training_decodes_the_latent_itself():
    net = small.tokenizer().train()
    gt, _ = small.pictures()
    output, encoded = net(gt, quantise=False)
    torch.testing.assert_close(output, net.to_image(net.decoder(net.post_quant_conv(encoded.latent))))


@pytest.mark.parametrize("target", ["image", "residual"])
def test_pictures_are_decoded_from_the_scales_that_are_kept(target):
    net = small.tokenizer(target=target).train()
    gt, lr = small.pictures(5)
    kept = torch.tensor([0, 1, 2, 4, 3])
    full, _ = net(gt, lr)
    output, encoded = net(gt, lr, kept=kept)
    stages = [torch.zeros_like(encoded.latent), *encoded.cumulative]
    for i, count in enumerate(kept):
        own = lr[i:i + 1]
        decoded = net.decode(stages[count][i:i + 1], own) if target == "residual" else net.decoder(
            net.post_quant_conv(stages[count][i:i + 1]))
        torch.testing.assert_close(output[i:i + 1], net.to_image(decoded, own), atol=1e-5, rtol=0)
    torch.testing.assert_close(output[3], full[3])
    assert all((output[i] - full[i]).abs().max() > 1e-3 for i in (0, 1, 2, 4))
    # The gradient passes the codes of the scales that are kept, and nothing comes where there are none.
    (gradient,) = torch.autograd.grad((output * torch.randn_like(output)).sum(), encoded.latent)
    assert [bool(one.any()) for one in gradient] == [False, True, True, True, True]


def test_strong_residuals_are_not_clamped():
    lr = torch.rand(1, 3, 4, 4)
    assert small.tokenizer(target="residual").decode(100 * torch.randn(1, 4, 4, 4), lr).abs().max() > 1
    net = small.tokenizer()
    net.decoder.conv_out.weight.data.mul_(100)
    assert net.decode(100 * torch.randn(1, 4, 4, 4)).abs().max() == 1


def test_a_residual_is_not_decoded_without_the_lr():
    with pytest.raises(ValueError, match="a residual tokenizer decodes with the LR in view; give lr"):
        small.tokenizer(target="residual").decode(torch.zeros(1, 4, 4, 4))


def test_wrong_sizes_and_settings_are_refused():
    with pytest.raises(ValueError, match="16×16, not 20×16"):
        small.tokenizer().encode(torch.zeros(1, 3, 20, 16))
    with pytest.raises(ValueError, match="multiple of 32"):
        AlignVARTokenizer(ch=48)
    with pytest.raises(ValueError, match="image or residual"):
        AlignVARTokenizer(target="residue")
    for wrong in ({"guide_blocks": 2}, {"guide_blocks": -1, "target": "residual"}):
        with pytest.raises(ValueError, match=f"guide_blocks must be 0 .* not {wrong['guide_blocks']}"):
            AlignVARTokenizer(**wrong)
    with pytest.raises(TypeError):
        AlignVARTokenizer(chanels=32)


@torch.no_grad()
def test_attention_over_large_maps_is_by_windows_that_leave_no_seam(monkeypatch):
    torch.manual_seed(0)
    attention, x = SpatialAttention(32), torch.randn(2, 32, 19, 40)
    whole = attention(x)
    monkeypatch.setattr(SpatialAttention, "window", 16)
    near = attention(x)
    assert (near - whole).abs().max() > 1e-4  # windows, indeed
    monkeypatch.setattr(SpatialAttention, "window", 40)
    torch.testing.assert_close(attention(x), whole)
    # Where every window sees the same, so does every position: the weights add up to one.
    monkeypatch.setattr(SpatialAttention, "window", 16)
    flat = torch.ones(1, 32, 40, 24) * torch.randn(1, 32, 1, 1)
    torch.testing.assert_close(attention(flat), attention(flat[..., :16, :16])[..., :1, :1].expand_as(flat))


@pytest.mark.parametrize("target", ["image", "residual"])
def test_a_picture_may_be_made_in_place_of_what_was_decoded(target):
    net, decoded = small.tokenizer(target=target), torch.randn(2, 3, 16, 16)
    lr, kept = torch.rand(2, 3, 4, 4), decoded.clone()
    picture = net.to_image(decoded, lr)
    assert torch.equal(decoded, kept)
    assert torch.equal(net.to_image(decoded, lr, own=True), picture) and torch.equal(decoded, picture)


@torch.no_grad()
def test_attention_by_windows_is_attention_where_one_covers_all_or_only_neighbours_count():
    attention = SpatialAttention(32)
    q, v = torch.randn(2, 2, 32, 12, 20, generator=torch.Generator().manual_seed(0))
    attention.window = 20
    for qkv in (torch.cat([q, q, v], 1), torch.cat([4 * q, 4 * q, v], 1)):  # of all positions, and of the own one
        torch.testing.assert_close(attention._by_windows(qkv), _attend(qkv), atol=1e-5, rtol=0)
    attention.window = 8
    torch.testing.assert_close(attention._by_windows(qkv), _attend(qkv), atol=1e-3, rtol=0)
