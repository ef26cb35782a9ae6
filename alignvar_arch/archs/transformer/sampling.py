"""From logits to tokens or expected codes: pure functions with an explicit generator."""
from collections.abc import Sequence

import torch

CHOICES = ("sample", "expected")


def guide(good: torch.Tensor, bad: torch.Tensor, guidance: float, k: int, last: int) -> torch.Tensor:
    """Return (1 + t)·good − t·bad with t = guidance·k/last: guidance grows from coarse (k = 0) to fine (k = last)."""
    t = guidance * k / last
    return (1 + t) * good - t * bad


def choose(logits: torch.Tensor, top_k: int = 1, top_p: float = 1.0, temperature: float = 1.0,
           generator: torch.Generator | Sequence[torch.Generator] | None = None) -> torch.Tensor:
    """Choose a token for each row of logits (B, N, V) → int64 (B, N).

    Args:
        logits: unnormalised.
        top_k: 1 is greedy (argmax, nothing drawn); 0 keeps all codes; n keeps the n most likely.
        top_p: keeps the most likely codes whose probabilities together reach it, in (0, 1]; 1 keeps all.
        temperature: divides the logits before everything else, > 0.
        generator: the source of randomness, on the logits' device; or one for each of the B, so that what is drawn
            does not depend on the batch.
    """
    if top_k == 1:
        return logits.argmax(-1)
    logits = logits.float() / temperature
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k, dim=-1).values[..., -1:], -torch.inf)
    probabilities = logits.softmax(-1)
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        ordered = ordered.masked_fill(before >= top_p, 0.0)
        probabilities = torch.zeros_like(ordered).scatter(-1, order, ordered)
    if isinstance(generator, Sequence):
        return torch.stack([torch.multinomial(rows, 1, generator=own).flatten()
                            for rows, own in zip(probabilities, generator, strict=True)])
    return torch.multinomial(probabilities.flatten(0, 1), 1, generator=generator).view(logits.shape[:2])


def expect(logits: torch.Tensor, codes: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return the expected code of each row, Σ_v softmax(logits / temperature)(v)·e_v.

    Ours: HCC's estimate r̂ (paper, "HCC"), taken as it is. It errs least in the latent: where the LR leaves much open it
    says little, while the likeliest code says one thing with confidence.

    Args:
        logits: (B, N, V), unnormalised.
        codes: e, the codebook (V, C).
        temperature: divides the logits, > 0.

    Returns:
        (B, N, C), of the codebook's dtype.
    """
    return ((logits.float() / temperature).softmax(-1) @ codes.float()).to(codes.dtype)
