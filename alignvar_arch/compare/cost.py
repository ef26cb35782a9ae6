"""What a network costs: milliseconds an image at batch 1 and N, and peak memory."""

import ctypes
import gc
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from alignvar_arch.compare.contenders import Network, to_tensor

WARMUP, REPEATS, LONGEST = 1, 5, 30.0  # calls before and at most timed; seconds after which no further call starts


def timing(side: int, batch: int) -> dict:
    """Returns the protocol's words on how time is measured."""
    return {"lr_size": [side, side], "batch": batch, "warmup": WARMUP, "repeats": REPEATS, "longest_s": LONGEST}


class Memory:
    """Peak memory from the moment it is made, in MiB; None where the system does not tell.

    On a GPU what torch has allocated there; on a CPU how far the process has grown (Linux), weights included.

    Args:
        cuda: whether the network runs on a GPU.
    """

    def __init__(self, cuda: bool):
        self.cuda = cuda
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
        else:
            _give_back()
        self.before = torch.cuda.memory_allocated() if cuda else _status("VmRSS")

    def restart(self) -> None:
        """Forgets the peak so far, keeps the starting point: what follows is measured with the network loaded."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            return
        _give_back()
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:  # not Linux, or not allowed: the peak would be an earlier one's
            self.before = None

    def peak(self) -> float | None:
        """Returns MiB."""
        now = torch.cuda.max_memory_allocated() if self.cuda else _status("VmHWM")
        return None if now is None or self.before is None else (now - self.before) / 2**20


def measure(network: Network, memory: Memory, photograph: np.ndarray, side: int, batch: int) -> dict:
    """Times a built network on crops of a photograph, the transfer to and from its device included.

    Args:
        network: built, and warm from its pictures.
        memory: made before the network was.
        photograph: an LR, BGR uint8 (h, w, 3); it is mirrored or cropped to `side`.
        side: of the LR in pixels.
        batch: images at once in the second figure.

    Returns:
        `ms_1` and `ms_n`, medians a single image, None where the model does not take that many or the memory does not
        suffice, and `peak_mib` at batch 1.
    """
    lr = _fitted(photograph, side)
    memory.restart()
    single = _median(network, lr)
    return {"ms_1": single, "peak_mib": None if single is None else memory.peak(),
            "ms_n": single if batch == 1 else _median(network, lr.repeat(batch, 1, 1, 1))}


def _median(network: Network, lr: torch.Tensor) -> float | None:
    times, started = [], time.perf_counter()
    for call in range(WARMUP + REPEATS):
        if call > WARMUP and time.perf_counter() - started > LONGEST:
            break
        begun = time.perf_counter()
        try:
            made = network.run(lr)  # it ends on the CPU, so the GPU has finished
        except Exception:  # a batch that a model cannot take is no figure, not the end
            return None
        if len(made) != len(lr):
            return None
        if call >= WARMUP:
            times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times) / len(lr)


def _fitted(lr: np.ndarray, side: int) -> torch.Tensor:
    """Returns the centre of an LR, mirrored where it is too small: (1, 3, side, side)."""
    height, width = lr.shape[:2]
    lr = np.pad(lr, ((0, max(side - height, 0)), (0, max(side - width, 0)), (0, 0)), mode="symmetric")
    top, left = ((length - side) // 2 for length in lr.shape[:2])
    return to_tensor(lr[top:top + side, left:left + side])


def _status(key: str) -> int | None:
    """Returns a line of /proc/self/status in bytes."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), None)


def _give_back() -> None:
    """Lets the C library return freed memory, so that one network's is not the next one's start."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library: the figure is a little low, as the report's words allow
        pass
