"""A run's folders and its log: made only once options, data and networks have been found good."""

import contextlib
import errno
import itertools
import logging
import logging.handlers
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from basicsr.train import init_tb_loggers
from basicsr.utils import get_env_info, get_root_logger, get_time_str, make_exp_dirs, mkdir_and_rename
from basicsr.utils.dist_util import get_dist_info
from basicsr.utils.options import copy_opt_file, dict2str

from alignvar_arch.errors import UserError

_FOLDERS = ("experiments_root", "models", "training_states", "log", "visualization")
_ALL = 10**6  # records held back, more than there ever are


class HeldBack:
    """Keeps what is logged before the log file may exist, and gives it to the file when it does."""

    def __init__(self):
        self.logger = get_root_logger()
        if get_dist_info()[0] == 0:  # the others' logger is quiet
            self.logger.setLevel(logging.INFO)
        self._held = logging.handlers.MemoryHandler(_ALL, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
        self.logger.addHandler(self._held)

    def into(self, file: str) -> None:
        """Opens `file`, in which everything stands from now on, what was held back first."""
        handler = _Log(file, "w", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s"))
        self._held.setTarget(handler)
        self._held.flush()
        self._held.close()
        self.logger.removeHandler(self._held)
        self.logger.addHandler(handler)


class _Log(logging.FileHandler):
    """A log whose lines are lost where they cannot be written; what matters is written elsewhere, and says so."""

    def handleError(self, record):  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


@contextlib.contextmanager
def disk_may_be_full() -> Iterator[None]:
    """Makes one sentence of a full disk, whoever has met it."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"the run cannot write {error.filename or 'its files'} ({error.strerror}); make room.") \
            from error


def _unused(file: str) -> str:
    """A log's name, numbered where another run has had it within the same second."""
    path = Path(file)
    taken = (path.with_name(f"{path.stem}_{number}{path.suffix}") for number in itertools.count(2))
    return str(path if not path.exists() else next(name for name in taken if not name.exists()))


def make(opt: dict, file: str, held: HeldBack, resumed: bool):
    """Makes the run's folders, archiving those of an older one of its name, its log and its TensorBoard.

    Args:
        opt: complete options.
        file: the options file, a copy of which goes to the experiment.
        held: what has been logged so far.
        resumed: whether the run goes on in the folders that are there.

    Returns:
        The TensorBoard writer, or None where the options want none or on another rank than 0.
    """
    if opt["rank"] != 0:
        return None
    if resumed:
        for key in _FOLDERS:
            os.makedirs(opt["path"][key], exist_ok=True)
    else:
        make_exp_dirs(opt)
        board = Path(opt["root_path"], "tb_logger", opt["name"])
        if opt["logger"].get("use_tb_logger") and "debug" not in opt["name"] and board.exists():
            mkdir_and_rename(str(board))
    wandb_id = _wandb_id(opt)
    if wandb_id and resumed and wandb_id.is_file() and not opt["logger"]["wandb"].get("resume_id"):
        opt["logger"]["wandb"]["resume_id"] = wandb_id.read_text(encoding="utf-8").strip()
    copy_opt_file(file, opt["path"]["experiments_root"])
    held.into(_unused(os.path.join(opt["path"]["log"], f"train_{opt['name']}_{get_time_str()}.log")))
    held.logger.info(get_env_info())
    held.logger.info(dict2str(opt))
    board = init_tb_loggers(opt)
    if wandb_id:
        import wandb  # an option's own dependency

        wandb_id.write_text(wandb.run.id, encoding="utf-8")
    return board


def _wandb_id(opt: dict) -> Path | None:
    """The file that says which of wandb's runs this one is, for when it is resumed; None without wandb."""
    if (opt["logger"].get("wandb") or {}).get("project") is None or "debug" in opt["name"]:
        return None
    return Path(opt["path"]["experiments_root"], "wandb_id.txt")
