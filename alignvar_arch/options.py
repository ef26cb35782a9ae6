"""Options files: read safely, completed as BasicSR completes them, and found valid before anything is made."""

import argparse
import os
import random
import re

import torch
import yaml
from basicsr.utils import set_random_seed
from basicsr.utils.dist_util import get_dist_info, init_dist

from alignvar_arch.errors import UserError


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without tags that make objects, where `2e-4` is a number and a key given twice is an error."""


_Loader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if entry[0] != "tag:yaml.org,2002:float"]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?$"
               r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    loader.flatten_mapping(node)
    seen: dict = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is given twice, in line {seen[key]} and in line "
                f"{key_node.start_mark.line + 1}", key_node.start_mark)
        seen[key] = key_node.start_mark.line + 1
    return {loader.construct_object(key, deep=True): loader.construct_object(value, deep=True)
            for key, value in node.value}


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def load_yaml(path: str) -> dict:
    """Reads an options file with the safe loader.

    Raises:
        UserError: if the file is missing, is not YAML, gives a key twice, or asks for an object.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.load(file, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise UserError(f"cannot read the options file {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the options file {path} is not UTF-8 text.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else path
        raise UserError(f"{where}: {getattr(error, 'problem', None) or error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"the options file {path} is not a mapping of keys to values.")
    return content


def argument_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Adds BasicSR's own flags."""
    parser.add_argument("-opt", required=True, metavar="FILE", help="options file (YAML)")
    parser.add_argument("--auto_resume", action="store_true", help="continue from the newest training state")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none", help="job launcher")
    parser.add_argument("--debug", action="store_true", help="short intervals, under the name debug_NAME")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--force_yml", nargs="+", default=None, metavar="KEY:KEY=VALUE",
                        help="replace values of the file, e.g. train:total_iter=10")
    return parser


def complete(opt: dict, args: argparse.Namespace, root: str, is_train: bool) -> dict:
    """Adds what BasicSR's parse_options adds to the file's options: phases, folders, rank, seed, debug mode."""
    opt["dist"] = args.launcher != "none"
    opt["rank"], opt["world_size"] = get_dist_info()
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
            if dataset.get(key) is not None:
                dataset[key] = os.path.expanduser(dataset[key])
    paths = opt["path"]
    if is_train:
        experiment = os.path.join(root, "experiments", opt["name"])
        paths.update(experiments_root=experiment, models=os.path.join(experiment, "models"),
                     training_states=os.path.join(experiment, "training_states"), log=experiment,
                     visualization=os.path.join(experiment, "visualization"))
        if "debug" in opt["name"]:
            if "val" in opt:
                opt["val"]["val_freq"] = 8
            opt["logger"]["print_freq"] = 1
            opt["logger"]["save_checkpoint_freq"] = 8
    else:
        results = os.path.join(root, "results", opt["name"])
        paths.update(results_root=results, log=results, visualization=os.path.join(results, "visualization"))
    return opt


def parse_options(root_path: str, is_train: bool = True, argv: list[str] | None = None):
    """Reads, completes and validates the options that the command line names, and seeds; replaces BasicSR's.

    Args:
        root_path: the folder that `experiments/` or `results/` belongs to.
        is_train: whether the options are for training.
        argv: arguments; None means `sys.argv[1:]`.

    Returns:
        The options (the structure of BasicSR's `parse_options`) and the parsed arguments.

    Raises:
        UserError: for whatever is wrong with the options; nothing has been created by then.
    """
    from alignvar_arch import checkpoints

    args = argument_parser(argparse.ArgumentParser()).parse_args(argv)
    opt = complete(load_yaml(args.opt), args, root_path, is_train)
    for key, value in opt["path"].items():
        if value is not None and ("pretrain_network" in key or "resume_state" in key):
            opt["path"][key] = checkpoints.resolve(value)
    if opt["dist"]:
        init_dist(args.launcher, **(opt.get("dist_params") or {} if args.launcher == "slurm" else {}))
        opt["rank"], opt["world_size"] = get_dist_info()
    set_random_seed(opt["manual_seed"] + opt["rank"])
    return opt, args
