"""How an error travels: tokens of one scale become their neighbours in the codebook, and later scales go on from there.

With the expected choice tokens are those nearest to the codes, which keep their distance from them.
"""
import torch

from alignvar_arch.archs.alignvar_arch import Generation
from alignvar_arch.diagnose.subjects import Subject

PLANTED_SCALES = 4


def planted_scales(count: int) -> list[int]:
    """Return at which of ``count`` scales errors are planted: up to four, evenly from the first to the last but one."""
    return sorted({round(i * (count - 2) / (PLANTED_SCALES - 1)) for i in range(PLANTED_SCALES)})


def neighbours(codebook: torch.Tensor) -> torch.Tensor:
    """Return for each code (V, C) the nearest one that differs from it, int64 (V,), by Euclidean distance in fp32."""
    # Without the matrix product, so that codes that are alike are exactly 0 apart.
    apart = torch.cdist(codebook.float(), codebook.float(), compute_mode="donot_use_mm_for_euclid_dist")
    return apart.masked_fill(apart == 0, torch.inf).argmin(1)


def plant(indices: torch.Tensor, percent: float, nearest: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Exchange ``percent`` % of a token map (1, s, s), at least one token unless 0 %, for their neighbours."""
    flat = indices.flatten().clone()
    count = max(1, round(percent / 100 * len(flat))) if percent > 0 else 0
    places = torch.randperm(len(flat), generator=generator)[:count].to(flat.device)
    flat[places] = nearest[flat[places]]
    return flat.view(indices.shape)


def travel(subject: Subject, lr: torch.Tensor, clean: Generation, k: int, percent: float,
           nearest: torch.Tensor) -> dict[str, list[float]]:
    """Plant at scale ``k`` of a generation, go on with the same random numbers, and compare from scale ``k`` on.

    Returns:
        By scale k … K−1: ``mse``, the mean squared difference of the cumulative latents at full size; ``energy``, the
        mean square of the unplanted one; ``changed``, the share of tokens that differ.
    """
    # The same places for every model.
    pyramid = subject.pyramid
    planted = plant(clean.maps[k], percent, nearest, torch.Generator().manual_seed(k))
    # By the difference that it makes, so that expected codes, which are no tokens, stay what they are elsewhere.
    difference = pyramid.step(k, pyramid.lookup(planted)) - pyramid.step(k, pyramid.lookup(clean.maps[k]))
    made = subject.sample(lr, [*clean.cumulative[:k], clean.cumulative[k] + difference])
    latents = list(zip(clean.cumulative[k:], made.cumulative[k:], strict=True))
    maps = zip(clean.maps[k:], [planted, *made.maps[k + 1:]], strict=True)
    return {"mse": [(a - b).square().mean().item() for a, b in latents],
            "energy": [a.square().mean().item() for a, _ in latents],
            "changed": [(a != b).float().mean().item() for a, b in maps]}


def relative(figures: dict[str, list[float]]) -> dict[str, list[float]]:
    """Add what of the planted error is left: ``carried``, MSE over the MSE at the planted scale, 1 if nothing reacts;
    and ``relative_mse``, MSE over the unplanted latent's energy."""
    mse, energy = figures["mse"], figures["energy"]
    return {**figures, "carried": [_over(value, mse[0]) for value in mse],
            "relative_mse": [_over(value, whole) for value, whole in zip(mse, energy, strict=True)]}


def _over(value: float, whole: float) -> float:
    return value / whole if whole else float("nan")
