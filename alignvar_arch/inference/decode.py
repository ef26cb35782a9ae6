"""Decoding large latents tile by tile, exactly: what concerns the whole picture is computed on the whole picture.

Two things in VAR's decoder look at all of a picture: attention, at the latent's resolution, and GroupNorm's statistics,
everywhere. The latent's resolution is small and runs whole. Above it a pass over the tiles gathers a norm's statistics
before another one uses them; tiles carry as much of their surroundings as the convolutions see. After each block its
map is stored whole, or, where it is too large, computed again from the last stored one in every pass that follows.
A residual tokenizer's decoder has neither: a tile of it needs its surroundings and nothing else.
"""
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from alignvar_arch.archs.layers.conv import ResidualBlock, Upsample
from alignvar_arch.archs.tokenizer.autoencoder import Decoder
from alignvar_arch.archs.tokenizer.guided import SCALE
from alignvar_arch.archs.tokenizer_arch import AlignVARTokenizer

Affine = tuple[torch.Tensor, torch.Tensor]  # a norm of known statistics: x·gain + shift, (B, C, 1, 1) each


class Statistics:
    """Mean and variance of a norm's groups, from parts of its input that arrive one by one."""

    def __init__(self, norm: nn.GroupNorm):
        self.norm = norm
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, x: torch.Tensor) -> None:
        """Take in a part (B, C, h, w)."""
        grouped = x.float().reshape(len(x), self.norm.num_groups, -1)
        variance, mean = (value.double() for value in torch.var_mean(grouped, dim=-1, correction=0))
        count, before = grouped.shape[-1], self.count
        self.count += count
        apart = mean - self.mean
        # Squared deviations of two parts add up to less than the whole's: their means differ (Chan et al.).
        self.squares = self.squares + variance * count + apart.square() * (before * count / self.count)
        self.mean = self.mean + apart * (count / self.count)

    def affine(self) -> Affine:
        """Return what the norm does with these statistics."""
        norm, each = self.norm, self.norm.num_channels // self.norm.num_groups
        deviation = (self.squares / self.count + norm.eps).sqrt()
        gain = norm.weight.double() / deviation.repeat_interleave(each, dim=1)
        shift = norm.bias.double() - self.mean.repeat_interleave(each, dim=1) * gain
        return gain.float()[..., None, None], shift.float()[..., None, None]


@torch.no_grad()
def decode_tiled(tokenizer: AlignVARTokenizer, f_hat: torch.Tensor, lr: torch.Tensor | None, tile: int,
                 keep: int | None = None) -> torch.Tensor:
    """Return ``tokenizer.decode(f_hat, lr)``, equal up to rounding, with less memory.

    Args:
        tokenizer: in eval mode.
        f_hat: (B, C, h, w), any size.
        lr: as for ``decode``.
        tile: side of a tile in latent pixels, ≥ 1.
        keep: most bytes of a stored map, which only the image target's decoder has. None stores all, and computes about
            half as much again as whole decoding; without the maps of the finest level it is about three times as much.

    Returns:
        (B, 3, h · factor, w · factor).
    """
    if tokenizer.target == "residual":
        return _decode_guided(tokenizer, f_hat, lr, tile)
    decoder = tokenizer.decoder
    # Channels-last, as the decoder works: so attention finds its channels side by side, and makes no map of all pairs.
    z = tokenizer.post_quant_conv(f_hat).to(memory_format=torch.channels_last)
    stored, side = _latent_level(decoder, z), tile
    pending, known = [], {}
    for part in _parts(decoder):
        pending.append(part)
        for norm in _norms(part):
            statistics = Statistics(norm)
            for _, _, x in _passes(stored, side, pending, known):
                statistics.add(x)
            known[norm] = statistics.affine()
        if isinstance(part, ResidualBlock):
            width, growth = part.conv2.out_channels, _growth(pending)
            size = width * growth ** 2 * stored[:, 0].numel() * stored.element_size()
            if keep is None or size <= keep:
                stored = _assemble(stored, side, pending, known, width)
                side, pending, known = side * growth, [], {}
    return _assemble(stored, side, pending, known, 3).clamp_(-1, 1)


def _decode_guided(tokenizer: AlignVARTokenizer, f_hat: torch.Tensor, lr: torch.Tensor, tile: int) -> torch.Tensor:
    factor, halo = tokenizer.factor, tokenizer.decoder.reach + 1  # and what post_quant_conv sees
    made = f_hat.new_empty(len(f_hat), 3, *(side * factor for side in f_hat.shape[-2:]), dtype=torch.float32)
    for top in range(0, f_hat.shape[-2], tile):
        for left in range(0, f_hat.shape[-1], tile):
            # At the picture's own edges the convolutions pad with zeros, as they do on the whole.
            above, before = max(top - halo, 0), max(left - halo, 0)
            spans = slice(above, top + tile + halo), slice(before, left + tile + halo)
            fine = [slice(span.start * factor // SCALE, span.stop * factor // SCALE) for span in spans]
            part = tokenizer.decode(f_hat[(..., *spans)], lr[(..., *fine)])
            area = made[..., top * factor:(top + tile) * factor, left * factor:(left + tile) * factor]
            y, x = (top - above) * factor, (left - before) * factor
            area.copy_(part[..., y:y + area.shape[-2], x:x + area.shape[-1]])
    return made


def _latent_level(decoder: Decoder, z: torch.Tensor) -> torch.Tensor:
    """Run what stands at the latent's resolution, with all attention, on the whole picture."""
    x = decoder.conv_in(z)
    for part in decoder.mid.values():
        x = part(x)
    for block, attention in zip(decoder.up[-1]["block"], decoder.up[-1]["attn"], strict=True):
        x = attention(block(x))
    return x


def _parts(decoder: Decoder) -> list[nn.Module]:
    """Return what follows, in order; SiLU belongs to each norm."""
    parts = []
    for finer, coarser in reversed(list(zip(decoder.up[:-1], decoder.up[1:], strict=True))):
        parts += [coarser["upsample"], *finer["block"]]
    return [*parts, decoder.norm_out, decoder.conv_out]


def _norms(part: nn.Module) -> list[nn.GroupNorm]:
    if isinstance(part, ResidualBlock):
        return [part.norm1, part.norm2]
    return [part] if isinstance(part, nn.GroupNorm) else []


def _activate(x: torch.Tensor, affine: Affine) -> torch.Tensor:
    gain, shift = affine
    return F.silu((x * gain + shift).to(x.dtype), inplace=True)


def _evaluate(parts: Sequence[nn.Module], x: torch.Tensor, known: dict[nn.GroupNorm, Affine]) -> torch.Tensor:
    """Run the parts up to the first norm whose statistics are not known, and return what it is given."""
    for part in parts:
        if isinstance(part, ResidualBlock):
            if part.norm1 not in known:
                return x
            h = part.conv1(_activate(x, known[part.norm1]))
            if part.norm2 not in known:
                return h
            x = part.nin_shortcut(x) + part.conv2(_activate(h, known[part.norm2]))
        elif isinstance(part, nn.GroupNorm):
            if part not in known:
                return x
            x = _activate(x, known[part])
        else:
            x = part(x)
    return x


def _growth(parts: Sequence[nn.Module]) -> int:
    return 2 ** sum(isinstance(part, Upsample) for part in parts)


def _halo(parts: Sequence[nn.Module]) -> int:
    """Return how far the parts' 3×3 convolutions see, in pixels of their input."""
    reach = 0
    for part in reversed(parts):
        if isinstance(part, ResidualBlock):
            reach += 2
        elif isinstance(part, nn.Conv2d):
            reach += 1
        elif isinstance(part, Upsample):
            reach = -(-(reach + 1) // 2)
    return reach


def _passes(stored: torch.Tensor, side: int, parts: Sequence[nn.Module],
            known: dict[nn.GroupNorm, Affine]) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Yield rows, columns and content of the tiles of what ``_evaluate`` makes of a stored map (B, C, h, w)."""
    growth, halo = _growth(parts), _halo(parts)
    height, width = stored.shape[-2:]
    for top in range(0, height, side):
        for left in range(0, width, side):
            bottom, right = min(top + side, height), min(left + side, width)
            # At the picture's own edges the convolutions pad with zeros, as they do on the whole.
            above, before = max(top - halo, 0), max(left - halo, 0)
            x = _evaluate(parts, stored[..., above:bottom + halo, before:right + halo], known)
            rows, columns = slice(top * growth, bottom * growth), slice(left * growth, right * growth)
            yield rows, columns, x[..., rows.start - above * growth:rows.stop - above * growth,
                                   columns.start - before * growth:columns.stop - before * growth]


def _assemble(stored: torch.Tensor, side: int, parts: Sequence[nn.Module], known: dict[nn.GroupNorm, Affine],
              channels: int) -> torch.Tensor:
    """Return the whole map that the parts make of a stored one."""
    growth = _growth(parts)
    made = stored.new_empty(len(stored), stored.shape[-2] * growth, stored.shape[-1] * growth, channels)
    made = made.permute(0, 3, 1, 2)
    for rows, columns, x in _passes(stored, side, parts, known):
        made[..., rows, columns] = x
    return made
