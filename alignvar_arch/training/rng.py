"""The random states of a process: saved, put back, and set for one sample."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def get() -> dict:
    """Returns the states of python, numpy, torch and every CUDA device, as values that a safe reader of files knows."""
    name, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"python": random.getstate(), "numpy": (name, keys.tolist(), *rest), "torch": torch.get_rng_state(),
            "cuda": cuda}


def put(states: dict) -> None:
    """Puts back what `get` has returned, CUDA's where this process sees as many devices."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def seed(*numbers: int) -> None:
    """Seeds python, numpy and torch's CPU generator from several numbers (of at least 0) together."""
    one, other, third = np.random.SeedSequence(numbers).generate_state(3).tolist()
    random.seed(one)
    np.random.seed(other)
    torch.default_generator.manual_seed(third)


def sample_seed(*numbers: int) -> int:
    """A seed below 2^63 that follows from several numbers (of at least 0), far from those of their neighbours."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Puts the CPU's states back at the end, so that what is drawn in between is nobody else's business."""
    python, array, tensor = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        torch.set_rng_state(tensor)
