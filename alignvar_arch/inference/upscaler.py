"""Upscaler: a picture of any size in, the same picture with more pixels out. This is the package's Python API.

Shapes: B batch, h×w the picture's size, s the scale; C channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
"""
import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage

from alignvar_arch.archs.alignvar_arch import AlignVAR
from alignvar_arch.archs.loading import load
from alignvar_arch.archs.tokenizer.guided import SCALE
from alignvar_arch.archs.tokenizer_arch import AlignVARTokenizer, bicubic
from alignvar_arch.archs.transformer.sampling import CHOICES
from alignvar_arch.checkpoints.recognise import Found, recognise
from alignvar_arch.errors import UserError
from alignvar_arch.inference import memory
from alignvar_arch.inference.colour import COLOURS, fix_colour
from alignvar_arch.inference.compiled import Compiled
from alignvar_arch.inference.pairing import MODEL, tokenizer_of, why_unguided
from alignvar_arch.inference.picture import decode, upscale_latent
from alignvar_arch.inference.tiles import Tiling

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and OpenCV make grey


def _nothing(_: object) -> None:
    """Tells nobody."""


class Upscaler:
    """Upscales pictures with a transformer and its tokenizer.

    The sampling defaults are those of ``options/alignvar_x4_test.yml``, as measured for the model that ships.

    Args:
        net: the transformer, in eval mode; moved to ``device`` in place.
        tokenizer: the tokenizer on whose codes it was trained; likewise.
        scale: sides of the result over sides of the picture.
        device: where to compute.
        guidance: strength of guidance away from bad quality; 0 is none, and half the work.
        choice: expected takes the expected code; sample chooses as the next three say.
        top_k: codes to choose among; 1 is greedy, 0 takes all.
        top_p: the most likely codes whose probabilities reach it, in (0, 1].
        temperature: divides the logits, above 0.
        seed: of the random numbers; a picture comes out the same for the same seed, whatever came before.
        batch: most tiles at once; None takes what fits into memory, at most 8 on a CPU and 64 on a GPU; one tile if
            compiled.
        tile: side in pixels of the pieces that the result is decoded in; None takes what fits into memory.
        colour: off, or how the result gets the picture's colours, wavelet or adain.
        compile: compile steps and decoder at the first picture, which then takes minutes, with as many tiles at once as
            ``batch`` says, always.
        say: is told, in one sentence, where compiling failed and the work went on without.

    Raises:
        UserError: a number out of range, or two networks that do not go together.
    """

    def __init__(self, net: AlignVAR, tokenizer: AlignVARTokenizer, *, scale: int = 4,
                 device: str | torch.device = "cpu", guidance: float = 0.0, choice: str = "expected",
                 top_k: int = 1, top_p: float = 1.0, temperature: float = 1.0, seed: int = 0,
                 batch: int | None = None, tile: int | None = None, colour: str = "off", compile: bool = False,
                 say: Callable[[str], object] = warnings.warn):
        ranges = {"guidance": (guidance, 0, math.inf), "top_k": (top_k, 0, math.inf), "top_p": (top_p, 1e-6, 1),
                  "temperature": (temperature, 1e-6, math.inf), "seed": (seed, 0, 2**63 - 1),
                  "batch": (1 if batch is None else batch, 1, math.inf),
                  "tile": (1 if tile is None else tile, 1, math.inf)}
        for name, (value, low, high) in ranges.items():
            if not low <= value <= high:
                raise UserError(f"{name} is {value}, but must be at least {low}"
                                f"{'' if high == math.inf else f' and at most {high}'}.")
        if choice not in CHOICES:
            raise UserError(f"choice is {choice!r}, but must be one of {', '.join(CHOICES)}.")
        if colour not in COLOURS:
            raise UserError(f"colour is {colour!r}, but must be one of {', '.join(COLOURS)}.")
        for name in ("codebook_size", "latent_dim"):
            if getattr(net, name) != getattr(tokenizer.quantize, name):
                raise UserError(f"the transformer has {name} {getattr(net, name)}, the tokenizer "
                                f"{getattr(tokenizer.quantize, name)}; take two that belong together.")
        if net.schedule != tokenizer.schedule:
            raise UserError(f"the transformer has scales {net.schedule.sides}, the tokenizer has "
                            f"{tokenizer.schedule.sides}; take two that belong together.")
        if tokenizer.target == "residual" and scale != SCALE:
            raise UserError(f"the tokenizer's target is residual, which makes pictures {SCALE} times as large, and the "
                            f"scale is {scale}; take two that belong together.")
        self.device = torch.device(device)
        self.net, self.tokenizer = net.to(self.device), tokenizer.to(self.device)
        self.scale, self.tiling = scale, Tiling.of(tokenizer, scale)
        self.guidance, self.top_k, self.top_p, self.temperature = guidance, top_k, top_p, temperature
        self.choice, self.seed, self.batch, self.colour = choice, seed, batch, colour
        self.tile = None if tile is None else -(-tile // tokenizer.factor)
        self.compiled = Compiled(self.net, self.tokenizer, say) if compile else None
        # Tiles at once; more on a CPU is not faster. Compiled code always does as many, also for one small picture.
        self.most = batch or (1 if compile else 64 if self.device.type == "cuda" else 8)

    @classmethod
    def from_file(cls, path: str | None = None, tokenizer: str | None = None, *, device: str = "auto",
                  precision: str = "fp32", **settings) -> "Upscaler":
        """Loads a model.

        Args:
            path: a transformer, `.safetensors` or `.pth`, of ours or VARSR's; None is the one that ships.
            tokenizer: its tokenizer's file; None is the one that ships, if the transformer was trained on it.
            device: cpu, cuda, cuda:N, or auto, which is cuda where there is a GPU.
            precision: fp32, bf16 or fp16, of weights and computation.
            settings: keyword arguments of the class.

        Raises:
            UserError: a file that cannot be read, is no such network or does not fit the other one; guidance for a
                model that never saw bad quality; a device that is not there.
        """
        found = recognise(path or MODEL, network="AlignVAR")
        if found.kind == "var":
            raise UserError(f"{found.path} holds {found.label}, which makes pictures of its own and upscales none; "
                            "name a transformer that was trained to.")
        if settings.get("guidance") and (problem := why_unguided(found)):
            raise UserError(f"guidance: {problem}; set guidance to 0.")
        if precision not in PRECISIONS:
            raise UserError(f"precision is {precision!r}, but must be one of {', '.join(PRECISIONS)}.")
        dtype = PRECISIONS[precision]
        net = load(found.path, dtype=dtype)
        if not isinstance(net, AlignVAR):
            raise UserError(f"{found.path} holds {found.label} and no transformer; name the file of one.")
        pair = load(tokenizer_of(found, tokenizer), scales=net.schedule.sides)
        pair.decoder.to(dtype)  # the sum of the token maps stays fp32
        pair.post_quant_conv.to(dtype)
        return cls(net, pair, scale=_scale(found), device=_device(device), **settings)

    @torch.no_grad()
    def __call__(self, image: np.ndarray | torch.Tensor,
                 progress: Callable[[int], object] = _nothing,
                 less: Callable[[str], object] = _nothing) -> np.ndarray | torch.Tensor:
        """Upscales a picture.

        Grey stays grey. Alpha is resized beside the colours (bicubic), which do not take on those of fully transparent
        pixels.

        Args:
            image: numpy (h, w) or (h, w, C), uint8 or uint16, in RGB order; or torch (B, C, h, w), floating-point in
                [0, 1], on any device. Any h and w from 1.
            progress: is called with the number of tiles that are done since the last call; negative where they are
                done again.
            less: is called where memory ran out, with words for the less that is tried next.

        Returns:
            What was given, with sides ``scale`` times as long: the same type, dtype, device and channels.

        Raises:
            TypeError: another type or dtype.
            ValueError: another shape, or values out of range.
            UserError: there is not enough memory even for one tile at a time.
        """
        if isinstance(image, torch.Tensor):
            _check_tensor(image)
            return self._upscale(image.to(self.device, torch.float32), progress, less).to(image.device, image.dtype)
        if not isinstance(image, np.ndarray) or image.dtype not in (np.uint8, np.uint16):
            raise TypeError("an image is a numpy array of uint8 or uint16, or a torch tensor, not "
                            f"{getattr(image, 'dtype', type(image).__name__)}")
        if image.ndim not in (2, 3) or image.size == 0 or (image.ndim == 3 and image.shape[2] not in (1, 2, 3, 4)):
            raise ValueError(f"a numpy image is (h, w) or (h, w, C) with C from 1 to 4, not {image.shape}")
        most = np.iinfo(image.dtype).max
        channels_first = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(image).transpose(2, 0, 1), np.float32))
        made = self._upscale(channels_first[None].to(self.device).div_(most), progress, less)[0]
        made = made.mul_(most).round_().cpu().numpy().astype(image.dtype).transpose(1, 2, 0)
        return np.ascontiguousarray(made if image.ndim == 3 else made[..., 0])

    def _upscale(self, image: torch.Tensor, *told: Callable) -> torch.Tensor:
        """Upscales (B, C, h, w) in [0, 1]."""
        channels, size = image.shape[1], tuple(side * self.scale for side in image.shape[-2:])
        colour, alpha = (image[:, :-1], image[:, -1:]) if channels in (2, 4) else (image, None)
        if alpha is not None:
            colour = fill_transparent(colour, alpha)
        made = self._make(colour.expand(-1, 3, -1, -1), *told)
        if channels < 3:
            made = made.mul_(made.new_tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True)
        return made if alpha is None else torch.cat([made, bicubic(alpha, size).clamp_(0, 1)], 1)

    def tiles(self, height: int, width: int) -> int:
        """Returns how many tiles a picture of this size is taken apart into."""
        return len(self.tiling.places(height, width))

    def memory(self, height: int, width: int) -> int:
        """Returns about how many bytes a picture of this size takes at least, besides the weights."""
        latent, sides = self._latent(height, width), [side * self.scale for side in (height, width)]
        smallest = memory.pieces(self.tokenizer, *latent, room=0)[-1]
        work = max(self._tile_bytes, memory.decode_bytes(self.tokenizer, *latent, smallest))
        return memory.picture_bytes(*sides) + work

    def at_once(self, tiles: int) -> int:
        """Returns how many of so many tiles are worked on at once, by what memory is free now."""
        return self._batches(tiles)[0]

    @property
    def _tile_bytes(self) -> int:
        choice = "greedy" if self.choice == "sample" and self.top_k == 1 else self.choice
        return memory.tile_bytes(self.net, guided=self.guidance > 0, choice=choice)

    def _batches(self, tiles: int) -> list[int]:
        most, each = self.most if self.compiled else min(tiles, self.most), self._tile_bytes
        return memory.batches(most, most * each if self.batch else memory.free(self.device) * 3 // 4, each)

    def _latent(self, height: int, width: int) -> tuple[int, ...]:
        """Returns the sides of a picture's latent."""
        return tuple(self.tiling.padded(side) * self.scale // self.tokenizer.factor for side in (height, width))

    def _make(self, lr: torch.Tensor, progress: Callable, less: Callable) -> torch.Tensor:
        """Upscales (B, 3, h, w) in [0, 1], with less at once where memory runs out."""
        done = 0

        def count(tiles: int) -> None:
            nonlocal done
            done += tiles
            progress(tiles)

        def predict(batch: int) -> torch.Tensor:
            count(-done)
            made = upscale_latent(self.net, self.tokenizer, lr, tiling=replace(self.tiling, batch=batch),
                                  scale=self.scale, guidance=self.guidance, top_k=self.top_k, top_p=self.top_p,
                                  temperature=self.temperature, choice=self.choice, seed=self.seed, progress=count,
                                  compiled=self.compiled)
            self.most = batch if batch < tried[0] else self.most  # so that the next picture need not find out again
            return made

        def finish(piece: memory.Piece) -> torch.Tensor:
            return decode(self.tokenizer, f_hat, lr, scale=self.scale, tile=piece.side, keep=piece.keep,
                          compiled=self.compiled)

        tried = self._batches(len(lr) * self.tiles(*lr.shape[-2:]))
        f_hat = memory.with_less(predict, tried, lambda batch: less(f"{batch} tiles at once"))
        room = memory.free(self.device) - len(lr) * memory.picture_bytes(
            *(side * self.scale for side in lr.shape[-2:]))
        ways = memory.pieces(self.tokenizer, *f_hat.shape[-2:], max(room, 0) * 3 // 4 // len(lr), self.tile)
        factor = self.tokenizer.factor
        made = memory.with_less(finish, ways, lambda piece: less(f"pieces of {piece.side * factor} pixels"))
        # Not among the tries: smaller pieces do not help the colours, and decoding again takes long.
        return fix_colour(made, lr, self.colour).clamp_(0, 1)


def fill_transparent(colour: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Gives fully transparent pixels, whose colour nobody chose, the colour of the nearest pixel that can be seen.

    Args:
        colour: (B, C, h, w).
        alpha: (B, 1, h, w).
    """
    hidden = alpha.cpu().numpy()[:, 0] == 0
    filled = colour.clone()
    for picture, unseen in zip(filled, hidden, strict=True):
        if unseen.any() and not unseen.all():
            y, x = ndimage.distance_transform_edt(unseen, return_distances=False, return_indices=True)
            picture.copy_(picture[:, torch.from_numpy(y), torch.from_numpy(x)])
    return filled


def _check_tensor(image: torch.Tensor) -> None:
    if not image.is_floating_point():
        raise TypeError(f"a torch image is floating-point, not {image.dtype}")
    if image.ndim != 4 or image.numel() == 0 or image.shape[1] not in (1, 2, 3, 4):
        raise ValueError(f"a torch image is (B, C, h, w) with C from 1 to 4, not {tuple(image.shape)}")
    if not (image.amin() >= 0 and image.amax() <= 1):  # nor is NaN
        raise ValueError(f"a torch image lies in [0, 1], not from {image.amin():.3g} to {image.amax():.3g}")


def _scale(found: Found) -> int:
    if "scale" in found.metadata:
        return int(found.metadata["scale"])
    if found.is_varsrs:
        return 4
    raise UserError(f"{found.path} does not say its scale; take a file of `basicsr train` or `convert`.")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
        raise UserError(f"there is no device {name} here ({str(error).splitlines()[0].rstrip('.')}); choose auto or "
                        "cpu.") from error
    return device
