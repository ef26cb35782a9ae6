"""The training loop of every model, BasicSR's own too: exact, resumable, and honest about what it does.

Order within an iteration: rate, batch, step; then, where they are due, the log's line, validation, checkpoint. A
checkpoint's best metrics thus know the validation of its own iteration. The iterations, the batches and all that is
drawn for them follow from the seed and the iteration's number alone (sampling.py).
"""

import logging
import math
import time

import torch
from basicsr.models import build_model
from basicsr.models.base_model import BaseModel

from alignvar_arch.errors import UserError
from alignvar_arch.training import experiment, resuming, rng, shards, state
from alignvar_arch.training.distributed import agreed, check_same
from alignvar_arch.training.feed import Feed, validation_loader
from alignvar_arch.training.progress import Progress
from alignvar_arch.training.recovery import Diverged, Recovery, slow_down
from alignvar_arch.training.saving import Checkpoints
from alignvar_arch.training.signals import Asked, Watch, ending

_ASKED_EVERY = 5  # iterations between questions to the other ranks whether they have been asked to stop


class Run:
    """One training from options to its last checkpoint.

    Args:
        opt: complete and valid options; `path.resume_state` and `path.resume_from` as `resuming.find` set them.
        file: the options file.
        datasets: what gives the data set of a block of `opt.datasets`.
        force_resume: go on from a state also where that cannot be exact.

    Raises:
        UserError: the data cannot fill a batch, or resuming would not be exact.
    """

    def __init__(self, opt: dict, file: str, datasets, force_resume: bool = False):
        self.opt, self.file = opt, file
        self.held = experiment.HeldBack()
        self.logger = logging.getLogger("basicsr")
        torch.backends.cudnn.benchmark = True
        blocks = opt["datasets"]
        train_set = datasets(blocks["train"])
        self.feed = Feed(opt, train_set)
        self.validations = [validation_loader(datasets(block), block) for phase, block in blocks.items()
                            if opt.get("val") is not None and phase.split("_")[0] == "val"]
        self.total = int(opt["train"]["total_iter"])
        self.matters = state.matters(opt, train_set)
        check_same({**self.matters, "the state to resume from": opt["path"].get("resume_state")})
        self.resumed = self._read_state(force_resume)
        self.model = self._build(self.resumed)
        self.recovery = Recovery(opt["train"].get("nonfinite"), self.model)

    def _read_state(self, force: bool) -> dict | None:
        path = self.opt["path"].get("resume_state")
        if not path:
            return None
        found = resuming.read(path)
        try:
            state.check_exact(found, path, self.matters)
        except UserError as error:
            if not force:
                raise
            self.logger.warning(f"--force_resume: {error}")
        return found

    def _build(self, saved: dict | None) -> BaseModel:
        """Builds the model; `saved` is put back into it, and its random states are the process's."""
        model = build_model(self.opt)
        model.save_training_state = _not_by_itself
        if saved is not None:
            state.restore(model, saved)
            states = saved.get("rng", [])
            if self.opt["rank"] < len(states):
                rng.put(states[self.opt["rank"]])
        return model

    def __call__(self) -> None:
        """Trains, validates and saves.

        Raises:
            UserError: a checkpoint cannot be written, images cannot be read, or the losses are not finite for too long.
            KeyboardInterrupt, Terminated: a signal came; the last step is finished and saved.
        """
        saved = self.resumed
        self.board = experiment.make(self.opt, self.file, self.held, saved is not None)
        self.checkpoints = Checkpoints(self.opt["path"], self.opt["logger"].get("keep"),
                                       [] if saved is None else saved.get("saved", []))
        self.checkpoints.sweep()
        order = self.feed.order
        done = 0 if saved is None else saved["iter"]
        self.logger.info(f"{len(self.feed.dataset)} images, {order.batch * order.world} an iteration, "
                         f"{order.per_epoch} iterations an epoch; {max(self.total - done, 0)} of {self.total} "
                         f"iterations to run, {math.ceil(self.total / order.per_epoch)} epochs in all.")
        if saved is not None:
            self.logger.info(f"Resuming training from epoch: {order.epoch(done)}, iter: {done}.")
            self.checkpoints.set_aside(done)
        started = time.monotonic()
        with Watch() as watch, Progress(self.opt, done, self.total, order.batch * order.world, self.board) as progress:
            if saved is not None and saved.get("owes_validation"):
                self._validate(done, watch)
            while done < self.total:
                try:
                    self._iterate(done, watch, progress)
                    break
                except Diverged as error:
                    done = self._go_back(error)
                    progress.restart(done)
        self.logger.info(f"End of training after {time.monotonic() - started:.0f} s. Saving the latest model.")
        self.model.save(epoch=-1, current_iter=-1)
        if self.board:
            self.board.close()

    def _iterate(self, done: int, watch: Watch, progress: Progress) -> None:
        """Runs the iterations after `done`, to the last or to a signal."""
        opt, model = self.opt, self.model
        val_freq = (opt.get("val") or {}).get("val_freq", math.inf)
        waiting = time.monotonic()
        for iteration, batch in enumerate(self.feed.batches(done, self.total), done + 1):
            waited = time.monotonic() - waiting
            model.update_learning_rate(iteration, warmup_iter=opt["train"].get("warmup_iter", -1))
            model.feed_data(batch)
            model.optimize_parameters(iteration)
            progress.step(iteration, waited)
            says = iteration % opt["logger"]["print_freq"] == 0
            due = iteration % opt["logger"]["save_checkpoint_freq"] == 0
            validates = self.validations and (iteration % val_freq == 0 or iteration == self.total)
            if says or due or model.device.type == "cpu":  # on a GPU, looking waits for it
                self.recovery.check()
            if says:
                progress.say(self.feed.order.epoch(iteration), model.get_current_learning_rate(),
                             model.get_current_log())
            stop = self._asked(iteration, watch)
            better, owes = False, bool(validates and stop)
            if validates and not stop:
                better, owes = self._validate(iteration, watch)
                stop = self._asked(iteration, watch)
            if due or stop or (better and self.checkpoints.keep):
                self._save(iteration, owes)
            if stop:
                raise ending(stop)
            waiting = time.monotonic()

    def _asked(self, iteration: int, watch: Watch) -> int | None:
        """The signal on which every rank stops after this iteration, or None."""
        if self.opt["world_size"] == 1:
            return watch.asked
        return agreed(watch.asked) if iteration % _ASKED_EVERY == 0 or iteration == self.total else None

    def _validate(self, iteration: int, watch: Watch) -> tuple[bool, bool]:
        """Returns whether the first metric of the first set is the best so far, and whether a signal cut it short."""
        best = _best(self.model)
        try:
            with rng.kept(), watch.interrupting(self.opt["world_size"] == 1):
                for loader in self.validations:
                    self.model.validation(loader, iteration, self.board, self.opt["val"]["save_img"])
        except Asked:
            return False, True
        return _best(self.model) != best, False

    def _save(self, iteration: int, owes_validation: bool) -> None:
        self.logger.info("Saving models and training states.")
        content = {"epoch": self.feed.order.epoch(iteration), "iter": iteration, "seed": self.opt["manual_seed"],
                   "matters": self.matters, "rng": state.all_rng(), "owes_validation": owes_validation,
                   **state.capture(self.model)}
        self.model.save(content["epoch"], iteration)
        if content["shards"]:
            shards.write(self.checkpoints.shards(iteration), self.model.net_g, self.model.optimizer_g)
        self.checkpoints.write_state(iteration, content, best=_best(self.model))

    def _go_back(self, error: Diverged) -> int:
        """Builds the model as it was at the newest checkpoint of this run, slower; returns its iteration."""
        iteration = self.checkpoints.saved[-1] if self.checkpoints.saved else 0
        factor = self.recovery.factor(iteration)
        if factor is None:
            raise UserError(f"{error}; the run ends, its newest checkpoint is of iteration {iteration}. Lower "
                            "train.optim_g.lr, clip with train.grad_clip, or look at the data.") from error
        self.logger.warning(f"{error}. Going back to iteration {iteration}, with learning rates {factor:g} times what "
                            "they were there.")
        self.model.optimizers, self.model.schedulers = [], []  # so that their memory is free for the new ones
        self.model = None
        saved = None
        if iteration:
            saved = resuming.use(self.opt, self.checkpoints.state(iteration))
        self.model = self._build(saved)
        slow_down(self.model, factor)
        self.recovery.watch(self.model)
        return iteration


def _best(model: BaseModel) -> int | None:
    """The iteration at which the first metric of the first validation set was best, or None before there is one."""
    for metrics in getattr(model, "best_metric_results", {}).values():
        for record in metrics.values():
            return record["iter"] if record["iter"] >= 0 else None
    return None


def _not_by_itself(epoch: int, current_iter: int) -> None:
    """In place of BasicSR's `save_training_state`: the run writes states that hold more."""
