"""Learning rates: a warm-up that ends at the full rate, and a schedule with a warm-up of its own.

`BaseModel.setup_schedulers` knows two schedules. `MultiStepRestartLR` computes each rate from the one before
(lr_scheduler.py:33), so that BasicSR's warm-up, which writes rates between, leaves (N − 1)/N of the full one for good.
"""

import functools
import math
from bisect import bisect_right

from basicsr.models.base_model import BaseModel
from basicsr.models.lr_scheduler import MultiStepRestartLR
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def install() -> None:
    """Goes when BasicSR has a linear warm-up with cosine, and MultiStepRestartLR a closed form."""
    MultiStepRestartLR.get_lr = _multi_step
    BaseModel.setup_schedulers = _with_warmup(BaseModel.setup_schedulers)


class LinearWarmupCosineLR(LRScheduler):
    """Linear from near zero to the full rate at iteration `warmup`, then half a cosine to `eta_min` at `total`.

    Iterations count from 1: the rate of iteration `warmup` is the full one, that of `total` is `eta_min`, and after it
    the rate stays there.

    Args:
        optimizer: whose rates are set.
        total: the last iteration.
        warmup: iterations of the rise, from 0 to below `total`.
        eta_min: the last rate.

    Raises:
        ValueError: a warm-up that does not end before the last iteration.
    """

    def __init__(self, optimizer: Optimizer, total: int, warmup: int = 0, eta_min: float = 0.0, last_epoch: int = -1):
        if not 0 <= warmup < total:
            raise ValueError(f"warmup must be from 0 to below the {total} iterations, not {warmup}")
        self.total, self.warmup, self.eta_min = total, warmup, eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        iteration = self.last_epoch + 1
        if iteration <= self.warmup:
            return [base * iteration / self.warmup for base in self.base_lrs]
        first = max(self.warmup, 1)  # without a warm-up the first iteration has the full rate
        part = min((iteration - first) / max(self.total - first, 1), 1.0)
        return [self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * part)) / 2 for base in self.base_lrs]


def _multi_step(self) -> list[float]:
    """The rates of MultiStepRestartLR from the initial ones, whatever has been written over them since."""
    begun = [(start, weight) for start, weight in zip(self.restarts, self.restart_weights, strict=True)
             if 0 <= start <= self.last_epoch]  # fmt: skip
    start, weight = max(begun, default=(-1, 1))
    milestones = sorted(self.milestones.elements())
    passed = bisect_right(milestones, self.last_epoch) - bisect_right(milestones, start)
    return [group["initial_lr"] * weight * self.gamma**passed for group in self.optimizer.param_groups]


def _with_warmup(setup):
    @functools.wraps(setup)
    def wrapper(self):
        settings = self.opt["train"]["scheduler"]
        if settings["type"] != LinearWarmupCosineLR.__name__:
            setup(self)
            return
        total = int(self.opt["train"]["total_iter"])
        arguments = {key: value for key, value in settings.items() if key != "type"}
        self.schedulers += [LinearWarmupCosineLR(optimizer, total, **arguments) for optimizer in self.optimizers]

    return wrapper
