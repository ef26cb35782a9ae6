"""AlignVAR: generation equals teacher forcing, nobody sees the future, SCA does what it says."""
import pytest
import small
import torch

from alignvar_arch.archs import AlignVAR
from alignvar_arch.archs.layers.attention import attend_block_causal
from alignvar_arch.archs.layers.rope import rope_table, rotate
from alignvar_arch.archs.transformer.sampling import guide

GOOD = torch.zeros(2, dtype=torch.long)
LOCAL = {"condition_blocks": 1, "local_condition": True}


@pytest.fixture
def case():
    """A tokenizer, GT, LR, the tokenised GT and the teacher-forced input."""
    tokenizer = small.tokenizer()
    gt, lr = small.pictures()
    with torch.no_grad():
        encoded = tokenizer.encode(tokenizer.to_target(gt, lr))
        return tokenizer, lr, encoded, tokenizer.quantize.teacher_input(encoded.cumulative)


def generated_logits(net, lr, pyramid, encoded, structure, **how):
    """The logits of cached generation, with the ground truth's tokens forced upon it."""
    seen = []
    handle = net.head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    made = net.generate(lr, pyramid, structure, forced=encoded.cumulative, **how)
    handle.remove()
    return torch.cat(seen, dim=1), made


@pytest.mark.parametrize("changes", [{"sca": "off"}, {"sca": "laplacian"}, {"sca": "random"}, LOCAL,
                                     {**LOCAL, "sca": "off"}])
@torch.no_grad()
def test_cached_generation_equals_teacher_forcing_at_every_scale(case, changes):
    tokenizer, lr, encoded, teacher = case
    net = small.transformer(**changes)
    structure = net.structure(lr, torch.Generator().manual_seed(3))
    expected = net(lr, teacher, GOOD, structure).logits
    logits, made = generated_logits(net, lr, tokenizer.quantize, encoded, structure)
    for span in net.schedule.spans:
        torch.testing.assert_close(logits[:, span], expected[:, span], atol=2e-5, rtol=1e-4)
    assert torch.equal(tokenizer.quantize.flatten(made.maps), logits.argmax(-1))


@torch.no_grad()
@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_the_latent_is_what_the_chosen_codes_give_and_the_expected_choice_is_hccs_estimate(case, guidance):
    tokenizer, lr, _, _ = case
    net, pyramid = small.transformer(), tokenizer.quantize
    drawn = net.generate(lr, pyramid, net.structure(lr), top_k=0, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.cumulative, pyramid.accumulate(drawn.maps))
    seen = []
    handle = net.head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    made = net.generate(lr, pyramid, net.structure(lr), guidance, choice="expected", temperature=0.5)
    handle.remove()
    f_hat = pyramid.empty(len(lr))
    for k, (logits, side) in enumerate(zip(seen, net.schedule.sides, strict=True)):
        if guidance:
            logits = guide(*logits.chunk(2), guidance, k, net.schedule.last)
        codes = ((logits / 0.5).softmax(-1) @ pyramid.embedding.weight).transpose(1, 2).reshape(len(lr), -1, side, side)
        f_hat = f_hat + pyramid.step(k, codes)
        torch.testing.assert_close(made.cumulative[k], f_hat)
        assert torch.equal(made.maps[k], pyramid.nearest(codes))
    assert not torch.equal(made.f_hat, pyramid.accumulate(made.maps)[-1])


@torch.no_grad()
def test_both_branches_of_guidance_see_the_lr_at_its_place(case):
    tokenizer, lr, encoded, teacher = case
    net = small.transformer(**LOCAL)
    structure = net.structure(lr)
    logits, _ = generated_logits(net, lr, tokenizer.quantize, encoded, structure, guidance=2.0)
    expected = torch.cat([net(lr, teacher, quality, structure).logits for quality in (GOOD, 1 - GOOD)])
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_every_token_is_given_the_mean_of_the_prefix_over_its_place(case):
    """Against a naive loop, for one prefix token that is changed: in training's input, then in generation's."""
    tokenizer, lr, encoded, teacher = case
    net, row, column = small.transformer(**LOCAL), 1, 2
    structure, side, delta = net.structure(lr), net.schedule.latent_side, torch.randn(32)
    shares = []
    for own in net.schedule.sides:
        for y in range(own):
            for x in range(own):
                rows, columns = (range(at * side // own, -(-(at + 1) * side // own)) for at in (y, x))
                shares.append((row in rows and column in columns) / (len(rows) * len(columns)))
    prefix = torch.zeros(side ** 2, 32)
    prefix[row * side + column] = delta
    expected = torch.cat([prefix, torch.tensor(shares)[:, None] * (net.con_local.weight @ delta)])

    def inputs(change: torch.Tensor) -> list[torch.Tensor]:
        seen = []
        handles = [net.con_embedding.register_forward_hook(lambda module, given, made: made + change),
                   net.blocks[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))]
        net(lr, teacher, GOOD, structure)
        net.generate(lr, tokenizer.quantize, structure, forced=encoded.cumulative)
        for handle in handles:
            handle.remove()
        return [seen[0], torch.cat(seen[1:], dim=1)]

    for before, after in zip(inputs(0 * prefix), inputs(prefix), strict=True):
        torch.testing.assert_close(after - before, expected.expand_as(after), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_no_query_sees_a_later_scale(case):
    tokenizer, lr, _, teacher = case
    net = small.transformer(**LOCAL)
    structure = net.structure(lr)
    before = net(lr, teacher, GOOD, structure).logits
    for k in range(1, len(net.schedule)):
        span = net.schedule.spans[k]
        changed = teacher.clone()
        changed[:, span.start - 1:] += 1.0
        after = net(lr, changed, GOOD, structure).logits
        assert torch.equal(after[:, :span.start], before[:, :span.start])
        assert not torch.allclose(after[:, span], before[:, span], atol=1e-3)


@torch.no_grad()
def test_every_query_sees_the_whole_lr_and_its_whole_scale(case):
    _, lr, _, teacher = case
    net = small.transformer(sca="off")
    before = net(lr, teacher, GOOD).logits
    corner = lr.clone()
    corner[..., -1, -1] = 1 - corner[..., -1, -1]
    assert ((net(corner, teacher, GOOD).logits - before).abs().amax(-1) > 1e-6).all()
    changed = teacher.clone()
    changed[:, -1] += 1.0  # the last token of the last scale
    moved = (net(lr, changed, GOOD).logits - before).abs().amax((0, 2)) > 1e-7
    assert moved[-16:].all() and not moved[:-16].any()


def test_block_causal_attention_equals_a_masked_one():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 10, 8).unbind()
    ends = (3, 4, 10)
    level = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 2, 2])
    seen = level[:, None] >= level[None]
    weights = (q @ k.transpose(-1, -2)).masked_fill(~seen, -torch.inf).softmax(-1)
    torch.testing.assert_close(attend_block_causal(q, k, v, ends, scale=1.0), weights @ v)


def test_gradients_of_block_causal_attention_equal_a_masked_ones():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 10, 8, dtype=torch.float64).requires_grad_().unbind()
    ends, level = (3, 4, 10), torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 2, 2])
    masked = (q @ k.transpose(-1, -2)).masked_fill(level[:, None] < level[None], -torch.inf).softmax(-1) @ v
    slope = torch.randn_like(masked)
    expected = torch.autograd.grad(masked, (q, k, v), slope)
    ours = attend_block_causal(q, k, v, ends, scale=1.0)
    torch.testing.assert_close(torch.autograd.grad(ours, (q, k, v), slope), expected)


def test_rotation_is_the_complex_product_on_aligned_positions():
    table = rope_table((4, 2), 8)
    x = torch.randn(1, 1, 20, 8)
    turned = torch.view_as_complex(rotate(x, table).unflatten(-1, (-1, 2)))
    frequency = 10000.0 ** (-4 * torch.arange(2) / 8)
    rows = torch.tensor([r for r in range(4) for _ in range(4)] + [0, 0, 2, 2]).float()
    columns = torch.tensor([c for _ in range(4) for c in range(4)] + [0, 2, 0, 2]).float()
    angle = torch.cat([rows[:, None] * frequency, columns[:, None] * frequency], 1)
    expected = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angle), angle)
    torch.testing.assert_close(turned, expected)


def test_sca_off_equals_a_gate_of_zero_and_the_gate_changes_the_logits(case):
    _, lr, _, teacher = case
    gated, off = small.transformer(sca="laplacian"), small.transformer(sca="off")
    off.load_state_dict({name: value for name, value in gated.state_dict().items() if "mask_generator" not in name})
    structure = gated.structure(lr)
    with torch.no_grad():
        plain, opened = off(lr, teacher, GOOD), gated(lr, teacher, GOOD, structure)
        gated.mask_generator.fc2.weight.zero_()
        gated.mask_generator.fc2.bias.fill_(-torch.inf)  # m = 0
        closed = gated(lr, teacher, GOOD, structure)
    assert plain.masks is None and not any("mask_generator" in name for name, _ in off.named_parameters())
    assert torch.equal(closed.logits, plain.logits) and closed.masks.abs().max() == 0
    assert opened.masks.shape == (2, 30, 1) and (opened.logits - plain.logits).abs().max() > 1e-2


@torch.no_grad()
def test_random_guidance_differs_from_laplacian_and_repeats_with_its_seed():
    _, lr = small.pictures(seed=5)
    laplacian, noisy = small.transformer(sca="laplacian"), small.transformer(sca="random")
    one, two, three = (noisy.structure(lr, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, three)
    assert not torch.equal(one, laplacian.structure(lr)) and small.transformer(sca="off").structure(lr) is None


@torch.no_grad()
def test_a_flat_lr_gives_no_nan(case):
    tokenizer, _, _, teacher = case
    net = small.transformer()
    flat = torch.full((2, 3, 4, 4), 0.5)
    structure = net.structure(flat)
    assert structure.abs().max() == 0
    assert net(flat, teacher, GOOD, structure).logits.isfinite().all()
    assert net.generate(flat, tokenizer.quantize, structure).f_hat.isfinite().all()


@torch.no_grad()
def test_a_head_from_codes_falls_with_the_distance_to_a_code():
    net, other = small.transformer(), small.transformer(seed=1)
    codes, hidden = 0.3 * torch.randn(24, 4), torch.randn(5, 32)
    for one in (net, other):
        one.start_from_codes(codes, torch.Generator().manual_seed(3))
    assert torch.equal(net.head.weight, other.head.weight) and torch.equal(net.head.bias, other.head.bias)
    other.start_from_codes(codes, torch.Generator().manual_seed(4))
    assert not torch.allclose(net.head.weight, other.head.weight, atol=1e-2)
    # What the head takes for a place among the codes: found from its weights, and a turn but for its size.
    spread = codes.std()
    turn = torch.linalg.lstsq(codes, net.head.weight).solution * 4 * spread
    torch.testing.assert_close(turn @ turn.T, torch.eye(4), atol=1e-4, rtol=0)
    squared = torch.cdist(spread * hidden @ turn.T, codes).square() / spread ** 2
    logits = net.head(hidden)
    torch.testing.assert_close(logits - logits[:, :1], (squared[:, :1] - squared) / 8, atol=1e-4, rtol=1e-4)
    assert torch.equal(net.head(codes @ turn / spread).argmax(1), torch.arange(24))


@pytest.mark.parametrize("changes", [{}, LOCAL])
def test_every_parameter_gets_a_gradient(case, changes):
    _, lr, _, teacher = case
    net = small.transformer(**changes).train()
    logits = net(lr, teacher, torch.tensor([0, 1]), net.structure(lr)).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.arange(60) % 24).backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_checkpointing_changes_no_gradient_and_computes_blocks_again(case, drop_path):
    _, lr, _, teacher = case
    net, calls = small.transformer(drop_path=drop_path).train(), []
    net.blocks[1].ffn.register_forward_hook(lambda *_: calls.append(1))

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(4)
        logits = net(lr, teacher, GOOD, net.structure(lr)).logits
        return torch.autograd.grad(logits.square().mean(), list(net.parameters()))

    kept, once = gradients(), len(calls)
    net.checkpointing = True
    assert all(map(torch.equal, gradients(), kept)) and len(calls) == 3 * once
    net.eval()(lr, teacher, GOOD, net.structure(lr))
    assert len(calls) == 4 * once  # nothing to compute again where nothing is trained


def test_yaml_off_is_off():
    assert small.transformer(sca=False).sca == "off"


def test_guidance_runs_two_branches_and_none_at_zero(case):
    tokenizer, lr, _, _ = case
    net = small.transformer()
    structure = net.structure(lr)
    calls = []
    handle = net.blocks[0].register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0].shape[0]))
    plain = net.generate(lr, tokenizer.quantize, structure)
    assert set(calls) == {2}  # guidance 0: the good branch alone
    guided = net.generate(lr, tokenizer.quantize, structure, guidance=6.0)
    handle.remove()
    assert set(calls[4:]) == {4}
    assert any(not torch.equal(a, b) for a, b in zip(plain.maps, guided.maps, strict=True))
    assert torch.equal(plain.maps[0], guided.maps[0])  # t = 0 at the coarsest scale


def test_sampling_repeats_with_its_seed_and_varies_without(case):
    tokenizer, lr, _, _ = case
    net = small.transformer()
    structure = net.structure(lr)

    def sample(seed, **how):
        made = net.generate(lr, tokenizer.quantize, structure, generator=torch.Generator().manual_seed(seed), **how)
        return tokenizer.quantize.flatten(made.maps)

    assert torch.equal(sample(1, top_k=0, top_p=0.9), sample(1, top_k=0, top_p=0.9))
    assert not torch.equal(sample(1, top_k=0), sample(2, top_k=0))
    assert torch.equal(sample(1), sample(2))  # greedy draws nothing


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="30 / 4"):
        AlignVAR(embed_dim=30, num_heads=4)
    with pytest.raises(ValueError, match="laplacian, random or off"):
        AlignVAR(sca="laplace")
