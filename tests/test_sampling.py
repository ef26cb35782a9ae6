"""Sampling and guidance as pure functions."""
import torch

from alignvar_arch.archs.transformer.sampling import choose, expect, guide

LOGITS = torch.log(torch.tensor([[[0.5, 0.3, 0.15, 0.05]]]))


def draws(**how) -> set[int]:
    generator = torch.Generator().manual_seed(0)
    return set(choose(LOGITS.expand(1, 2000, 4), generator=generator, **how).flatten().tolist())


def test_top_k_and_top_p_keep_the_likeliest():
    assert draws(top_k=0) == {0, 1, 2, 3}
    assert draws(top_k=2) == {0, 1}
    assert draws(top_k=0, top_p=0.79) == {0, 1}
    assert draws(top_k=0, top_p=0.81) == {0, 1, 2}
    assert draws(top_k=0, top_p=0.01) == {0}
    assert choose(LOGITS).item() == 0


def test_frequencies_are_the_probabilities_and_temperature_sharpens():
    many = LOGITS.expand(1, 20000, 4)
    share = choose(many, top_k=0, generator=torch.Generator().manual_seed(0)).eq(0).float().mean()
    assert abs(share - 0.5) < 0.015
    cold = choose(many, top_k=0, temperature=0.5, generator=torch.Generator().manual_seed(0)).eq(0).float().mean()
    assert abs(cold - 0.25 / (0.25 + 0.09 + 0.0225 + 0.0025)) < 0.015


def test_guidance_grows_with_the_scale():
    good, bad = torch.tensor(2.0), torch.tensor(1.0)
    assert guide(good, bad, 6.0, 0, 9) == 2.0
    assert torch.isclose(guide(good, bad, 6.0, 3, 9), torch.tensor(4.0))
    assert torch.isclose(guide(good, bad, 6.0, 9, 9), torch.tensor(8.0))


def test_the_expected_code_is_the_mean_of_what_may_be_drawn():
    generator = torch.Generator().manual_seed(0)
    logits, codes = torch.randn(2, 7, 24, generator=generator), torch.randn(24, 4, generator=generator)
    for temperature in (1.0, 0.5):
        drawn = choose(logits.repeat(4000, 1, 1), top_k=0, temperature=temperature, generator=generator)
        mean = codes[drawn].view(4000, 2, 7, 4).mean(0)
        torch.testing.assert_close(expect(logits, codes, temperature), mean, atol=0.1, rtol=0)
    torch.testing.assert_close(expect(1e4 * logits, codes), codes[logits.argmax(-1)])
    assert expect(logits, codes.bfloat16()).dtype == torch.bfloat16
