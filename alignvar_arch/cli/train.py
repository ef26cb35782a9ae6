"""`basicsr train`: trains in the current folder, from an options file or from where a run was interrupted."""

import shlex
from pathlib import Path

from alignvar_arch import options
from alignvar_arch.cli.pipeline import close_logger, current_folder
from alignvar_arch.cli.plugins import Plugin
from alignvar_arch.options.datasets import Builder
from alignvar_arch.training import distributed
from alignvar_arch.training.loop import Run


def run(argv: list[str], _plugins: list[Plugin]) -> int:
    """Trains; returns 0. An interruption passes on with the command that resumes, where there is something to resume.

    Raises:
        UserError: for whatever is wrong with the options, the data or the place; no older run has been touched then.
    """
    opt, args = options.parse_options(current_folder(), True, argv, "basicsr train")
    with distributed.in_turn(args.opt, opt["dist"]):
        datasets = Builder(opt)
    close_logger()  # it has no file yet
    options.join(opt, args)  # seeds too: the builder has drawn a crop
    try:
        Run(opt, args.opt, datasets, args.force_resume)()
        distributed.stop()
    except BaseException as error:
        distributed.stop(together=False)
        if not isinstance(error, Exception):
            error.args = (_how_to_resume(opt, argv),)
        raise
    finally:
        close_logger()
    return 0


def _how_to_resume(opt: dict, argv: list[str]) -> str:
    if not any(Path(opt["path"]["training_states"]).glob("*.state")):
        return ""
    rest = [argument for argument in argv if argument != "--auto_resume"]
    if opt["dist"]:
        return "Resume with the same command and --auto_resume."
    return f"Resume with: basicsr train --auto_resume {shlex.join(rest)}"
