"""Memory: what an upscaling needs, what is free, and going on with less where it was too much.

The factors below are measured peaks (a CPU; fp32 and bf16; 256 to 1024 pixels; 1 to 16 tiles), rounded up: what is said
here is mostly somewhat more than what is used.
"""
import gc
import resource
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

from alignvar_arch.archs.alignvar_arch import AlignVAR
from alignvar_arch.archs.tokenizer.guided import SCALE
from alignvar_arch.archs.tokenizer_arch import AlignVARTokenizer
from alignvar_arch.errors import UserError

T = TypeVar("T")
# Live at once: maps of a level's width in the transformer, in the condition encoder and in the decoders of image and
# residual targets (of pieces more, whose small maps leave holes in the heap); fp32 pictures of the result's size around
# the networks; fp32 logits besides the branches' own.
STEP_MAPS, ENCODER_MAPS, DECODER_MAPS, GUIDED_MAPS, GUIDED_PIECE_MAPS, PICTURES = 20, 3, 8, 11, 16, 3
LOGITS = {"greedy": 1, "expected": 2, "sample": 8}
LEAST_SIDE = 8  # latent pixels of a piece; smaller ones are mostly surroundings


class Piece(NamedTuple):
    """How a latent is decoded.

    Attributes:
        side: of a piece, in latent pixels.
        keep: most bytes of a map that is stored whole between the passes; what is not is computed again.
    """

    side: int
    keep: int


def weights(*networks: torch.nn.Module) -> int:
    """Returns the bytes of all parameters and buffers."""
    return sum(value.nbytes for network in networks for value in (*network.parameters(), *network.buffers()))


def tile_bytes(net: AlignVAR, guided: bool, choice: str) -> int:
    """Returns what the tokens of one tile take at their peak; ``choice`` is a key of ``LOGITS``."""
    width, value = net.head.in_features, net.pos_start.element_size()
    branches = 2 if guided else 1
    side = net.schedule.latent_side * 2 ** (len(net.con_embedding.blocks) // 2)
    encoder = ENCODER_MAPS * side ** 2 * net.con_embedding.conv_in.out_channels * value
    cache = 2 * len(net.blocks) * (net.prefix + net.schedule.tokens) * width * value
    step = STEP_MAPS * (net.prefix + 1) * width * value
    logits = net.schedule.lengths[-1] * net.codebook_size * 4 * (branches + LOGITS[choice])
    return max(encoder, branches * (cache + step) + logits)


def decode_bytes(tokenizer: AlignVARTokenizer, height: int, width: int, piece: Piece) -> int:
    """Returns what decoding a latent of this size takes at its peak."""
    convolution = tokenizer.decoder.conv_out
    pixel = convolution.in_channels * convolution.weight.element_size()
    if tokenizer.target == "residual":  # its finest maps have the LR's resolution; the residual itself is fp32
        whole, residual = piece.side >= max(height, width), 3 * 4 * tokenizer.factor ** 2
        pixel *= (GUIDED_MAPS if whole else GUIDED_PIECE_MAPS) * (tokenizer.factor // SCALE) ** 2
        each, halo = max(pixel, 3 * residual), 2 * (tokenizer.decoder.reach + 1)
        if whole:
            return each * height * width
        return residual * height * width + each * min(piece.side + halo, height) * min(piece.side + halo, width)
    pixel *= tokenizer.factor ** 2
    if piece.side >= max(height, width):
        return DECODER_MAPS * pixel * height * width
    return 2 * min(piece.keep, pixel * height * width) + DECODER_MAPS * pixel * (piece.side + 2) ** 2


def picture_bytes(height: int, width: int) -> int:
    """Returns what the pixels of a result of this size take, besides the networks' work."""
    return PICTURES * 3 * 4 * height * width


def batches(most: int, room: int, each: int) -> list[int]:
    """Returns how many tiles to try at once: what fits into ``room`` bytes, at most ``most``, then ever half of it."""
    first = max(1, min(most, room // each))
    return [first >> halvings for halvings in range(first.bit_length())]


def pieces(tokenizer: AlignVARTokenizer, height: int, width: int, room: int, side: int | None = None) -> list[Piece]:
    """Returns how to try to decode a latent: whole or in the largest pieces that fit, then ever half of it.

    Args:
        tokenizer: its decoder.
        height: of the latent.
        width: of the latent.
        room: bytes that may be used.
        side: of the pieces to begin with, in latent pixels; None takes what fits.
    """
    whole = max(height, width)
    found = [Piece(min(side or whole, whole), room // 4)]
    while found[-1].side > LEAST_SIDE:
        found.append(Piece(max(found[-1].side // 2, LEAST_SIDE), found[-1].keep // 2 if len(found) > 1 else room // 4))
    fitting = [piece for piece in found if decode_bytes(tokenizer, height, width, piece) <= room]
    return found if side else fitting or found[-1:]


def free(device: torch.device) -> int:
    """Returns the bytes that can still be had on a device; on a CPU the least that system, container and shell allow.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    found = [_field("/proc/meminfo", "MemAvailable")]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        found.append(limit - _field("/proc/self/status", "VmSize"))
    left = container()
    return max(min(found if left is None else [*found, left]), 0)


def container(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Returns the bytes that a container, cgroup v2 or v1, still allows, or None where it has no limit.

    Cached files that nobody works with count as used there, but make room.
    """
    for folder, limit, usage, cached in ((root, "memory.max", "memory.current", "inactive_file"),
                                         (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                                          "total_inactive_file")):
        try:
            most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
            lines = (folder / "memory.stat").read_text().splitlines()
        except OSError:  # another version, or none
            continue
        if most != "max":
            return int(most) - used + sum(int(line.split()[1]) for line in lines if line.split()[0] == cached)
    return None


def _field(path: str, name: str) -> int:
    """Returns a figure of the kernel's, given there in kB, in bytes."""
    lines = Path(path).read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def is_exhausted(error: BaseException) -> bool:
    """Tells whether an error means that memory ran out: CUDA's has a type, a CPU's only a text."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)


def with_less(work: Callable[[T], object], tries: Iterable[T], less: Callable[[T], object]):
    """Does something, and where memory runs out does it again with the next of ever smaller settings.

    Args:
        work: takes a setting; is begun anew with each.
        tries: the settings.
        less: is told each setting but the first, before it is tried.

    Raises:
        UserError: there was not enough memory for any.
    """
    reason = None
    for setting in tries:
        if reason is not None:
            # Out here the error is gone, and with it the frames that held the tensors.
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            less(setting)
        try:
            return work(setting)
        except (RuntimeError, MemoryError) as error:
            if not is_exhausted(error):
                raise
            reason = " ".join(str(error).split(". ")[0].split())
    raise UserError(f"there is not enough memory even for the smallest piece at a time ({reason}).")
