"""Options files: read safely, completed as BasicSR completes them, and found valid before anything is made."""

import argparse
import os
import random
import sys
from pathlib import Path

import torch
from basicsr.utils import set_random_seed

from alignvar_arch.compat import lmdb_backend
from alignvar_arch.errors import UserError
from alignvar_arch.options import optional, overrides, reader
from alignvar_arch.training import distributed

__all__ = ["Parser", "parse_options", "validated"]

MADE_FOLDERS = ("experiments_root", "results_root", "models", "training_states", "log", "visualization")


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are one sentence, not a usage text and an exit."""

    def error(self, message: str):
        raise UserError(f"{message}; see `{self.prog} -h`.")


def argument_parser(prog: str, is_train: bool = True) -> Parser:
    """Returns a parser of BasicSR's own flags; in tests, of `--weights` and `--sets` too."""
    parser = Parser(prog=prog, allow_abbrev=False)
    parser.add_argument("-opt", required=True, metavar="FILE", help="options file (YAML)")
    parser.add_argument("--auto_resume", action="store_true", help="continue from the newest training state")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none", help="job launcher")
    parser.add_argument("--debug", action="store_true", help="short intervals, under the name debug_NAME")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--force_yml", nargs="+", default=None, metavar="KEY:KEY=VALUE",
                        help="replace values of the file, e.g. train:total_iter=10")  # fmt: skip
    parser.set_defaults(weights=None, sets=None)
    if is_train:
        parser.add_argument("--force_resume", action="store_true", help="resume also where that cannot be exact")
        parser.add_argument("--dry-run", action="store_true",
                            help="one step: parameters, memory, images/s, time of the run; writes nothing")
    else:
        add_overrides(parser)
    return parser


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Adds `--weights` and `--sets`, which `validated` reads."""
    parser.add_argument("--weights", metavar="PATH", help="load network_g from this file")
    parser.add_argument("--sets", nargs="+", action="extend", metavar="NAME=HR[,LR]",
                        help="test on these folders or LMDBs; without LR it is made, bicubic")  # fmt: skip


def parse_options(root_path: str, is_train: bool = True, argv: list[str] | None = None, prog: str | None = None):
    """Reads, completes and validates the options that the command line names, and seeds; replaces BasicSR's.

    Other processes are not waited for: what can be found wrong with data comes before that, and `join` after it.

    Args:
        root_path: the folder that `experiments/` or `results/` belongs to.
        is_train: whether the options are for training.
        argv: arguments; None means `sys.argv[1:]`.
        prog: the command's name in its help.

    Returns:
        The options (the structure of BasicSR's `parse_options`) and the parsed arguments.

    Raises:
        UserError: for whatever is wrong with the options; nothing has been created by then.
    """
    args = argument_parser(prog or os.path.basename(sys.argv[0]), is_train).parse_args(argv)
    opt, dropped = validated(args, root_path, is_train)
    for sentence in dropped:
        print(f"warning: {sentence}", file=sys.stderr)
    seed(opt)
    return opt, args


def join(opt: dict, args: argparse.Namespace) -> None:
    """Joins the other processes where a launcher has started several, and seeds.

    Raises:
        UserError: they do not come.
    """
    if opt["dist"]:
        distributed.start(opt, _place(opt, args))
    seed(opt)


def _place(opt: dict, args: argparse.Namespace) -> distributed.Place:
    return distributed.find(args.launcher, opt.get("dist_params"), args.local_rank)


def seed(opt: dict) -> None:
    """Seeds as BasicSR's parse_options does."""
    set_random_seed(opt["manual_seed"] + opt["rank"])


def validated(args: argparse.Namespace, root: str, is_train: bool) -> tuple[dict, list[str]]:
    """Returns the completed options and sentences about what had to be left out; touches nothing on disk."""
    # The checks read the registries, which are complete only once the whole package is imported.
    from alignvar_arch.options import check

    opt = reader.read(args.opt)
    reader.force(opt, args.force_yml or [])
    overrides.use_sets(opt, args.sets)
    try:
        absent = optional.drop_absent(opt)
        check.check_structure(opt, is_train)
        overrides.use_weights(opt, args.weights)
        complete(opt, args, root, is_train)
        check.check_device(opt)
        if opt["dist"]:
            distributed.check(opt.get("dist_params"), _place(opt, args), opt["num_gpu"])
        _check_trained(opt, args.opt)
        dropped = absent + check.check_content(opt)
        _check_places(opt, root)
    except UserError as error:
        raise UserError(f"{args.opt}: {error}") from error
    except PermissionError as error:
        raise UserError(f"{args.opt}: cannot read {error.filename}: {error.strerror}.") from error
    finally:
        lmdb_backend.close_all()
    return opt, dropped


def _check_trained(opt: dict, file: str) -> None:
    """Refuses weights that are not here yet, with the command that trains them or the way to public ones."""
    for key, path in opt["path"].items():
        if not key.startswith("pretrain_network_") or not isinstance(path, str) or os.path.isfile(path):
            continue
        if path.startswith("weights/") and key == "pretrain_network_g":
            raise UserError(f"path.{key}: there is no {path} here; put the public checkpoint there, which the head of "
                            f"the options file names{'' if opt['is_train'] else ', or give its path by --weights'}.")
        if path.startswith("experiments/"):
            trainer = file.replace("_test.yml", ".yml")
            command = f": basicsr train -opt {trainer}" if trainer != file and os.path.isfile(trainer) else ""
            raise UserError(f"path.{key}: there is no {path} here; train {path.split('/')[1]} first{command}.")


def _check_places(opt: dict, root: str) -> None:
    """Refuses folders that a run could not make or write to, before it makes the first one."""
    wanted = [opt["path"][key] for key in MADE_FOLDERS if key in opt["path"]]
    if opt["is_train"] and opt["logger"].get("use_tb_logger"):
        wanted.append(os.path.join(root, "tb_logger", opt["name"]))
    for folder in wanted:
        for place in (*reversed(Path(folder).relative_to(root).parents), Path(folder).relative_to(root)):
            full = Path(root, place)
            if os.path.lexists(full) and not full.is_dir():
                raise UserError(f"{full} is not a folder, and results go there; move it away.")
            if full.is_dir() and not os.access(full, os.W_OK | os.X_OK):
                raise UserError(f"the folder {full} is not writable, and results go there; run it elsewhere.")


def complete(opt: dict, args: argparse.Namespace, root: str, is_train: bool) -> None:
    """Adds in place what BasicSR's parse_options adds: rank, seed, phases, expanded paths, folders, debug intervals."""
    opt["dist"] = args.launcher != "none"
    opt["rank"], opt["world_size"] = 0, 1
    if opt["dist"]:
        place = _place(opt, args)
        opt["rank"], opt["world_size"] = place.rank, place.world
    if opt.get("manual_seed") is None:
        opt["manual_seed"] = random.randint(1, 10000)
    opt["auto_resume"] = args.auto_resume
    opt["is_train"] = is_train
    if args.debug and not opt["name"].startswith("debug"):
        opt["name"] = f"debug_{opt['name']}"
    if opt["num_gpu"] == "auto":
        opt["num_gpu"] = torch.cuda.device_count()
    for phase, dataset in opt["datasets"].items():
        dataset["phase"] = phase.split("_")[0]
        if "scale" in opt:
            dataset["scale"] = opt["scale"]
        for key in ("dataroot_gt", "dataroot_lq"):
            if isinstance(dataset.get(key), str):
                dataset[key] = os.path.expanduser(dataset[key])
    paths = opt["path"]
    for key, value in paths.items():
        if isinstance(value, str) and ("resume_state" in key or "pretrain_network" in key):
            paths[key] = os.path.expanduser(value)
    if is_train:
        experiment = os.path.join(root, "experiments", opt["name"])
        paths.update(
            experiments_root=experiment,
            models=os.path.join(experiment, "models"),
            training_states=os.path.join(experiment, "training_states"),
            log=experiment,
            visualization=os.path.join(experiment, "visualization"),
        )
        if "debug" in opt["name"]:
            if opt.get("val"):
                opt["val"]["val_freq"] = 8
            opt["logger"].update(print_freq=1, save_checkpoint_freq=8)
    else:
        results = os.path.join(root, "results", opt["name"])
        paths.update(results_root=results, log=results, visualization=os.path.join(results, "visualization"))
