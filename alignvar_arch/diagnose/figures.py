"""The figures of one picture, and their means over pictures. ``guide.py`` says what each of them is."""
from dataclasses import dataclass

import torch

from alignvar_arch.archs.alignvar_arch import Generation
from alignvar_arch.archs.tokenizer_arch import AlignVARTokenizer, bicubic
from alignvar_arch.archs.transformer.structure import laplacian_map
from alignvar_arch.diagnose import attention, latents, planting
from alignvar_arch.diagnose.subjects import Subject
from alignvar_arch.diagnose.tiles import Tile

TOKENS = "GT tokens"  # the label of what the tokenizer makes of the ground truth


@dataclass(frozen=True)
class Drawn:
    """What the picture sheets show of one tile; all pictures RGB in [0, 1], labels are subjects' and ``TOKENS``.

    Attributes:
        gt: (3, H, W).
        bicubic: of the LR, (3, H, W).
        laplacian: |Laplacian| of the LR's luma, (h, w).
        made: label → the picture after each scale, (K, 3, H, W).
        masks: label → SCA's m of each scale over the generated history, (s, s); only subjects that have masks.
    """

    gt: torch.Tensor
    bicubic: torch.Tensor
    laplacian: torch.Tensor
    made: dict[str, torch.Tensor]
    masks: dict[str, list[torch.Tensor]]


def measure(tile: Tile, tokenizer: AlignVARTokenizer, subjects: list[Subject], percent: float,
            border: int) -> tuple[dict, Drawn]:
    """Run every subject on one tile and return its figures, kind → label → values, and its pictures.

    Args:
        tile: the picture.
        tokenizer: of all subjects.
        subjects: what is diagnosed.
        percent: share of tokens that are exchanged at a planted scale.
        border: pixels that PSNR leaves out at each edge.
    """
    pyramid, count = tokenizer.quantize, len(tokenizer.schedule)
    device = pyramid.embedding.weight.device
    lr, gt = tile.lr.to(device), tile.gt.to(device)
    with torch.no_grad():
        truth = tokenizer.encode(tokenizer.to_target(gt, lr))
    enlarged = bicubic(lr, gt.shape[-2:]).clamp(0, 1)
    made = {subject.label: subject.sample(lr) for subject in subjects}
    cumulative = {TOKENS: truth.cumulative,
                  **{label: generation.cumulative for label, generation in made.items()}}
    drawn = Drawn(gt[0], enlarged[0], laplacian_map(lr)[0, 0],
                  {label: latents.pictures(tokenizer, f_hats, lr) for label, f_hats in cumulative.items()}, {})
    latent, nothing = [truth.latent] * count, [pyramid.empty(1)] * count
    figures = {
        "psnr": {"bicubic": latents.psnr(enlarged, gt, border)[0],
                 **{label: latents.psnr(pictures, gt, border) for label, pictures in drawn.made.items()}},
        "to_latent": {label: latents.errors(pyramid, f_hats, latent)
                      for label, f_hats in {"nothing": nothing, **cumulative}.items()},
        "to_tokens": {subject.label: latents.errors(pyramid, cumulative[subject.label], truth.cumulative)
                      for subject in subjects},
        "attention": {subject.label: attention.measure(subject, lr, truth.cumulative) for subject in subjects},
        "masks": {},
        "planting": {subject.label: _plant(subject, lr, made[subject.label], percent) for subject in subjects},
    }
    for subject in subjects:
        masks = subject.predict(lr, cumulative[subject.label]).masks
        if masks is not None:
            drawn.masks[subject.label] = maps = [mask[0] for mask in pyramid.unflatten(masks[..., 0])]
            figures["masks"][subject.label] = {"mean": [mask.mean().item() for mask in maps],
                                               "spread": [mask.std(correction=0).item() for mask in maps]}
    return figures, drawn


def _plant(subject: Subject, lr: torch.Tensor, clean: Generation,
           percent: float) -> dict[int, dict[str, list[float]]]:
    """Return ``planting.travel`` by the scale that was planted."""
    nearest = planting.neighbours(subject.pyramid.embedding.weight)
    return {k: planting.travel(subject, lr, clean, k, percent, nearest)
            for k in planting.planted_scales(len(subject.pyramid.schedule))}


def mean(figures: list):
    """Return the means, entry by entry, of nested figures of one form."""
    first = figures[0]
    if isinstance(first, dict):
        return {key: mean([entry[key] for entry in figures]) for key in first}
    if isinstance(first, list):
        return [mean(list(column)) for column in zip(*figures, strict=True)]
    return sum(figures) / len(figures)


def completed(figures: dict) -> dict:
    """Return figures with the ratios of planted errors, which are ratios of means where the figures are means."""
    planted = {label: {k: planting.relative(entry) for k, entry in scales.items()}
               for label, scales in figures["planting"].items()}
    return {**figures, "planting": planted}
