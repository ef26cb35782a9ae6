"""The machine in words, for everything that reports a figure."""

import os
import platform
from pathlib import Path

import torch


def device_name(cuda: bool | None = None) -> str:
    """Returns the device that computes, with the threads in use on a CPU.

    Args:
        cuda: whether a GPU is used; None means wherever there is one.
    """
    if torch.cuda.is_available() if cuda is None else cuda:
        return f"CUDA {torch.cuda.get_device_name()}"
    return f"CPU {_cpu()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
