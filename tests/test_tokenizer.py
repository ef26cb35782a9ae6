"""AlignVARTokenizer: round trips, targets, gradients, refusals."""
import pytest
import small
import torch

from alignvar_arch.archs import AlignVARTokenizer
from alignvar_arch.losses import VQLoss


@pytest.mark.parametrize("target", ["image", "residual"])
@torch.no_grad()
def test_encode_indices_decode_reproduces_itself(target):
    net = small.tokenizer(target=target)
    gt, lr = small.pictures()
    encoded = net.encode(net.to_target(gt, lr))
    picture = net.to_image(net.decode(encoded.cumulative[-1]), lr)
    again = net.to_image(net.decode(net.quantize.accumulate(encoded.maps)[-1]), lr)
    assert torch.equal(picture, again) and picture.shape == gt.shape
    torch.testing.assert_close(net.to_image(net.to_target(gt, lr), lr), gt, atol=1e-6, rtol=0)


def test_residual_target_is_what_bicubic_lacks():
    net = small.tokenizer(target="residual")
    flat = torch.full((1, 3, 16, 16), 0.3)
    assert net.to_target(flat, flat[..., ::4, ::4]).abs().max() < 1e-6
    assert small.tokenizer(target="image").to_target(flat).allclose(torch.tensor(-0.4))


def test_every_parameter_gets_a_gradient():
    net = small.tokenizer().train()
    gt, lr = small.pictures(4)
    output, encoded = net(gt, lr)
    ((output - gt).abs().mean() + VQLoss()(encoded)).backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing


def test_straight_through_reaches_the_encoder_as_if_nothing_was_quantised():
    net = small.tokenizer().train()
    gt, lr = small.pictures()
    x = net.to_target(gt, lr)
    latent = net.encode_latent(x)
    f_hat = net.quantize.tokenize(latent)[1][-1].detach()
    weight = torch.randn_like(f_hat)
    output, encoded = net(gt, lr)
    encoded.latent.retain_grad()
    (net.post_quant_conv(encoded.latent + (f_hat - encoded.latent).detach()) * weight).sum().backward()
    expected = torch.autograd.grad((net.post_quant_conv(f_hat.requires_grad_()) * weight).sum(), f_hat)[0]
    torch.testing.assert_close(encoded.latent.grad, expected)


def test_wrong_sizes_and_settings_are_refused():
    with pytest.raises(ValueError, match="16×16, not 20×16"):
        small.tokenizer().encode(torch.zeros(1, 3, 20, 16))
    with pytest.raises(ValueError, match="multiple of 32"):
        AlignVARTokenizer(ch=48)
    with pytest.raises(ValueError, match="image or residual"):
        AlignVARTokenizer(target="residue")
    with pytest.raises(TypeError):
        AlignVARTokenizer(chanels=32)
