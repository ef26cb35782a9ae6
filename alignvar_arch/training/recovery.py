"""Steps whose gradients are not finite: skipped, counted, and after too many in a row the run goes back or stops."""

import functools
import logging

import torch
from basicsr.models.base_model import BaseModel

from alignvar_arch.errors import UserError

LIMIT, THEN = 10, "halve"
_THENS = ("halve", "stop")
_HALVINGS = 5  # of the rate since the same state; a 32nd of it has not helped


class Diverged(Exception):
    """Too many steps in a row were skipped."""


def check_options(options) -> None:
    """Raises UserError where `train.nonfinite` is not as `Recovery` describes it."""
    if options is None:
        return
    if not isinstance(options, dict) or not set(options) <= {"limit", "then"}:
        raise UserError(f"train.nonfinite: is {options!r}, but must be a block with limit and then.")
    limit, then = options.get("limit", LIMIT), options.get("then", THEN)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise UserError(f"train.nonfinite.limit: is {limit!r}, but must be a whole number of at least 1.")
    if then not in _THENS:
        raise UserError(f"train.nonfinite.then: is {then!r}, but must be one of {', '.join(_THENS)}.")


class Guard:
    """Skips the steps of optimisers whose gradients are not finite, for models that do not look (BasicSR's own).

    A step without gradients changes neither the weights nor the optimiser's averages.
    """

    def __init__(self, optimizers: list[torch.optim.Optimizer]):
        self.in_a_row, self.in_all = [0] * len(optimizers), [0] * len(optimizers)
        for number, optimizer in enumerate(optimizers):
            optimizer.register_step_pre_hook(functools.partial(self._look, number))

    def skipped_in_a_row(self) -> int:
        """How many of the last steps were skipped, of the optimiser where it were most."""
        return max(self.in_a_row)

    def skipped_in_all(self) -> int:
        """How many steps were skipped, of the optimiser where it were most."""
        return max(self.in_all)

    def _look(self, number: int, optimizer: torch.optim.Optimizer, _arguments, _named) -> None:
        parameters = [entry for group in optimizer.param_groups for entry in group["params"] if entry.grad is not None]
        if not parameters:
            return
        norms = torch._foreach_norm([entry.grad for entry in parameters])
        if torch.stack([norm.float() for norm in norms]).isfinite().all():
            self.in_a_row[number] = 0
            return
        self.in_a_row[number] += 1
        self.in_all[number] += 1
        for entry in parameters:
            entry.grad = None


class Recovery:
    """Watches over a model's skipped steps.

    Options, `train.nonfinite`: `limit` (steps in a row that may be skipped, default 10) and `then` (`halve`, the
    default: back to the newest state at half the learning rate; or `stop`).

    Args:
        options: that block, or None.
        in_all: how many steps the run has skipped before.
    """

    def __init__(self, options: dict | None, in_all: int = 0):
        self.limit = (options or {}).get("limit", LIMIT)
        self.halves = (options or {}).get("then", THEN) == "halve"
        self._halvings, self._since = 0, -1
        self._source = None
        self._before = self._told = in_all

    def watch(self, model: BaseModel, skipped: list[int] | None = None) -> None:
        """Watches over a model, one with `skipped_in_a_row` and `skipped_in_all` or any other, which is then guarded.

        Args:
            model: it.
            skipped: what `skipped` gave when the state was written that the model goes on from.
        """
        counts = hasattr(model, "skipped_in_a_row") and hasattr(model, "skipped_in_all")
        self._source = model if counts else Guard(model.optimizers)
        if isinstance(self._source, Guard) and skipped is not None and len(skipped) == len(model.optimizers):
            self._source.in_a_row = list(skipped)

    def let_go(self) -> None:
        """Forgets the model, so that nothing keeps its memory; not what it has skipped."""
        self._before, self._source = self.skipped_in_all(), None

    def skipped(self) -> list[int]:
        """How many of the last steps were skipped, by optimiser where it is known; what a state holds."""
        return self._source.in_a_row if isinstance(self._source, Guard) else [self._source.skipped_in_a_row()]

    def skipped_in_all(self) -> int:
        """How many steps the run has skipped, those that it went back from among them."""
        return self._before + self._source.skipped_in_all()

    def looks(self, iteration: int, device: torch.device) -> bool:
        """Whether to check after any iteration like this; looking waits for a GPU, which is thus left to itself."""
        return device.type == "cpu" or iteration % self.limit == 0

    def check(self) -> None:
        """Warns about the steps that were skipped since it was last asked.

        Raises:
            Diverged: they are as many as the limit.
        """
        skipped, in_all = max(self.skipped()), self.skipped_in_all()
        if in_all > self._told:
            logging.getLogger("basicsr").warning(f"Steps skipped, their losses or gradients not being finite: "
                                                 f"{in_all - self._told} since the last look, {in_all} in all.")
        self._told = in_all
        if skipped >= self.limit:
            raise Diverged(f"{skipped} steps in a row had losses or gradients that are not finite")

    def factor(self, iteration: int) -> float | None:
        """By what to multiply the rates of the state of `iteration`, to which the run goes back; None: it must stop."""
        self._halvings = self._halvings + 1 if iteration == self._since else 1
        self._since = iteration
        return 0.5**self._halvings if self.halves and self._halvings <= _HALVINGS else None


def slow_down(model: BaseModel, factor: float) -> None:
    """Multiplies the learning rates by `factor`, now and in all that the schedulers derive from them."""
    for optimizer in model.optimizers:
        for group in optimizer.param_groups:
            for key in ("lr", "initial_lr"):
                group[key] *= factor
    for scheduler in model.schedulers:
        scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]
