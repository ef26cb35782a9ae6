"""What a training state holds, how it is put back, and when that cannot be exact.

Beside BasicSR's `epoch`, `iter`, `optimizers` and `schedulers` a state has `rng` (one entry a process), `model` (what
the model's `training_state` gives), `pools` (of BasicSR's Real-ESRGAN models, one a process), `shards` (whether the
optimiser's averages are in `ITER.shards` beside it), `best` (BasicSR's best metrics), `seed`, `matters` (the options
and data that the course of a run depends on), `saved` (the iterations whose checkpoints the run has written and not
removed), `owes_validation` (it was to come, or cut short), `skipped` (how many of the last steps were) and
`skipped_in_all` (how many were since the run began).
"""

import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils.registry import MODEL_REGISTRY
from torch.utils.data import Dataset

from alignvar_arch.compat.rates import LinearWarmupCosineLR
from alignvar_arch.errors import UserError
from alignvar_arch.training import rng, shards
from alignvar_arch.training.distributed import collected, gathered

_SHOWN = 4  # differences in a message
# What a run may have otherwise from one day to the next without another course.
_FREE = {"name", "path", "val", "logger", "dist", "dist_params", "rank", "auto_resume", "is_train", "root_path",
         "num_gpu", "datasets", "find_unused_parameters"}
_FREE_IN_TRAIN = {"total_iter", "nonfinite"}
_FREE_IN_DATA = {"name", "num_worker_per_gpu", "prefetch_mode", "num_prefetch_queue", "pin_memory",
                 "persistent_workers", "bad_images", "io_backend"}
_RATES = ("train.optim_", "train.scheduler.", "train.total_iter")
_COUNTERS = ("last_epoch", "_step_count", "optimizer")  # of a scheduler
_POOL = ("queue_lr", "queue_gt", "queue_ptr")  # of BasicSR's Real-ESRGAN models: pairs that wait for their batch


def matters(opt: dict, dataset: Dataset) -> dict:
    """Returns what decides a run's course, by dotted names: options, the images' names, devices.

    Args:
        opt: complete options.
        dataset: of `datasets.train`.
    """
    blocks = {key: value for key, value in opt.items() if key not in _FREE}
    blocks["train"] = {key: value for key, value in opt["train"].items() if key not in _FREE_IN_TRAIN}
    blocks["datasets.train"] = {key: value for key, value in opt["datasets"]["train"].items()
                                if key not in _FREE_IN_DATA and not key.startswith(("dataroot", "photos"))}
    found = dict(_flat(blocks, ""))
    if (opt["train"].get("scheduler") or {}).get("type") == LinearWarmupCosineLR.__name__:
        found["train.total_iter"] = int(opt["train"]["total_iter"])
    model = MODEL_REGISTRY.get(opt["model_type"])
    if hasattr(model, "depends_on"):
        found.update(model.depends_on(opt["train"]))
    found["the number of training images"] = len(dataset)
    found["the training images' names"] = _names(dataset)
    found["the device"] = "cuda" if opt["num_gpu"] else "cpu"
    if not opt["dist"] and opt["num_gpu"] > 1:
        found["num_gpu"] = opt["num_gpu"]  # one batch over several devices
    return found


def _flat(block: dict, prefix: str) -> Iterator[tuple[str, object]]:
    for key, value in block.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _names(dataset: Dataset) -> str | None:
    """A hash of the images' names, without the folders, which may have moved."""
    entries = getattr(dataset, "keys", None) or getattr(dataset, "paths", None)
    if not isinstance(entries, list):
        return None
    names = [entry.get("gt_path", "") if isinstance(entry, dict) else str(entry) for entry in entries]
    return hashlib.sha256("\n".join(map(os.path.basename, names)).encode()).hexdigest()[:16]


def check_exact(state: dict, path: str, now: dict) -> None:
    """Refuses a state from which this run would not go on as the one that wrote it would have.

    Args:
        state: as read.
        path: its file, for the message.
        now: `matters` of this run.

    Raises:
        UserError: it says what differs.
    """
    if "matters" not in state:
        problem = "it holds no random states and no place in the epoch, as BasicSR's own loop writes them"
    else:
        differences = [f"{key} was {_shown(state['matters'], key)} and is {_shown(now, key)}"
                       for key in changed(state, now)]
        if not differences:
            return
        more = len(differences) - _SHOWN
        problem = "; ".join(differences[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    raise UserError(f"resuming from {path} would not be exact: {problem}. Give it what it was trained with, or go on "
                    "all the same with --force_resume.")


def changed(state: dict, now: dict) -> list[str]:
    """The names of what decides the run's course and is not what it was; none where the state does not know."""
    then = state.get("matters", now)
    return [key for key in sorted({*then, *now}) if (key in then, then.get(key)) != (key in now, now.get(key))]


def _shown(values: dict, key: str) -> str:
    return repr(values[key]) if key in values else "absent"


def capture(model: BaseModel) -> dict:
    """Returns what a model owns: optimisers, schedulers, best metrics, and what its `training_state` gives."""
    sharded = [shards.are_needed(entry) for entry in model.optimizers]
    content = {"optimizers": [{**entry.state_dict(), **({"state": {}} if elsewhere else {})}
                              for entry, elsewhere in zip(model.optimizers, sharded, strict=True)],
               "shards": any(sharded),
               "schedulers": [entry.state_dict() for entry in model.schedulers],
               "best": _plain(getattr(model, "best_metric_results", {}))}
    if hasattr(model, "training_state"):
        content["model"] = model.training_state()
    else:
        content["model"] = {}
        pool = {name: getattr(model, name) for name in _POOL if hasattr(model, name)}
        content["pools"] = collected({name: value.cpu() if torch.is_tensor(value) else value
                                      for name, value in pool.items()})
    return content


def _plain(records):
    """Metrics' values as Python's numbers, where they are numpy's, which a safe reader of files does not know."""
    if isinstance(records, dict):
        return {key: _plain(value) for key, value in records.items()}
    return records.item() if isinstance(records, (np.generic, torch.Tensor)) else records


def restore(model: BaseModel, state: dict, changed: Collection[str] = ()) -> None:
    """Puts back what `capture` has returned; the weights are the model's own, loaded when it was built.

    Args:
        model: as its options have built it.
        state: as read.
        changed: what is not as it was. Where optimisers or schedules are in it, the options' rates count from now on,
            not those that the state holds.

    Raises:
        UserError: the state belongs to another kind of model or optimiser.
    """
    fresh = [(_settings(optimizer), dict(scheduler.__dict__)) for optimizer, scheduler
             in zip(model.optimizers, model.schedulers, strict=True)]
    try:
        model.resume_training(state)
    except (AssertionError, LookupError, ValueError) as error:
        raise UserError(f"cannot resume: the state's optimisers are not this model's ({error}), which --force_resume "
                        "cannot change; start from its weights instead, as path.pretrain_network_g.") from error
    if state.get("shards"):
        shards.read(shards.beside(Path(model.opt["path"]["resume_state"])), model.net_g, model.optimizer_g)
    if any(key.startswith(_RATES) for key in changed):
        for optimizer, scheduler, (settings, schedule) in zip(model.optimizers, model.schedulers, fresh, strict=True):
            for group, own in zip(optimizer.param_groups, settings, strict=True):
                group.update(own)
            scheduler.__dict__.update((key, value) for key, value in schedule.items() if key not in _COUNTERS)
    model.best_metric_results = _best_so_far(state.get("best", {}), (model.opt.get("val") or {}).get("metrics") or {})
    if hasattr(model, "load_training_state"):
        model.load_training_state(state.get("model", {}))
        return
    pools, rank = state.get("pools", []), model.opt["rank"]
    for name, value in pools[rank].items() if rank < len(pools) else ():
        setattr(model, name, value.to(model.device) if torch.is_tensor(value) else value)


def _settings(optimizer: torch.optim.Optimizer) -> list[dict]:
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def _best_so_far(found: dict, metrics: dict) -> dict:
    """The records of the metrics that there are now, in their order; a new one begins like BasicSR's."""
    begun = {name: {"better": options.get("better", "higher"), "iter": -1,
                    "val": float("-inf" if options.get("better", "higher") == "higher" else "inf")}
             for name, options in metrics.items()}
    return {data: {name: records[name] if records.get(name, {}).get("better") == begun[name]["better"] else begun[name]
                   for name in metrics} for data, records in found.items()}


def figures_of(model: BaseModel) -> dict | None:
    """What a validation that is cut short would leave half done: figures that the model gathers."""
    return model.training_state() if hasattr(model, "training_state") else None


def put_back(model: BaseModel, figures: dict | None) -> None:
    """Puts back what `figures_of` has returned."""
    if figures is not None:
        model.load_training_state(figures)


def all_rng(own: dict | None = None) -> list[dict]:
    """Returns the random states of every process, in the order of their ranks; every process must call it."""
    return gathered(own or rng.get())
