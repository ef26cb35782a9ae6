"""A codebook's name, and keeping it alive in training: how often codes are hit, new places for those that are not."""
import hashlib
from collections.abc import Sequence

import torch
from einops import rearrange

from alignvar_arch.archs.tokenizer.pyramid import ResidualPyramid


def codebook_hash(embedding: torch.Tensor) -> str:
    """Name a codebook by its content, the same in float32 as after storage in float16."""
    return hashlib.sha256(embedding.detach().half().cpu().numpy().tobytes()).hexdigest()[:16]


@torch.no_grad()
def count_hits(pyramid: ResidualPyramid, maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return how often token maps (B, s, s) name each code, (K, V)."""
    # Not bincount, which waits for the GPU to learn the largest index.
    return torch.stack([torch.zeros(pyramid.codebook_size, device=indices.device).index_add_(
        0, indices.flatten(), torch.ones(indices.numel(), device=indices.device)) for indices in maps])


@torch.no_grad()
def fold_hits(pyramid: ResidualPyramid, hits: torch.Tensor, momentum: float = 0.99) -> torch.Tensor:
    """Fold one whole batch's hits (K, V) into the pyramid's running ones, and return those of every rank's batch.

    Data-parallel ranks count together, so that they go on agreeing about which codes are dead.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(hits)
    pyramid.ema_vocab_hit_SV.lerp_(hits, 1 - momentum)
    return hits


@torch.no_grad()
def revive(pyramid: ResidualPyramid, latent: torch.Tensor, least: float = 0.05) -> int:
    """Move codes hit less than ``least`` times a batch, over all scales, onto what the codebook should describe.

    Scale after scale gets its share of the dead codes, placed on what the scales before it, already revived, leave of
    the latents (B, C, S, S). The draw is the first rank's for every rank. Returns how many codes moved.
    """
    dead = (pyramid.ema_vocab_hit_SV.sum(0) < least).nonzero().flatten()
    if len(dead) == 0:
        return 0
    lengths = torch.tensor(pyramid.schedule.lengths, dtype=torch.double).sqrt()
    shares = dead[torch.randperm(len(dead), device=dead.device)].tensor_split(
        (len(dead) * lengths.cumsum(0) / lengths.sum()).round().long()[:-1])
    rest = latent.detach().float()
    for k, share in enumerate(shares):
        reduced = pyramid.reduce(k, rest)
        wanted = rearrange(reduced, "b c h w -> (b h w) c")
        places = wanted[torch.randint(len(wanted), (len(share),), device=wanted.device)]
        pyramid.embedding.weight[share] = places.to(pyramid.embedding.weight.dtype)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.broadcast(pyramid.embedding.weight, 0)
        rest = rest - pyramid.step(k, pyramid.lookup(pyramid.nearest(reduced)))
    # A moved code starts a little above the threshold: it has some dozens of batches to be hit.
    pyramid.ema_vocab_hit_SV[:, dead] = 2 * least / len(pyramid.schedule)
    return len(dead)
