"""Images/s of loaders as BasicSR's training builds them."""

import copy
import math
import statistics
import time

from basicsr.data import build_dataloader
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.utils.registry import DATASET_REGISTRY

_DRAWN = 50_000  # images of an epoch, more than any loader gives in the time


def rate(opt: dict, workers: int, batch: int, seconds: float) -> float:
    """Returns images/s of one loader: crops, augmented and collated, its workers running and its queue filled.

    Args:
        opt: the data set's options, as in an options file.
        workers: processes; 0 means the calling one.
        batch: images at once.
        seconds: to measure for.
    """
    dataset = DATASET_REGISTRY.get(opt["type"])(copy.deepcopy(opt))
    block = {**opt, "batch_size_per_gpu": batch, "num_worker_per_gpu": workers, "persistent_workers": False}
    sampler = EnlargedSampler(dataset, 1, 0, math.ceil(max(_DRAWN, 2 * batch * (workers + 1)) / len(dataset)))
    batches = iter(build_dataloader(dataset, block, sampler=sampler, seed=0))
    for _ in range(2 * workers + 1):
        next(batches)
    count, begun = 0, time.perf_counter()
    for _ in batches:
        count += batch
        if time.perf_counter() - begun >= seconds:
            break
    return count / (time.perf_counter() - begun)


def compare(variants: dict[str, dict], workers: int, batch: int, seconds: float, rounds: int) -> dict[str, list[float]]:
    """Returns each variant's images/s of every round, the variants measured in turn."""
    found = {name: [] for name in variants}
    for _ in range(rounds):
        for name, opt in variants.items():
            found[name].append(rate(opt, workers, batch, seconds))
    return found


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over rounds of how many times faster `ours` was."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
