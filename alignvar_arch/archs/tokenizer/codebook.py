"""Keeping a codebook alive in training: how often codes are hit, and new places for those that are not."""
from collections.abc import Sequence

import torch
from einops import rearrange

from alignvar_arch.archs.tokenizer.pyramid import ResidualPyramid


@torch.no_grad()
def count_hits(pyramid: ResidualPyramid, maps: Sequence[torch.Tensor], momentum: float = 0.99) -> torch.Tensor:
    """Fold one batch's token maps (B, s, s) into the pyramid's running hits, and return the batch's own, (K, V).

    Data-parallel ranks count together, so that they go on agreeing about which codes are dead.
    """
    hits = torch.stack([torch.bincount(indices.flatten(), minlength=pyramid.codebook_size) for indices in maps]).float()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(hits)
    pyramid.ema_vocab_hit_SV.lerp_(hits, 1 - momentum)
    return hits


@torch.no_grad()
def revive(pyramid: ResidualPyramid, latent: torch.Tensor, least: float = 0.05) -> int:
    """Move codes hit less than ``least`` times a batch, over all scales, onto what the codebook should describe.

    The new places are drawn from the residuals that the latents (B, C, S, S) leave at all scales, the same draw for
    every rank. Returns how many codes moved.
    """
    dead = (pyramid.ema_vocab_hit_SV.sum(0) < least).nonzero().flatten()
    if len(dead) == 0:
        return 0
    rest, wanted = latent.detach().float(), []
    for k in range(len(pyramid.schedule)):
        reduced = pyramid.reduce(k, rest)
        wanted.append(rearrange(reduced, "b c h w -> (b h w) c"))
        rest = rest - pyramid.step(k, pyramid.lookup(pyramid.nearest(reduced)))
    wanted = torch.cat(wanted)
    places = wanted[torch.randint(len(wanted), (len(dead),), device=wanted.device)]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast(places, 0)
    pyramid.embedding.weight[dead] = places.to(pyramid.embedding.weight.dtype)
    # A moved code starts a little above the threshold: it has some dozens of batches to be hit.
    pyramid.ema_vocab_hit_SV[:, dead] = 2 * least / len(pyramid.schedule)
    return len(dead)
