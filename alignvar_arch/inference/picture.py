"""The way from an LR of any size to its picture: tiles → latents → blended → decoded → colours."""
from collections.abc import Callable

import torch

from alignvar_arch.archs.alignvar_arch import AlignVAR
from alignvar_arch.archs.tokenizer_arch import AlignVARTokenizer
from alignvar_arch.inference.colour import fix_colour
from alignvar_arch.inference.compiled import Compiled
from alignvar_arch.inference.decode import decode_tiled
from alignvar_arch.inference.tiles import Place, Tiling, blended, pad

GOLDEN = 0x9E3779B1  # odd, so that the seeds of tiles differ in the 32 bits that a generator on the CPU reads


def seeds(seed: int, places: list[Place]) -> list[int]:
    """Return a seed for each tile, the same in whatever batch it is; the first tile's is ``seed`` itself."""
    return [(seed + place.index * GOLDEN) % 2 ** 63 for place in places]


def structure(net: AlignVAR, lr: torch.Tensor, tile_seeds: list[int]) -> torch.Tensor | None:
    """Return SCA's structure of tiles (b, 3, t, t); noise, where ``net`` uses it, comes from each tile's seed."""
    if net.sca != "random":
        return net.structure(lr)
    return torch.cat([net.structure(tile[None], torch.Generator().manual_seed(seed))
                      for tile, seed in zip(lr, tile_seeds, strict=True)])


@torch.no_grad()
def upscale_latent(net: AlignVAR, tokenizer: AlignVARTokenizer, lr: torch.Tensor, *, tiling: Tiling, scale: int = 4,
                   guidance: float = 0.0, top_k: int = 1, top_p: float = 1.0, temperature: float = 1.0,
                   choice: str = "sample", seed: int = 0, progress: Callable[[int], object] | None = None,
                   compiled: Compiled | None = None) -> torch.Tensor:
    """Predict the latent of pictures of any size: tile by tile, blended after the last scale.

    Args:
        net, tokenizer: networks that belong together, in eval mode.
        lr: (B, 3, h, w) in [0, 1], float32, on their device; the networks may be of other dtypes.
        tiling: ``Tiling.of(tokenizer, scale, …)``.
        scale: the picture's size over the LR's.
        guidance, top_k, top_p, temperature, choice: as for ``AlignVAR.generate``.
        seed: of the sampling, ≥ 0; each tile draws its own numbers, so that the batch does not matter.
        progress: called with the number of tiles after each batch.
        compiled: runs the steps, if given. All batches are then of one size, the last one filled up with copies of its
            last tile: another size would be compiled anew.

    Returns:
        The latent (B, C, H, W) of the padded picture, H = tiling.padded(h) · scale / factor.
    """
    dtype = net.pos_start.dtype

    def run(places: list[Place], tiles: torch.Tensor) -> torch.Tensor:
        count = len(places)
        if compiled is not None:
            fill = tiling.batch - count
            places, tiles = places + places[-1:] * fill, torch.cat([tiles, *[tiles[-1:]] * fill])
        own = seeds(seed, places)
        draw = [torch.Generator(lr.device).manual_seed(number) for number in own]
        made = net.generate(tiles.to(dtype), tokenizer.quantize, structure(net, tiles, own), guidance=guidance,
                            top_k=top_k, top_p=top_p, temperature=temperature, generator=draw, steps=compiled,
                            choice=choice)
        if progress is not None:
            progress(count)
        return made.f_hat[:count]

    return blended(run, lr, tiling=tiling, scale=scale)


def picture(net: AlignVAR, tokenizer: AlignVARTokenizer, lr: torch.Tensor, *, scale: int = 4, guidance: float = 0.0,
            top_k: int = 1, top_p: float = 1.0, temperature: float = 1.0, choice: str = "sample", seed: int = 0,
            overlap: int | None = None, batch: int = 8, decode_tile: int | None = None, keep: int | None = None,
            colour: str = "off", progress: Callable[[int], object] | None = None) -> torch.Tensor:
    """Return the pictures (B, 3, h·scale, w·scale) in [0, 1], float32, of LRs (B, 3, h, w) of any size from 1×1.

    Args:
        net, tokenizer, lr, scale, guidance, top_k, top_p, temperature, choice, seed, progress: as for
            ``upscale_latent``.
        overlap: least overlap of neighbouring tiles in LR pixels; a quarter of a tile by default.
        batch: most tiles at once, ≥ 1.
        decode_tile: side of the tiles of decoding in latent pixels; None decodes the whole picture at once, as does a
            tile of its size.
        keep: as for ``decode_tiled``.
        colour: as ``how`` of ``fix_colour``.

    Raises:
        ValueError: an overlap of a tile or more, an unknown colour fix.
    """
    f_hat = upscale_latent(net, tokenizer, lr, tiling=Tiling.of(tokenizer, scale, overlap, batch), scale=scale,
                           guidance=guidance, top_k=top_k, top_p=top_p, temperature=temperature, choice=choice,
                           seed=seed, progress=progress)
    made = decode(tokenizer, f_hat, lr, scale=scale, tile=decode_tile, keep=keep)
    return fix_colour(made, lr, colour).clamp_(0, 1)


@torch.no_grad()
def reconstruction(tokenizer: AlignVARTokenizer, gt: torch.Tensor, lr: torch.Tensor, *, scale: int = 4,
                   overlap: int | None = None, batch: int = 8, decode_tile: int | None = None) -> torch.Tensor:
    """Return what the tokenizer keeps of GT (B, 3, h·scale, w·scale), by the same way; arguments as for ``picture``."""
    def run(places: list[Place], lr: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
        return tokenizer.encode(tokenizer.to_target(gt, lr)).cumulative[-1]

    f_hat = blended(run, lr, gt, tiling=Tiling.of(tokenizer, scale, overlap, batch), scale=scale)
    return decode(tokenizer, f_hat, lr, scale=scale, tile=decode_tile).clamp(0, 1)


@torch.no_grad()
def decode(tokenizer: AlignVARTokenizer, f_hat: torch.Tensor, lr: torch.Tensor, *, scale: int = 4,
           tile: int | None = None, keep: int | None = None, compiled: Compiled | None = None) -> torch.Tensor:
    """Return the picture (B, 3, h·scale, w·scale), float32, not clamped, of the latent of an LR (B, 3, h, w).

    What the LR was padded by is cut off. ``tile`` and ``keep`` are ``picture``'s ``decode_tile`` and ``keep``;
    ``compiled`` decodes what is decoded whole, if given.
    """
    f_hat = f_hat.to(tokenizer.post_quant_conv.weight.dtype)
    padded = pad(lr, *(side * tokenizer.factor // scale for side in f_hat.shape[-2:]))
    if tile is None or tile >= max(f_hat.shape[-2:]):
        decoded = (compiled or tokenizer).decode(f_hat, padded)
    else:
        decoded = decode_tiled(tokenizer, f_hat, padded, tile, keep)
    height, width = lr.shape[-2] * scale, lr.shape[-1] * scale
    return tokenizer.to_image(decoded[..., :height, :width].float(), lr, own=True)
