"""`basicsr train --dry-run`: what a run would take, from one batch of it."""

import contextlib
import datetime
import time
from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from alignvar_arch.training.loop import Run
from alignvar_arch.training.progress import peak_memory


def report(run: Run) -> str:
    """Steps twice on the first batch, makes the first validation picture, and says what it took and what a run would.

    The first step is not timed: allocations, compilation and the kernels' choice happen in it.

    Args:
        run: built, not started; it is of no use afterwards.

    Returns:
        A table: parameters, memory by part, images/s, time of the whole run.
    """
    model, cuda = run.model, run.model.device.type == "cuda"
    done = 0 if run.resumed is None else run.resumed["iter"]
    first = min(done, run.total - 1)
    started = time.monotonic()
    batch = next(iter(run.feed.batches(first, first + 1)))
    reading = time.monotonic() - started
    for _ in range(2):
        started = time.monotonic()
        _step(model, batch, first + 1)
        step = time.monotonic() - started
    peak = peak_memory(cuda)
    parts = memory_by_part(model)
    rest = max(peak - sum(parts.values()), 0)
    images = run.feed.order.batch * run.feed.order.world
    left = run.total - done
    validating = _validation(run) * (left // run.opt["val"]["val_freq"]) if run.validations else 0.0
    lines = [f"dry run of {run.opt['name']} on {run.opt['world_size']} × {model.device}: nothing has been written", ""]
    lines += [f"{name:<24}{count:>16,} parameters" for name, count in parameters(model).items()]
    lines += ["", *(f"{name:<24}{size / 2**20:>16,.1f} MiB" for name, size in parts.items()),
              f"{'activations and the rest':<24}{rest / 2**20:>16,.1f} MiB{'' if cuda else ' (Python and torch, too)'}",
              f"{'peak':<24}{peak / 2**20:>16,.1f} MiB", "",
              f"{'batch':<24}{images:>16,} images, read in {reading:.2f} s",
              f"{'step':<24}{step:>16.3f} s, {images / step:.2f} images/s",
              f"{'iterations left':<24}{left:>16,} of {run.total:,}",
              f"{'time of the run':<24}{_words(left * step + validating):>16}, of which validation "
              f"{_words(validating)}, its metrics not counted"]
    return "\n".join(lines)


def _step(model, batch: dict, iteration: int) -> None:
    model.feed_data(batch)
    model.optimize_parameters(iteration)
    model.get_current_log()  # waits for the device


def _validation(run: Run) -> float:
    """Seconds that one validation takes, by its first picture and by pixels."""
    total, model = 0.0, run.model
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
        total += (time.monotonic() - started) * len(loader)
    return total


def parameters(model) -> dict[str, int]:
    """Counts the parameters of a model's networks, by their names in it; those of averages are the same again."""
    found = {name: sum(entry.numel() for entry in net.parameters()) for name, net in _networks(model).items()}
    return {name: count for name, count in found.items() if count and not name.endswith("_ema")}


def memory_by_part(model) -> dict[str, int]:
    """Returns bytes of weights, gradients, averages and optimiser states, after a step."""
    sizes = {name: _bytes([*net.parameters(), *net.buffers()]) for name, net in _networks(model).items()}
    trained = [entry for optimizer in model.optimizers for group in optimizer.param_groups for entry in group["params"]]
    sizes["gradients"] = _bytes(trained)
    sizes["optimiser"] = _bytes(value for optimizer in model.optimizers for state in optimizer.state.values()
                                for value in state.values() if torch.is_tensor(value))
    return {name: size for name, size in sizes.items() if size}


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of what this process keeps of them."""
    kept = (entry.to_local() if isinstance(entry, DTensor) else entry for entry in tensors)
    return sum(entry.numel() * entry.element_size() for entry in kept)


def _networks(model) -> dict[str, nn.Module]:
    return {name: value for name, value in vars(model).items() if isinstance(value, nn.Module)}


def _words(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
