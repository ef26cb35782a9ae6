"""The training loop: resume works on any device, epochs count what the loader gives, crops differ each epoch.

Line numbers are those of BasicSR 1.4.2.
"""

import contextlib
import io
import itertools
import math
import os
import random
from collections import Counter
from pathlib import Path

import basicsr.data
import basicsr.train
import numpy as np
import torch
from basicsr.data import prefetch_dataloader
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.utils import check_resume, misc

from alignvar_arch.compat import patch
from alignvar_arch.errors import UserError


def install() -> None:
    """Goes piece by piece, as each function's docstring says."""
    basicsr.train.load_resume_state = _load_resume_state
    basicsr.train.EnlargedSampler = StoppingSampler
    basicsr.train.create_train_val_dataloader = _exact_iterations(basicsr.train.create_train_val_dataloader)
    basicsr.train.MessageLogger = _MessageLogger
    patch.everywhere(misc.mkdir_and_rename, _mkdir_and_rename)
    basicsr.data.worker_init_fn = _seed_worker
    prefetch_dataloader.PrefetchGenerator.run = _run_and_report
    prefetch_dataloader.PrefetchGenerator.__next__ = _next_or_raise


def _load_resume_state(opt: dict) -> dict | None:
    """Reads the state to resume from, and makes the folders that another experiment's state may come without."""
    state = read_resume_state(opt)
    if state is not None:
        for key in ("models", "training_states", "log", "visualization"):
            os.makedirs(opt["path"][key], exist_ok=True)
    return state


def read_resume_state(opt: dict) -> dict | None:
    """Finds and reads the state to resume from, and points the networks at that iteration's weights.

    BasicSR asks for the current CUDA device (train.py:85), unpickles anything, and then names `net_X_ITER.pth` for
    every network, also for a frozen one that the experiment never saves. Goes when BasicSR does none of these.
    """
    path = _newest_state(opt["path"]["training_states"]) if opt["auto_resume"] else opt["path"].get("resume_state")
    if not path:
        return None
    opt["path"]["resume_state"] = str(path)
    try:
        with torch.serialization.safe_globals([Counter]):
            state = torch.load(path, map_location="cpu", weights_only=True)
        iteration = state["iter"]
        if not (isinstance(iteration, int) and isinstance(state["epoch"], int) and state["optimizers"]
                and all("param_groups" in optimizer for optimizer in state["optimizers"]) and state["schedulers"]):
            raise ValueError("parts are missing")
    except Exception as error:  # torch raises pickle, zip, runtime and OS errors here, by what the file holds
        raise UserError(f"{path} is not a training state, or a truncated one; "
                        "remove it to resume from the one before.") from error
    given = dict(opt["path"])
    with contextlib.redirect_stdout(io.StringIO()):
        check_resume(opt, iteration)
    models = Path(opt["path"]["models"])
    for key in [key for key in opt if key.startswith("network_")]:
        label = key.removeprefix("network_")
        saved = models / f"net_{label}_{iteration}.pth"
        if saved.is_file() or key in (given.get("ignore_resume_networks") or []):
            continue
        if given.get(f"pretrain_{key}") is None or any(models.glob(f"net_{label}_*.pth")):
            raise UserError(f"cannot resume at iteration {iteration}: {saved} is missing.")
        for name in (f"pretrain_{key}", f"param_key_{label}"):
            if name in given:
                opt["path"][name] = given[name]
    opt["path"]["resume_from"] = {"epoch": state["epoch"], "iter": iteration}
    return state


def _newest_state(folder: str) -> Path | None:
    states = [path for path in Path(folder).glob("*.state") if path.stem.isdigit()]
    return max(states, key=lambda path: int(path.stem), default=None)


class StoppingSampler(EnlargedSampler):
    """BasicSR's sampler that can end in the middle of its last epoch."""

    last_epoch: int | None = None
    last_length: int = 0

    def __iter__(self):
        indices = list(super().__iter__())
        return iter(indices[:self.last_length] if self.epoch == self.last_epoch else indices)


def _exact_iterations(create):
    """Makes the loop run `total_iter` iterations, no fewer, and name its last validation so.

    BasicSR counts ceil(images / batch) iterations an epoch while the loader drops the last, incomplete batch, so that a
    run ends early; with a batch larger than the data it trains nothing and saves that. Goes when it counts
    `len(train_loader)`.
    """

    def wrapper(opt, logger):
        loader, sampler, val_loaders, _, total = create(opt, logger)
        check_batch(loader.batch_size, len(sampler))
        per_epoch = len(loader)
        start = opt["path"].get("resume_from", {"epoch": 0, "iter": 0})
        left = max(total - start["iter"], 0)
        epochs = math.ceil(left / per_epoch)
        # train_pipeline runs range(start_epoch, total_epochs + 1).
        total_epochs = start["epoch"] + epochs - 1
        sampler.last_epoch = total_epochs
        sampler.last_length = (left - (epochs - 1) * per_epoch) * loader.batch_size
        logger.info(f"{per_epoch} iterations an epoch; {left} iterations to run, epochs {start['epoch']} to "
                    f"{total_epochs}.")
        return loader, sampler, val_loaders, total_epochs, total

    return wrapper


def check_batch(batch_size: int, images: int) -> None:
    """Raises UserError where an epoch's `images` (of one process) do not fill one batch."""
    if images < batch_size:
        raise UserError(f"datasets.train: a batch of {batch_size} is larger than the {images} images of an epoch; "
                        "lower batch_size_per_gpu or raise dataset_enlarge_ratio.")


class _MessageLogger(basicsr.train.MessageLogger):
    """Counts the iterations left without going below zero at the last one (logger.py:101). Goes when that is mended."""

    def __init__(self, opt, start_iter=1, tb_logger=None):
        super().__init__(opt, start_iter, tb_logger)
        self.max_iters += 1


def _mkdir_and_rename(path: str) -> None:
    """Makes a folder; an older one keeps its content under a name with the time, and with a number where that is taken.

    BasicSR's name has seconds only (misc.py:31), so that the third run within one ends in OSError. Goes when it counts.
    """
    if os.path.exists(path):
        archive = base = f"{path}_archived_{misc.get_time_str()}"
        for number in itertools.count(2):
            if not os.path.exists(archive):
                break
            archive = f"{base}_{number}"
        print(f"Path already exists. Rename it to {archive}", flush=True)
        os.rename(path, archive)
    os.makedirs(path, exist_ok=True)


def _seed_worker(worker_id: int, num_workers: int, rank: int, seed: int) -> None:
    """Seeds numpy and random of a loader worker from torch's own seed of that worker, which is new each epoch.

    BasicSR seeds with `num_workers * rank + worker_id + seed` (data/__init__.py:97), so every epoch repeats the crops
    of the first. torch draws the worker's seed from the generator that the manual seed (plus rank) has set, so that
    runs stay repeatable. Goes when BasicSR does the same.
    """
    worker_seed = torch.initial_seed() % 2**32
    np.random.seed(worker_seed)
    random.seed(worker_seed)


def _run_and_report(self) -> None:
    """Passes a loader's error on to the training thread, which otherwise waits for ever (`prefetch_mode: cpu`)."""
    try:
        for item in self.generator:
            self.queue.put(item)
        self.queue.put(None)
    except BaseException as error:
        self.queue.put(error)


def _next_or_raise(self):
    item = self.queue.get()
    if item is None:
        raise StopIteration
    if isinstance(item, BaseException):
        raise item
    return item
