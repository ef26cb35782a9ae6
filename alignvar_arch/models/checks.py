"""What both AlignVAR models refuse in options, before anything is made: geometry, steps, weights of other settings."""
import inspect
import math

from basicsr.utils.registry import ARCH_REGISTRY

from alignvar_arch import checkpoints
from alignvar_arch.archs.tokenizer.guided import SCALE
from alignvar_arch.archs.tokenizer_arch import reduction
from alignvar_arch.checkpoints.describe import stored_network
from alignvar_arch.checkpoints.recognise import Found, identify
from alignvar_arch.compat.networks import param_key, select
from alignvar_arch.errors import UserError
from alignvar_arch.models import degradation
from alignvar_arch.models.stepping import PRECISIONS

PARALLEL = ("ddp", "fsdp")


def arguments(network_opt: dict) -> dict:
    """Return a network's options with the defaults of its constructor filled in."""
    parameters = inspect.signature(ARCH_REGISTRY.get(network_opt["type"])).parameters.values()
    given = {**{parameter.name: parameter.default for parameter in parameters}, **network_opt}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}


def check_geometry(opt: dict, tokenizer_key: str) -> int:
    """Raise UserError where scale, crops and tiles do not fit the pictures that the tokenizer's scales describe.

    Returns:
        The side of those pictures, in pixels.
    """
    tokenizer, scale = arguments(opt[tokenizer_key]), opt.get("scale")
    side = tokenizer["scales"][-1] * reduction(tokenizer["ch_mult"], tokenizer["target"])
    if not scale or side % scale:
        raise UserError(f"scale: is {scale}, but {tokenizer_key} describes pictures of {side} pixels a side, which "
                        "must be a multiple of it.")
    if tokenizer["target"] == "residual" and scale != SCALE:
        raise UserError(f"scale: is {scale}, but {tokenizer_key} has target residual, whose decoder is guided by an LR "
                        f"{SCALE} times smaller; take scale {SCALE} or target image.")
    gt_size = opt["datasets"].get("train", {}).get("gt_size", side)
    if gt_size != side:
        raise UserError(f"datasets.train.gt_size: is {gt_size}, but the scales of {tokenizer_key} describe pictures of "
                        f"{side}.")
    check_range(opt, "val.tile_overlap", 0, side // scale - 1, whole=True)
    check_range(opt, "val.tile_batch", 1, whole=True)
    if (opt.get("val") or {}).get("decode_tile") is not None:  # null decodes the picture at once
        check_range(opt, "val.decode_tile", 1, whole=True)
    degradation.check_options(opt)
    if opt["is_train"]:
        _check_step(opt)
    if not opt["is_train"] and not opt["path"].get("pretrain_network_g"):
        raise UserError("path.pretrain_network_g: missing; a test needs trained weights.")
    return side


def _check_step(opt: dict) -> None:
    train = opt["train"]
    if train.get("grad_clip") is not None:  # null is no clipping
        check_range(opt, "train.grad_clip", 0)
    if train.get("precision", "fp32") not in PRECISIONS:
        raise UserError(f"train.precision: is {train['precision']!r}, but must be one of {', '.join(PRECISIONS)}.")
    check_range(opt, "train.accumulate", 1, whole=True)
    batch, parts = opt["datasets"]["train"]["batch_size_per_gpu"], train.get("accumulate", 1)
    if batch % parts:
        raise UserError(f"train.accumulate: is {parts}, which does not divide datasets.train.batch_size_per_gpu, "
                        f"{batch}; each step takes its batch in so many equal parts.")
    # DataParallel's threads know that autocast is on, not its dtype, and its copies run the original's compiled code.
    if not opt["dist"] and opt["num_gpu"] > 1:
        for key, given in (("precision", train.get("precision", "fp32") != "fp32"), ("compile", train.get("compile"))):
            if given:
                raise UserError(f"train.{key}: several GPUs in one process work in fp32 and without compile only; "
                                "start a process a GPU with torchrun and --launcher pytorch, or set num_gpu to 1.")
    if train.get("parallel", "ddp") not in PARALLEL:
        raise UserError(f"train.parallel: is {train['parallel']!r}, but must be one of {', '.join(PARALLEL)}.")
    if train.get("parallel") == "fsdp":
        if not opt["dist"]:
            raise UserError("train.parallel: fsdp shares the network among processes, and there is one; start several "
                            "with torchrun and --launcher pytorch, or leave it out.")
        if opt["num_gpu"] and (opt.get("dist_params") or {}).get("backend") == "gloo":
            raise UserError("dist_params.backend: gloo does not shard between GPUs; fsdp needs nccl there, or auto.")
    for key in ("ema_offload", "compile", "checkpointing"):
        if not isinstance(train.get(key, False), bool):
            raise UserError(f"train.{key}: is {train[key]!r}, but must be true or false.")


def check_range(opt: dict, path: str, low: float, high: float = math.inf, whole: bool = False) -> None:
    """Raise UserError where an option, if given, is not a number from ``low`` to ``high``.

    A ``whole`` one may be written 2.0 or 1e3 and is an int from here on, which tensors' sizes must be.
    """
    block, key = path.split(".")
    if key not in (opt.get(block) or {}):
        return
    value = opt[block][key]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high or (whole and value != int(value)):
        kind = "whole number" if whole else "number"
        upper = "up" if high == math.inf else f"to {high}"
        raise UserError(f"{path}: is {value!r}, but must be a {kind} from {low} {upper}.")
    if whole:
        opt[block][key] = int(value)


def chosen(opt: dict, key: str, asked: str | None = None) -> Found:
    """Return the state dict that loading takes for the network under ``key``, or would, were ``asked`` asked for.

    Raises:
        UserError: the file cannot be read, or has no such state dict.
    """
    path = opt["path"][f"pretrain_{key}"]
    states, metadata = checkpoints.read(path)
    place = select(states, opt[key]["type"], asked or param_key(opt["path"], key), path)[1]
    return identify(path, place, states, metadata)


def check_same_network(opt: dict, key: str) -> dict[str, str]:
    """Raise UserError where weights say that they belong to other settings than ``opt[key]``, shapes aside.

    Returns:
        The metadata of the weights.
    """
    path, given = opt["path"][f"pretrain_{key}"], arguments(opt[key])
    found = chosen(opt, key)
    if found.kind == "varsr-tokenizer" and "network" not in found.metadata and given["phi_on_last"]:
        raise UserError(f"{key}.phi_on_last: is true, but {path} has its tokenizer where VARSR has it, which goes "
                        "without phi on the last scale; set false, or, where the file is VAR's, convert it with "
                        "`basicsr convert --phi_on_last yes`.")
    # VAR gives a network of other settings its beginning; sizes have been compared by then.
    if found.kind == "var" or "network" not in found.metadata:
        return found.metadata
    stored = stored_network(found)
    if stored["type"] != opt[key]["type"]:
        raise UserError(f"path.pretrain_{key}: {path} says that it holds {stored['type']}, and no {opt[key]['type']}.")
    stored = arguments(stored)
    # SCA may be new to weights of VARSR, which have none; stochastic depth is a matter of training, and in no weight.
    free = {"drop_path"} | ({"sca"} if found.kind == "varsr" else set())
    for name in given:
        if name not in free and name in stored and stored[name] != given[name]:
            raise UserError(f"{key}.{name}: is {given[name]!r}, but {path} was trained with {stored[name]!r}; use the "
                            "weights' own setting.")
    return found.metadata
