"""`basicsr train --dry-run`: what a run would take, from one batch of it."""

import contextlib
import datetime
import math
import time
from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from alignvar_arch.compat.parallel import is_shared
from alignvar_arch.training.loop import Run
from alignvar_arch.training.progress import peak_memory


def report(run: Run) -> str:
    """Steps twice on the first batch, makes the first validation picture, and says what it took and what a run would.

    The steps are taken as the run's last, when what begins later than others, such as an adversary, has begun. The
    first of them is not timed: allocations, compilation and the kernels' choice happen in it. Reading is timed with the
    start of the readers, which one batch cannot tell apart.

    Args:
        run: built, not started; it is of no use afterwards.

    Returns:
        A table: parameters, memory by part, images/s, time of the whole run, disk that its checkpoints take.
    """
    model, cuda = run.model, run.model.device.type == "cuda"
    done = 0 if run.resumed is None else run.resumed["iter"]
    first = min(done, run.total - 1)
    started = time.monotonic()
    batch = next(iter(run.feed.batches(first, first + 1)))
    reading = time.monotonic() - started
    for _ in range(2):
        started = time.monotonic()
        _step(model, batch, run.total)
        step = time.monotonic() - started
    peak = peak_memory(cuda)
    parts, elsewhere = memory_by_part(model, model.device), memory_by_part(model, torch.device("cpu")) if cuda else {}
    rest = max(peak - sum(parts.values()), 0)
    images = run.feed.order.batch * run.feed.order.world
    left = run.total - done
    # Readers work beside the steps, and the slower of both counts; without them the step waits.
    iteration = max(step, reading / run.feed.workers) if run.feed.workers else step + reading
    validations = times(done, run.total, run.opt["val"]["val_freq"], at_end=True) if run.validations else 0
    validating = validations * _validation(run) if validations else 0.0
    saves = times(done, run.total, run.opt["logger"]["save_checkpoint_freq"])
    keep, size = run.opt["logger"].get("keep"), checkpoint_size(model)
    # With `keep` the best stays too, and the new one is there before the oldest goes.
    kept = min(keep + 2, saves + validations) if keep else saves
    lines = [f"dry run of {run.opt['name']} on {run.opt['world_size']} × {model.device}: nothing has been written", ""]
    lines += [f"{name:<24}{count:>16,} parameters" for name, count in parameters(model).items()]
    lines += ["", *(f"{name:<24}{size / 2**20:>16,.1f} MiB" for name, size in parts.items()),
              f"{'activations and the rest':<24}{rest / 2**20:>16,.1f} MiB{'' if cuda else ' (Python and torch, too)'}",
              f"{'peak':<24}{peak / 2**20:>16,.1f} MiB",
              *(f"{name:<24}{size / 2**20:>16,.1f} MiB of main memory" for name, size in elsewhere.items()), "",
              f"{'batch':<24}{images:>16,} images, read in {reading:.2f} s",
              f"{'step':<24}{step:>16.3f} s, {images / step:.2f} images/s",
              f"{'iterations left':<24}{left:>16,} of {run.total:,}",
              f"{'time of the run':<24}{_words(left * iteration + validating):>16}, of which waiting for images "
              f"{_words(left * (iteration - step))} and {validations} validations {_words(validating)}; saving and "
              "metrics not counted",
              f"{'disk':<24}{kept * size / 2**20:>16,.1f} MiB at most, in {kept} checkpoints of "
              f"{size / 2**20:,.1f} MiB{'' if keep or not saves else '; logger.keep keeps the newest few'}"]
    return "\n".join(lines)


def _step(model, batch: dict, iteration: int) -> None:
    model.feed_data(batch)
    model.optimize_parameters(iteration)
    model.get_current_log()  # waits for the device


def times(done: int, total: int, every: int, at_end: bool = False) -> int:
    """How often something happens in the iterations after `done`, and once more `at_end` where that is no such one."""
    return total // every - done // every + int(at_end and total > done and total % every > 0)


def _validation(run: Run) -> float:
    """Seconds that one validation takes, by its first picture; of the images, each process has its share."""
    total, model = 0.0, run.model
    world = run.opt["world_size"] if is_shared(model) else 1
    for loader in run.validations:
        data = next(iter(loader))
        started = time.monotonic()
        model.is_train = False
        model.feed_data(data)
        with model.whole() if hasattr(model, "whole") else contextlib.nullcontext():
            model.test()
        model.is_train = True
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        total += (time.monotonic() - started) * math.ceil(len(loader) / world)
    return total


def parameters(model) -> dict[str, int]:
    """Counts the parameters of a model's networks, by their names in it; those of averages are the same again."""
    found = {name: sum(entry.numel() for entry in net.parameters()) for name, net in _networks(model).items()}
    return {name: count for name, count in found.items() if count and not name.endswith("_ema")}


def memory_by_part(model, device: torch.device) -> dict[str, int]:
    """Returns bytes of weights, gradients, averages and optimiser states on a kind of device, after a step."""
    parts = {name: _tensors(net) for name, net in _networks(model).items()}
    parts["gradients"], parts["optimiser"] = _trained(model), _averages(model)
    sizes = {name: _bytes(_own(entry) for entry in tensors if entry.device.type == device.type)
             for name, tensors in parts.items()}
    return {name: size for name, size in sizes.items() if size}


def checkpoint_size(model) -> int:
    """Returns bytes of what a checkpoint holds: trained networks and their averages, optimiser states; all shares."""
    trained = {id(entry) for entry in _trained(model)}
    saved = [net for name, net in _networks(model).items()
             if name.endswith("_ema") or any(id(entry) in trained for entry in net.parameters())]
    return _bytes(entry for net in saved for entry in _tensors(net)) + _bytes(_averages(model))


def _tensors(net: nn.Module) -> list[torch.Tensor]:
    return [*net.parameters(), *net.buffers()]


def _trained(model) -> list[nn.Parameter]:
    return [entry for optimizer in model.optimizers for group in optimizer.param_groups for entry in group["params"]]


def _averages(model) -> list[torch.Tensor]:
    return [value for optimizer in model.optimizers for state in optimizer.state.values() for value in state.values()
            if torch.is_tensor(value)]


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """What this process keeps of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(entry.numel() * entry.element_size() for entry in tensors)


def _networks(model) -> dict[str, nn.Module]:
    return {name: value for name, value in vars(model).items() if isinstance(value, nn.Module)}


def _words(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
