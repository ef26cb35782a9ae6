"""The fast path computes what the plain loop of benchmarks/plain.py computes, and less of it."""
import sys
from pathlib import Path

import pytest
import small
import torch
import torch.nn.functional as F

from alignvar_arch.archs.layers.conv import Upsample
from alignvar_arch.archs.layers.group_norm import group_norm, norm_silu
from alignvar_arch.archs.layers.linear import Linear

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import plain  # noqa: E402


@pytest.fixture
def calls():
    """Records what modules are given and give, as long as the test lasts: ``calls(module)`` → a list of pairs."""
    handles = []

    def watch(module: torch.nn.Module) -> list:
        seen = []
        handles.append(module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output))))
        return seen

    yield watch
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("sca", ["laplacian", "off"])
@pytest.mark.parametrize("guidance", [0.0, 6.0])
@torch.no_grad()
def test_generation_equals_the_plain_loop(calls, guidance, sca):
    pyramid, net = small.tokenizer().quantize, small.transformer(sca=sca)
    lr = small.pictures()[1]
    structure = net.structure(lr)
    heads = calls(net.head)
    made = net.generate(lr, pyramid, structure, guidance=guidance)
    fast = [logits for _, logits in heads]
    steps = list(plain.steps(net, lr, pyramid, structure, guidance))
    assert len(fast) == len(steps)
    for k, (logits, chosen, _) in enumerate(steps):
        t, ours = guidance * k / 3, fast[k]
        if guidance:
            good, bad = ours.chunk(2)
            ours = (1 + t) * good - t * bad
        torch.testing.assert_close(ours, logits, atol=1e-4, rtol=0)
        assert torch.equal(made.maps[k], chosen)
    torch.testing.assert_close(made.f_hat, steps[-1][2])


@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_decoding_equals_the_plain_loop(batch):
    tokenizer = small.tokenizer(ch_mult=(1, 2, 2))
    f_hat = torch.randn(batch, 4, 6, 9)
    torch.testing.assert_close(tokenizer.decode(f_hat), plain.decode(tokenizer, f_hat), atol=1e-5, rtol=0)


@torch.no_grad()
def test_nothing_is_computed_that_nobody_reads(calls):
    net, pyramid, lr = small.transformer(), small.tokenizer().quantize, small.pictures()[1]
    heads, encoder, last = calls(net.head), calls(net.con_embedding), calls(net.blocks[-1].ffn)
    tables = [calls(block.ada_lin) for block in net.blocks] + [calls(net.head_nm.ada_lin)]
    net.generate(lr, pyramid, net.structure(lr), guidance=6.0)
    lengths = list(net.schedule.lengths)
    assert [given.shape[1] for given, _ in heads] == lengths  # no logits of the prefix
    assert [given.shape[1] for given, _ in last] == lengths  # nor the last block's output for it
    assert [len(given) for given, _ in encoder] == [2]  # the LR once, for both branches
    assert [[len(given) for given, _ in table] for table in tables] == [[2]] * 3  # a row a label, not one an image


def test_upsampling_equals_nearest_then_convolution():
    torch.manual_seed(0)
    # In double precision: the sums' order is the processor's choice, and float32 gradients are then off by 1e-5.
    up, x = Upsample(6).double(), torch.randn(2, 6, 5, 7, dtype=torch.double, requires_grad=True)
    expected = up.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(up(x), expected)
    for given in (x, up.conv.weight):
        torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), given, retain_graph=True)[0]
                                     for out in (up(x), expected)))


@pytest.mark.parametrize("own", [False, True])
@torch.no_grad()
def test_norm_and_silu_are_exact_where_sums_are_long(own):
    torch.manual_seed(0)
    norm = group_norm(64)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    x = 3 + 0.5 * torch.randn(2, 64, 96, 128)  # torch's own is off by 1e-3 here
    expected = F.silu(F.group_norm(x.double(), 32, norm.weight.double(), norm.bias.double(), norm.eps)).float()
    by_channels = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(norm_silu(norm, by_channels, own), expected, atol=2e-5, rtol=0)
    assert own or torch.equal(by_channels, x)  # somebody else's is left alone


@pytest.mark.parametrize("tokens", [7, 400])  # the latter go through a convolution
@torch.no_grad()
def test_a_linear_layer_is_torchs(tokens):
    torch.manual_seed(0)
    layer, x, threads = Linear(64, 40), torch.randn(3, tokens, 64), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        made = layer(x)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(made, F.linear(x, layer.weight, layer.bias))
    assert made.is_contiguous()
