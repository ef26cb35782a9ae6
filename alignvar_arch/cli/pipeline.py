"""What `train` and `test` share: BasicSR's own pipelines with our options in place of its parser."""

import logging
import os
import shlex
from pathlib import Path

from basicsr.utils import logger as basicsr_logger

from alignvar_arch import options
from alignvar_arch.errors import UserError
from alignvar_arch.options.datasets import Builder


def run_pipeline(module, pipeline, argv: list[str], is_train: bool) -> None:
    """Runs `pipeline` of BasicSR's `module` (basicsr.train or basicsr.test) with the current folder as its root.

    An interruption passes on with the command that resumes, where there is something to resume from.
    """
    try:
        root = os.getcwd()
    except FileNotFoundError as error:
        raise UserError("the current folder has been deleted, and results go there; change to another.") from error
    command = f"basicsr {'train' if is_train else 'test'}"
    parsed = options.parse_options(root, is_train, argv, command)
    build_dataset = Builder(parsed[0])
    close_logger()  # it has no file yet
    options.seed(parsed[0])  # the builder has drawn a crop
    originals = module.parse_options, module.build_dataset
    module.parse_options, module.build_dataset = lambda root_path, is_train=True: parsed, build_dataset
    try:
        pipeline(root)
    except BaseException as error:
        if not isinstance(error, Exception):
            error.args = (_how_to_resume(parsed[0], command, argv),)
        raise
    finally:
        module.parse_options, module.build_dataset = originals
        close_logger()


def _how_to_resume(opt: dict, command: str, argv: list[str]) -> str:
    states = opt["path"].get("training_states")
    if not states or not any(Path(states).glob("*.state")):
        return ""
    rest = [argument for argument in argv if argument != "--auto_resume"]
    return f"Resume with: {command} --auto_resume {shlex.join(rest)}"


def close_logger() -> None:
    """Lets the next run open its own log file: BasicSR's logger is made once a process."""
    logger = logging.getLogger("basicsr")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    basicsr_logger.initialized_logger.pop("basicsr", None)
