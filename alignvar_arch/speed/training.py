"""How many images/s the training of an options file takes, and whether loaders give as many."""

import os
import statistics
import time

import torch
from basicsr.data import build_dataloader
from basicsr.models import build_model

from alignvar_arch import options
from alignvar_arch.errors import UserError
from alignvar_arch.machine import device_name
from alignvar_arch.options.datasets import Builder
from alignvar_arch.speed import loaders
from alignvar_arch.speed.material import Material

_WARMUP, _STEPS, _LONGEST = 2, 10, 30.0  # steps before, steps at most, seconds after which no further step starts
_LEAST = 3  # steps that are measured in any case


def read(file: str) -> dict:
    """Reads an options file of a training, as `basicsr train` does.

    Raises:
        UserError: for whatever is wrong with it.
    """
    args = options.argument_parser("basicsr lmdb bench").parse_args(["-opt", file])
    opt = options.validated(args, os.getcwd(), True)[0]
    options.seed(opt)
    return opt


def measure(opt: dict, material: Material, workers: list[int], seconds: float) -> dict:
    """Measures the training step, and loaders with the options' batch and crops while nothing else runs.

    Args:
        opt: complete options of a training.
        material: the selection.
        workers: numbers of them to measure loaders with.
        seconds: a measurement of a loader.

    Returns:
        `step_ms`, `images_per_s`, `batch`, `device`, and under `loaders`, for the options' own data set and for
        LMDBPairDataset on the store, images/s by workers and `enough_workers`, the fewest that suffice; None: none did.
        Without workers every step waits for its batch, so they are one at least.

    Raises:
        UserError: the options' data cannot be used, or their scale is not the store's.
    """
    block = opt["datasets"]["train"]
    if opt.get("scale") != material.scale:
        raise UserError(f"--opt: its scale is {opt.get('scale')}, but the store's is {material.scale}.")
    store = {**block, **material.of_store(), "gt_size": block.get("gt_size", material.gt_size)}
    datasets = {block["type"]: block, "LMDBPairDataset on the store": store}
    batch = block["batch_size_per_gpu"] * max(opt["num_gpu"], 1)
    step = _step(opt)
    taken = batch / step
    found = {}
    for name, one in datasets.items():
        rates = {count: loaders.rate(one, count, batch, seconds) for count in sorted({*workers, os.cpu_count()})}
        enough = [count for count, rate in rates.items() if count and rate >= taken]
        found[name] = {"images_per_s": rates, "enough_workers": min(enough, default=None)}
    return {"name": opt["name"], "device": device_name(opt["num_gpu"] > 0), "batch": batch, "step_ms": 1000 * step,
            "images_per_s": taken, "loaders": found}  # fmt: skip


def _step(opt: dict) -> float:
    """Seconds of a training step on one batch of the options' own data, the median."""
    block = opt["datasets"]["train"]
    dataset = Builder({**opt, "datasets": {"train": block}}).datasets["train", block["name"]]
    loader = build_dataloader(dataset, {**block, "num_worker_per_gpu": 0, "prefetch_mode": None,
                                        "persistent_workers": False}, num_gpu=opt["num_gpu"])  # fmt: skip
    data = next(iter(loader))
    model = build_model(opt)
    times: list[float] = []
    begun = time.perf_counter()
    for number in range(1, _WARMUP + _STEPS + 1):
        if len(times) >= _LEAST and time.perf_counter() - begun > _LONGEST:
            break
        started = time.perf_counter()
        model.feed_data(data)
        model.optimize_parameters(number)
        if opt["num_gpu"]:
            torch.cuda.synchronize()
        if number > _WARMUP:
            times.append(time.perf_counter() - started)
    return statistics.median(times)
