"""What `train` and `test` share: BasicSR's own pipelines with our options in place of its parser."""

import logging
import os

from basicsr.utils import logger as basicsr_logger

from alignvar_arch import options


def run_pipeline(module, pipeline, argv: list[str], is_train: bool) -> int:
    """Runs `pipeline` of BasicSR's `module` (basicsr.train or basicsr.test) with the current folder as its root."""
    root = os.getcwd()
    parsed = options.parse_options(root, is_train, argv)
    close_logger()
    original = module.parse_options
    module.parse_options = lambda root_path, is_train=True: parsed
    try:
        pipeline(root)
    finally:
        module.parse_options = original
        close_logger()
    return 0


def close_logger() -> None:
    """Lets the next run open its own log file: BasicSR's logger is made once a process."""
    logger = logging.getLogger("basicsr")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    basicsr_logger.initialized_logger.pop("basicsr", None)
