"""`basicsr compare`: models and result folders side by side on one LR, in a report of figures, cost and pictures."""

import os
import shlex
import sys
from pathlib import Path

import torch
from basicsr.models.video_base_model import VideoBaseModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import METRIC_REGISTRY, MODEL_REGISTRY

from alignvar_arch import checkpoints, options
from alignvar_arch.cli.pipeline import close_logger
from alignvar_arch.cli.plugins import Plugin
from alignvar_arch.compare import cost, report
from alignvar_arch.compare.comparison import compare
from alignvar_arch.compare.contenders import Network
from alignvar_arch.compare.material import unique
from alignvar_arch.errors import UserError
from alignvar_arch.metrics import NAMES
from alignvar_arch.options import reader
from alignvar_arch.options.check import check_name
from alignvar_arch.options.datasets import Builder
from alignvar_arch.output import new_folder


def argument_parser() -> options.Parser:
    """Returns the command's parser."""
    parser = options.Parser(prog="basicsr compare", description=__doc__, allow_abbrev=False)
    parser.add_argument("-opt", nargs="+", metavar="FILE", help="options files of tests; the first one's data sets and "
                        "metrics are used, and all are tested against it")  # fmt: skip
    parser.add_argument("-o", dest="output", metavar="FOLDER", required=True, help="the report's folder, made anew")
    parser.add_argument("--sets", nargs="+", action="extend", metavar="NAME=HR[,LR]",
                        help="compare on these folders or LMDBs; without LR it is made, bicubic")
    parser.add_argument("--images", nargs="+", action="extend", default=[], metavar="NAME=FOLDER",
                        help="pictures that another program has made stand beside the models'")
    parser.add_argument("--weights", nargs="+", action="extend", default=[], metavar="[NAME=]PATH",
                        help="weights of network_g for the options named NAME, or for the only ones that lack them")
    parser.add_argument("--metrics", nargs="+", metavar="NAME",
                        help=f"instead of the first file's: {', '.join(NAMES)}")
    parser.add_argument("--limit", type=_count, metavar="N", help="take the first N images of each set")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where the models run")
    parser.add_argument("--cost_size", type=_count, default=128, metavar="SIDE",
                        help="LR side for time and memory (default 128)")
    parser.add_argument("--cost_batch", type=_count, default=4, metavar="N", help="batch beside 1 (default 4)")
    parser.add_argument("--no_cost", action="store_true", help="measure neither time nor memory")
    parser.add_argument("--merge", nargs="+", metavar="FOLDER", help="join reports of one protocol instead")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


_count.__name__ = "whole number of at least 1"  # argparse says "invalid NAME value"


def run(argv: list[str], _plugins: list[Plugin]) -> int:
    """Compares, or merges; returns 0, or 1 if some pictures could not be made or read."""
    args = argument_parser().parse_args(argv)
    command = f"basicsr compare {shlex.join(argv)}"
    if args.merge:
        return _merge(args, command)
    if not args.opt:
        raise UserError("-opt is missing; name the options file of at least one model.")
    get_root_logger().setLevel("WARNING")
    try:
        return _compare(args, command)
    finally:
        close_logger()


def _merge(args, command: str) -> int:
    defaults = vars(argument_parser().parse_args(["-o", args.output, "--merge", *args.merge]))
    if vars(args) != defaults or len(args.merge) < 2:
        raise UserError("--merge takes two or more folders of reports, and -o beside it.")
    with new_folder(args.output) as place:
        merged = report.merge(args.merge, place, command)
        report.write(merged, place)
    return _finish(merged, args.output)


def _compare(args, command: str) -> int:
    cuda = torch.cuda.is_available() if args.device == "auto" else args.device == "cuda"
    if cuda and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA device; use cpu.")
    folders = _named(args.images, "--images", "FOLDER")
    contents = {file: reader.read(file) for file in args.opt}
    weights = _assign_weights(contents, args.weights)
    scale = _scale(contents)
    opts = [_validated(file, weights.get(file), args.sets, cuda, first=index == 0)
            for index, file in enumerate(args.opt)]
    for file, opt in zip(args.opt, opts, strict=True):
        if opt["datasets"] != opts[0]["datasets"]:
            print(f"{file} names other data than {args.opt[0]}; all are compared on the latter's.", file=sys.stderr)
    metrics = _metrics(args.metrics, opts[0], scale)
    taken = {"GT", "LR", "bicubic"} | set(folders)
    # Where the file has none, `validated` has drawn one, and no two reports would agree.
    seed = contents[args.opt[0]].get("manual_seed") or 0
    networks = [Network(opt, file, unique(opt["name"], taken), seed)
                for file, opt in zip(args.opt, opts, strict=True)]
    with new_folder(args.output) as place:
        found = compare(networks, Builder(opts[0]).datasets.values(), folders, metrics, place, scale=scale,
                        seed=seed, cuda=cuda, limit=args.limit, command=command,
                        timing=None if args.no_cost else cost.timing(args.cost_size, args.cost_batch))
        report.write(found, place)
    return _finish(found, args.output)


def _finish(found: dict, output: str) -> int:
    """Prints the tables and what failed; returns the exit code."""
    print((Path(output) / "report.md").read_text(encoding="utf-8"))
    print(f"{Path(output) / 'index.html'}: open it in a browser.")
    failed = len(found["unreadable"]) + sum(len(model["failed"]) for model in found["models"])
    if failed:
        print(f"basicsr: {failed} pictures could not be read or made; the report names them.", file=sys.stderr)
    return 1 if failed else 0


def _validated(file: str, weights: str | None, sets: list[str] | None, cuda: bool, first: bool) -> dict:
    """Returns complete and valid options of a test whose model takes single pictures."""
    argv = ["-opt", file, "--force_yml", f"num_gpu={int(cuda)}"]
    argv += ["--weights", weights] if weights else []
    argv += ["--sets", *sets] if sets else []
    opt, dropped = options.validated(options.argument_parser("basicsr compare", False).parse_args(argv), os.getcwd(),
                                     False)
    for sentence in dropped if first else ():
        print(f"warning: {sentence}", file=sys.stderr)
    if "network_g" in opt and not opt["path"].get("pretrain_network_g"):
        raise UserError(f"{file}: path.pretrain_network_g: names no weights; train first, or give them by --weights.")
    if issubclass(MODEL_REGISTRY.get(opt["model_type"]), VideoBaseModel):
        raise UserError(f"{file}: model_type: {opt['model_type']} is a video model; compare takes single pictures.")
    return opt


def _scale(contents: dict[str, dict]) -> int:
    """Returns the one scale of all options files, before each is held to data of another."""
    first = next(iter(contents))
    for file, content in contents.items():
        if not isinstance(content.get("scale"), int):
            raise UserError(f"{file}: scale: must be a whole number; a comparison needs it.")
        if content["scale"] != contents[first]["scale"]:
            raise UserError(f"{file}: scale is {content['scale']}, but {first} has {contents[first]['scale']}; compare "
                            "models of one scale.")
    return contents[first]["scale"]


def _assign_weights(contents: dict[str, dict], entries: list[str]) -> dict[str, str]:
    """Returns paths by options file; a bare PATH goes to the only file whose own weights are not there."""
    weights = {}
    for entry in entries:
        name, sign, path = entry.partition("=")
        if sign and not os.path.isfile(entry):
            matching = [file for file, content in contents.items() if content.get("name") == name]
        else:
            path = entry
            lacking = [file for file, content in contents.items() if _lacks_weights(content)]
            matching = list(contents) if len(contents) == 1 else lacking
        if len(matching) != 1:
            known = ", ".join(str(content.get("name")) for content in contents.values())
            raise UserError(f"--weights {entry}: it is not clear which options file it is for; write NAME={path} with "
                            f"one of the names {known}.")
        weights[matching[0]] = path
    return weights


def _lacks_weights(content: dict) -> bool:
    block = content.get("path")
    path = block.get("pretrain_network_g") if isinstance(block, dict) else None
    return not isinstance(path, str) or not os.path.isfile(checkpoints.resolve(path))


def _metrics(names: list[str] | None, opt: dict, scale: int) -> dict[str, dict]:
    """Returns metric blocks by key: those named on the command line, or the first options file's."""
    if names is None:
        found = opt["val"].get("metrics")
        if not found:
            raise UserError("the first options file has no val.metrics that work here; name some with --metrics.")
        if "common" in found:
            raise UserError("val.metrics.common: the report calls something else common; rename it.")
        return found
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise UserError(f"--metrics: {unknown[0]!r} is unknown; known are {', '.join(NAMES)}.")
    blocks = {name: {**NAMES[name], "crop_border": scale} for name in names}
    for name, block in blocks.items():
        metric = METRIC_REGISTRY.get(block["type"])
        reason = metric.unavailable() if hasattr(metric, "unavailable") else None
        if reason:
            raise UserError(f"--metrics {name}: {reason}")
    return blocks


def _named(entries: list[str], flag: str, what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries:
        name, sign, value = entry.partition("=")
        if not sign or not value:
            raise UserError(f"{flag} {entry!r} does not read as NAME={what}.")
        check_name(name, flag)
        if name in found or name in ("GT", "LR", "bicubic"):
            raise UserError(f"{flag}: the name {name!r} is taken; choose another.")
        found[name] = value
    return found
