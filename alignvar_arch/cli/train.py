"""`basicsr train`: trains in the current folder, from an options file or from where a run was interrupted."""

import argparse
import os
import re
import shlex
import tempfile
from pathlib import Path

from alignvar_arch import options
from alignvar_arch.cli.pipeline import close_logger, current_folder
from alignvar_arch.cli.plugins import Plugin
from alignvar_arch.compat import lmdb_backend
from alignvar_arch.data.photo_dataset import is_written
from alignvar_arch.errors import UserError
from alignvar_arch.options.datasets import Builder
from alignvar_arch.training import distributed, dry_run
from alignvar_arch.training.loop import Run


def run(argv: list[str], _plugins: list[Plugin]) -> int:
    """Trains; returns 0. An interruption passes on with the command that resumes, where there is something to resume.

    Raises:
        UserError: for whatever is wrong with the options, the data or the place; no older run has been touched then.
    """
    root = current_folder()
    opt, args = options.parse_options(root, True, argv, "basicsr train")
    opt["root_path"] = root  # as BasicSR's train_pipeline adds it
    if args.dry_run:
        _dry_run(opt, args)
        return 0
    with distributed.in_turn(args.opt, opt["dist"]):
        datasets = Builder(opt)
    close_logger()  # it has no file yet
    options.join(opt, args)  # seeds too: the builder has drawn a crop
    training = None
    try:
        training = Run(opt, args.opt, datasets, args.force_resume)
        training()
        distributed.stop()
    except BaseException as error:
        distributed.stop(together=False)
        # Before the run has begun, what lies in the folder may be an older one's.
        how = _how_to_resume(opt, argv) if training is not None and training.begun else ""
        if not isinstance(error, Exception):
            error.args = (how if opt["rank"] == 0 else "",)  # a signal reaches all, and one may say so
        elif isinstance(error, UserError) and how:
            raise UserError(f"{error} {how}") from error
        raise
    finally:
        close_logger()
    return 0


def _dry_run(opt: dict, args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="alignvar-") as scratch:
        for phase, block in opt["datasets"].items():
            if block["type"] == "PhotoDataset" and not is_written(block):
                block["dataroot"] = str(Path(scratch, phase))  # what it writes on first use is not to stay
        try:
            datasets = Builder(opt)
            close_logger()
            options.join(opt, args)
            text = dry_run.report(Run(opt, args.opt, datasets, args.force_resume))
        finally:
            lmdb_backend.close_all()
            close_logger()
            distributed.stop(together=False)
    if opt["rank"] == 0:
        print(text)


def _how_to_resume(opt: dict, argv: list[str]) -> str:
    if not any(Path(opt["path"]["training_states"]).glob("*.state")):
        return ""
    # torch's old launcher adds the local rank, and does so again
    rest = [argument for argument in argv if argument != "--auto_resume" and not re.match("--local[_-]rank=", argument)]
    return f"Resume with: {_starter(opt, rest)} train --auto_resume {shlex.join(rest)}"


def _starter(opt: dict, argv: list[str]) -> str:
    """What `train` stands behind; for several processes their launcher, as far as they can know."""
    if not opt["dist"]:
        return "basicsr"
    if "slurm" in argv or "--launcher=slurm" in argv:
        return f"srun --ntasks={opt['world_size']} python -m alignvar_arch"
    machines = int(os.environ.get("GROUP_WORLD_SIZE", 1))
    several = f"--nnodes={machines} --node_rank=… --master_addr={os.environ['MASTER_ADDR']} " if machines > 1 else ""
    beside = os.environ.get("LOCAL_WORLD_SIZE", opt["world_size"])
    return f"torchrun {several}--nproc_per_node={beside} -m alignvar_arch"
