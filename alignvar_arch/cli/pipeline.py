"""What `train` and `test` share: where results go, and whose log it is."""

import logging
import os

from basicsr.utils import logger as basicsr_logger

from alignvar_arch.errors import UserError


def current_folder() -> str:
    """Returns the folder that a run's results go to.

    Raises:
        UserError: it has been deleted.
    """
    try:
        return os.getcwd()
    except FileNotFoundError as error:
        raise UserError("the current folder has been deleted, and results go there; change to another.") from error


def close_logger() -> None:
    """Lets the next run open its own log file: BasicSR's logger is made once a process."""
    logger = logging.getLogger("basicsr")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    basicsr_logger.initialized_logger.pop("basicsr", None)
