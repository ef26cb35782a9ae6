"""The training loop of every model, BasicSR's own too: exact, resumable, and honest about what it does.

Order within an iteration: rate, batch, step; then, where they are due, the log's line, checkpoint, validation. The
checkpoint owes the validation until that is done and its state is written once more, with the best metrics; so that a
validation that fails costs no iteration. The iterations, the batches and all that is drawn for them follow from the
seed and the iteration's number alone (sampling.py).
"""

import copy
import logging
import math
import time
from pathlib import Path

import torch
from basicsr.models import build_model
from basicsr.models.base_model import BaseModel
from basicsr.utils import set_random_seed

from alignvar_arch.errors import UserError
from alignvar_arch.training import experiment, resuming, rng, shards, state
from alignvar_arch.training.distributed import agreed, check_same, gathered
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
        if "resume_note" in opt["path"]:
            self.logger.info(opt["path"].pop("resume_note"))
        torch.backends.cudnn.benchmark = True
        blocks = opt["datasets"]
        train_set = datasets(blocks["train"])
        self.feed = Feed(opt, train_set)
        self.validations = [validation_loader(datasets(block), block) for phase, block in blocks.items()
                            if opt.get("val") is not None and phase.split("_")[0] == "val"]
        self.total = int(opt["train"]["total_iter"])
        self.matters = state.matters(opt, train_set)
        check_same({**self.matters, "the state to resume from": opt["path"].get("resume_state")})
        self.begun = False
        self._path = copy.deepcopy(opt["path"])  # a run that goes back to where it began begins with these
        self._random = rng.get()
        saved = self._read_state(force_resume)
        self.recovery = Recovery(opt["train"].get("nonfinite"), (saved or {}).get("skipped_in_all", 0))
        self._build(saved)
        # The optimiser goes on with the state's own tensors; nobody else keeps them.
        kept = ("iter", "saved", "owes_validation", "skipped")
        self.resumed = None if saved is None else {"exact": saved.get("matters") == self.matters,
                                                   **{key: saved.get(key) for key in kept}}

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

    def _build(self, saved: dict | None) -> None:
        """Builds the model; `saved` is put back into it, and its random states are the process's."""
        self.model = build_model(self.opt)
        self.model.save_training_state = _not_by_itself
        if saved is not None:
            state.restore(self.model, saved, state.changed(saved, self.matters))
            states = saved.get("rng", [])
            if self.opt["rank"] < len(states):
                rng.put(states[self.opt["rank"]])
        self.recovery.watch(self.model, (saved or {}).get("skipped"))

    def __call__(self) -> None:
        """Trains, validates and saves.

        Raises:
            UserError: a checkpoint cannot be written, images cannot be read, or the losses are not finite for too long.
            KeyboardInterrupt, Terminated: a signal came; the last step is finished and saved.
        """
        with experiment.disk_may_be_full():
            self.board = experiment.make(self.opt, self.file, self.held, self.resumed is not None)
            self.begun = True
            try:
                self._train()
            finally:
                if self.board:  # also where the run is interrupted: it writes every two minutes only
                    self.board.close()

    def _train(self) -> None:
        saved = self.resumed
        own = saved is not None and Path(self.opt["path"]["resume_state"]).resolve().parent == Path(
            self.opt["path"]["training_states"]).resolve()
        self.checkpoints = Checkpoints(self.opt["path"], self.opt["logger"].get("keep"),
                                       saved["saved"] or [] if own else [])
        self.checkpoints.sweep()
        order = self.feed.order
        done = 0 if saved is None else saved["iter"]
        self.logger.info(f"{len(self.feed.dataset)} images, {order.batch * order.world} an iteration, "
                         f"{order.per_epoch} iterations an epoch; {max(self.total - done, 0)} of {self.total} "
                         f"iterations to run, {math.ceil(self.total / order.per_epoch)} epochs in all.")
        if saved is not None:
            self.logger.info(f"Resuming training from epoch: {order.epoch(done)}, iter: {done}.")
            self.checkpoints.set_aside(done)
            if not any(saved["skipped"] or []):
                self.checkpoints.tidy(_best(self.model))
        started = time.monotonic()
        with Watch() as watch, Progress(self.opt, done, self.total, order.batch * order.world, self.board) as progress:
            if saved is not None and saved["owes_validation"]:
                _, owes = self._validate(done, watch)
                # A state of another experiment, or of other options, stays as it is.
                if own and saved["exact"] and not owes:
                    self._save(done, owes_validation=False, anew=False)
                stop = self._asked(self.total, watch)
                if stop:
                    raise ending(stop)
            while done < self.total:
                try:
                    self._iterate(done, watch, progress)
                    break
                except Diverged as error:
                    problem = str(error)
                # Not in the handler: the error holds what it has passed through, the old model among it.
                done = self._go_back(problem)
                progress.restart(done)
        self.logger.info(f"End of training after {time.monotonic() - started:.0f} s. Saving the latest model.")
        self.model.save(epoch=-1, current_iter=-1)

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
            if says or due or self.recovery.looks(iteration, model.device):
                self.recovery.check()
            if says:
                self._say(iteration, progress)
            stop = self._asked(iteration, watch)
            saves = bool(stop) or (due and not self._skipping(iteration))
            if saves:
                self._save(iteration, owes_validation=bool(validates))
            if validates and not stop:
                better, owes = self._validate(iteration, watch)
                stop = self._asked(iteration, watch)
                is_best = better and self.checkpoints.keep and not due and not self._skipping(iteration)
                if saves or stop or is_best:
                    self._save(iteration, owes, anew=not saves)
            if stop:
                raise ending(stop)
            waiting = time.monotonic()

    def _say(self, iteration: int, progress: Progress) -> None:
        progress.say(self.feed.order.epoch(iteration), self.model.get_current_learning_rate(),
                     self.model.get_current_log(), self.recovery.skipped_in_all())
        if hasattr(self.model, "tell_by_scale"):
            self.model.tell_by_scale(self.board, iteration)

    def _asked(self, iteration: int, watch: Watch) -> int | None:
        """The signal on which every rank stops after this iteration, or None."""
        if self.opt["world_size"] == 1:
            return watch.asked
        return agreed(watch.asked) if iteration % _ASKED_EVERY == 0 or iteration == self.total else None

    def _skipping(self, iteration: int) -> bool:
        """Whether the last step was skipped: the weights are what the run will go back from, if that does not end."""
        if not any(self.recovery.skipped()):
            return False
        self.logger.warning(f"Iteration {iteration} is not saved: its step was skipped, and the last good checkpoint "
                            "stays the newest.")
        return True

    def _validate(self, iteration: int, watch: Watch) -> tuple[bool, bool]:
        """Returns whether the first metric of the first set is the best so far, and whether a signal cut it short."""
        best = _best(self.model)
        before = state.figures_of(self.model)
        try:
            with rng.kept(), watch.interrupting(self.opt["world_size"] == 1):
                for loader in self.validations:
                    self.model.validation(loader, iteration, self.board, self.opt["val"]["save_img"])
        except Asked:
            state.put_back(self.model, before)  # the validation is made up from its first picture
            return False, True
        return _best(self.model) != best, False

    def _save(self, iteration: int, owes_validation: bool, anew: bool = True) -> None:
        """Saves a checkpoint; where it is there already and not `anew`, its state only, which knows more by now."""
        if anew:
            self.logger.info("Saving models and training states.")
        content = {"epoch": self.feed.order.epoch(iteration), "iter": iteration, "seed": self.opt["manual_seed"],
                   "matters": self.matters, "rng": state.all_rng(), "owes_validation": owes_validation,
                   "skipped": self.recovery.skipped(), "skipped_in_all": self.recovery.skipped_in_all(),
                   **state.capture(self.model)}
        if anew:
            self.model.save(content["epoch"], iteration)
        if anew and content["shards"]:
            shards.write(self.checkpoints.shards(iteration), self.model.net_g, self.model.optimizer_g)
        self.checkpoints.write_state(iteration, content, best=_best(self.model))

    def _go_back(self, problem: str) -> int:
        """Builds the model as it was at the newest good checkpoint, slower; returns its iteration.

        Before there is one, that is the run's beginning.
        """
        file, iteration = self._last_good()
        factor = self.recovery.factor(iteration)
        if factor is None:
            raise UserError(f"{problem}; the run ends, its newest good checkpoint is of iteration {iteration}. Lower "
                            "train.optim_g.lr, clip with train.grad_clip, or look at the data.")
        self.logger.warning(f"{problem}. Going back to iteration {iteration}, with learning rates {factor:g} times "
                            "what they were there.")
        self.recovery.let_go()
        self.model = None  # so that its memory is free for the new one
        if file is None:
            set_random_seed(self.opt["manual_seed"] + self.opt["rank"])  # CUDA's generators, which may not be in:
            rng.put(self._random)
        self._build(None if file is None else resuming.read(file))
        slow_down(self.model, factor)
        self.checkpoints.set_aside(iteration)
        return iteration

    def _last_good(self) -> tuple[Path | None, int]:
        """The state to go back to, `path` being pointed at its weights, and its iteration; None is the beginning."""
        for file in filter(Path.is_file, map(self.checkpoints.state, reversed(self.checkpoints.saved))):
            try:
                found = resuming.use(self.opt, file)
            except UserError as error:
                self.logger.warning(f"passed over: {error}")
                continue
            if not any(found.get("skipped", [])):
                return file, found["iter"]
        self.opt["path"] = copy.deepcopy(self._path)
        return (None, 0) if self.resumed is None else (Path(self._path["resume_state"]), self.resumed["iter"])


def _best(model: BaseModel) -> int | None:
    """The iteration at which the first metric of the first validation set was best, or None before there is one.

    Every process must call it: where the first one validates alone, it alone knows, and all are to act alike.
    """
    records = [record for metrics in getattr(model, "best_metric_results", {}).values() for record in metrics.values()]
    return gathered(records[0]["iter"] if records and records[0]["iter"] >= 0 else None)[0]


def _not_by_itself(epoch: int, current_iter: int) -> None:
    """In place of BasicSR's `save_training_state`: the run writes states that hold more."""
