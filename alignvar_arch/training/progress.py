"""What a run says while it goes: one bar, a line every `print_freq` iterations, the same to TensorBoard."""

import datetime
import logging
import resource
import time

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

_SETTLING = 1  # iterations that say nothing of the rate: compiling, first allocations, starting workers


class _Bar(tqdm):
    """tqdm's, which shows the run's own estimate of what is left: tqdm's knows of no restart and no slow start."""

    left = staticmethod(lambda: "?")

    @property
    def format_dict(self):
        return {**super().format_dict, "left": self.left()}


class Progress:
    """The bar and the lines of one run; says nothing on ranks other than 0.

    Args:
        opt: complete options; `logger.print_freq` is read.
        done: iterations that are done when the run starts.
        total: iterations there are.
        batch: images of an iteration, over all ranks.
        board: a TensorBoard writer, or None.
    """

    def __init__(self, opt: dict, done: int, total: int, batch: int, board):
        self.name, self.total, self.batch, self.board = opt["name"], total, batch, board
        self._logger = logging.getLogger("basicsr")
        self._silent = opt["rank"] != 0
        self._bar = _Bar(total=total, initial=done, desc=self.name[:20], dynamic_ncols=True,
                         disable=True if self._silent else None,
                         bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, eta {left}{postfix}]")
        self._redirected = logging_redirect_tqdm([self._logger])
        self._cuda = opt["num_gpu"] > 0
        self._begin(done)
        self._bar.left = self.eta

    def __enter__(self) -> "Progress":
        if not self._bar.disable:
            self._redirected.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._bar.close()
        if not self._bar.disable:
            self._redirected.__exit__(*error)

    def restart(self, done: int) -> None:
        """Goes back to iteration `done`."""
        self._begin(done)
        self._bar.n = self._bar.last_print_n = done  # the latter decides when it is drawn again

    def _begin(self, done: int) -> None:
        self._first, self._started, self._waited, self._iteration = done, time.monotonic(), 0.0, done

    def step(self, iteration: int, waited: float) -> None:
        """Counts an iteration, for whose data the run has waited so many seconds."""
        self._iteration = iteration
        if iteration == self._first + _SETTLING + 1:  # from here on they count
            self._started, self._waited = self._settled, 0.0
        self._waited += waited
        if iteration == self._first + _SETTLING:
            self._settled = time.monotonic()
        self._bar.update()

    @property
    def _seconds(self) -> float:
        """Seconds an iteration takes, with its share of validations and savings, since the first was done."""
        return (time.monotonic() - self._started) / self._counted

    @property
    def _counted(self) -> int:
        done = self._iteration - self._first
        return max(done if done <= _SETTLING else done - _SETTLING, 1)

    def eta(self) -> datetime.timedelta:
        """The time that is left by what iterations have taken so far, saving and validation included."""
        return datetime.timedelta(seconds=int(self._seconds * (self.total - self._iteration)))

    def say(self, epoch: int, rates: list[float], figures: dict[str, float], skipped: int = 0) -> None:
        """Logs a line for the current iteration.

        Args:
            epoch: it belongs to.
            rates: learning rates.
            figures: losses and what else the model logs.
            skipped: steps that the run has skipped so far.
        """
        if self._silent:
            return
        seconds, memory = self._seconds, peak_memory(self._cuda) / 2**30
        shown = "".join(f"{key}: {value:.4e} " for key, value in figures.items())
        shown += f"skipped: {skipped} " if skipped else ""
        self._logger.info(
            f"[{self.name[:5]}..][epoch:{epoch:3d}, iter:{self._iteration:8,d}, "
            f"lr:({''.join(f'{rate:.3e},' for rate in rates)})] [eta: {self.eta()}, time (data): {seconds:.3f} "
            f"({self._waited / self._counted:.3f}), {self.batch / seconds:.2f} images/s, {memory:.2f} GiB] {shown}")
        losses = {key: value for key, value in figures.items() if key.startswith("l_")}
        self._bar.set_postfix({"lr": f"{rates[0]:.3g}", **{key: f"{value:.4g}" for key, value in losses.items()},
                               "images/s": f"{self.batch / seconds:.3g}", "GiB": f"{memory:.2f}"}, refresh=False)
        if self.board is None:
            return
        for key, value in figures.items():
            self.board.add_scalar(f"losses/{key}" if key in losses else key, value, self._iteration)
        self.board.add_scalar("run/learning_rate", rates[0], self._iteration)
        self.board.add_scalar("run/images_per_second", self.batch / seconds, self._iteration)
        self.board.add_scalar("run/memory_gib", memory, self._iteration)
        self.board.add_scalar("run/skipped_steps", skipped, self._iteration)


def peak_memory(cuda: bool) -> int:
    """Bytes that this process has taken at most: on the current GPU, or of main memory."""
    if cuda:
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
