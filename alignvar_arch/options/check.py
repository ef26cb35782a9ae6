"""The order in which options are found valid; every message starts with the key's dotted path in the file."""

import importlib.util
import os
import sys

import torch
from basicsr.models import lr_scheduler
from basicsr.models.video_base_model import VideoBaseModel
from basicsr.utils.registry import DATASET_REGISTRY, MODEL_REGISTRY

from alignvar_arch.compat.rates import LinearWarmupCosineLR
from alignvar_arch.compat.registries import nearest
from alignvar_arch.errors import UserError
from alignvar_arch.options import known_keys
from alignvar_arch.options.components import (
    check_arguments,
    check_losses,
    check_metrics,
    check_networks,
    construct,
    registered,
)
from alignvar_arch.options.files import check_files
from alignvar_arch.options.values import (
    COUNT,
    DECAY,
    FLAG,
    INTEGER,
    KEEP,
    NOT_NEGATIVE,
    NUMBERS,
    POSITIVE,
    SEED,
    WARMUP,
    WHOLE,
    WORD,
    WORDS,
    check_finite,
    check_types,
    join,
)
from alignvar_arch.training import resuming
from alignvar_arch.training.recovery import check_options as check_nonfinite

# Keys of published BasicSR options files that no code reads. Others there are read by a sibling of the class only, so
# that BasicSR's own models count as one, and its own datasets too.
_UNREAD = frozenset({"use_shuffle", "mode", "dist_params", "port", "backend"})
_LOOP = ("basicsr.models", "basicsr.train", "basicsr.test", "basicsr.utils.options", "basicsr.utils.misc",
         "basicsr.utils.logger", "alignvar_arch.training")  # fmt: skip
_LOADER = ("basicsr.data", "basicsr.train", "basicsr.utils.options", "alignvar_arch.training.feed")
_COMPLETED = {"is_train", "dist", "rank", "world_size", "auto_resume", "root_path", "manual_seed"}  # never in the file
_PATH_PREFIXES = ("pretrain_network_", "param_key_", "strict_load_")
_PATH_KEYS = ("resume_state", "ignore_resume_networks", "strict_load", "pretrain_network", "param_key")
_LONGEST_NAME = 128  # bytes; BasicSR adds dates and image names to it, and file systems allow 255
_SCHEDULERS = {
    "MultiStepLR": lr_scheduler.MultiStepRestartLR,
    "MultiStepRestartLR": lr_scheduler.MultiStepRestartLR,
    "CosineAnnealingRestartLR": lr_scheduler.CosineAnnealingRestartLR,
    "LinearWarmupCosineLR": LinearWarmupCosineLR,
}
_OPTIMIZERS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}

_TYPES = {
    "": {"scale": INTEGER, "manual_seed": SEED},
    "train": {"total_iter": WHOLE, "warmup_iter": WARMUP, "ema_decay": DECAY},
    "val": {"val_freq": WHOLE, "save_img": FLAG, "pbar": FLAG},
    "logger": {"print_freq": WHOLE, "save_checkpoint_freq": WHOLE, "use_tb_logger": FLAG, "keep": KEEP},
    "datasets": {
        "batch_size_per_gpu": INTEGER, "num_worker_per_gpu": COUNT, "dataset_enlarge_ratio": POSITIVE,
        "gt_size": INTEGER, "use_hflip": FLAG, "use_rot": FLAG, "pin_memory": FLAG, "persistent_workers": FLAG,
        "num_prefetch_queue": INTEGER, "bad_images": COUNT,
    },
    "optimizer": {"lr": NOT_NEGATIVE},
    "scheduler": {
        "milestones": NUMBERS, "periods": NUMBERS, "restarts": NUMBERS, "restart_weights": NUMBERS,
        "gamma": NOT_NEGATIVE, "eta_min": NOT_NEGATIVE, "warmup": COUNT,
    },
    "path": {"param_key_": WORD, "strict_load_": FLAG},
}  # fmt: skip


def check_structure(opt: dict, is_train: bool) -> None:
    """Checks blocks, keys and value types of the file's own content, before BasicSR's additions."""
    for key in ("name", "model_type", "num_gpu", "datasets", "path", *(("train", "logger") if is_train else ("val",))):
        if key not in opt:
            raise UserError(f"{key}: this key is missing{nearest(key, opt, cutoff=0.7)}.")
    for key in ("datasets", "path", "train", "val", "logger"):
        if key in opt and not isinstance(opt[key], dict):
            if key == "val" and opt[key] is None and is_train:
                continue
            raise UserError(f"{key}: is {opt[key]!r}, but must be a block of keys.")
    check_name(opt["name"], "name")
    check_finite(opt)
    model = registered(MODEL_REGISTRY, opt["model_type"], "model_type")
    _check_keys(opt, _strings(_LOOP) | known_keys.known(model) | _UNREAD, "")
    for block in ("train", "val", "logger"):
        if isinstance(opt.get(block), dict):
            _check_keys(opt[block], _strings(_LOOP) | known_keys.known(model), block)
    for path, block, keys in (("dist_params", opt.get("dist_params"), {"backend", "port", "timeout"}),
                              ("logger.wandb", (opt.get("logger") or {}).get("wandb"), {"project", "resume_id"})):
        if not isinstance(block or {}, dict):
            raise UserError(f"{path}: is {block!r}, but must be a block of keys.")
        _check_keys(block or {}, frozenset(keys), path)
    for block in ("", "train", "val", "logger"):
        check_types(opt if block == "" else opt.get(block) or {}, block, _TYPES[block])
    _check_required(opt, model, is_train)
    _check_paths(opt)
    _check_datasets(opt, is_train)


def check_name(name, path: str) -> None:
    """Refuses what cannot name a folder, or names one elsewhere."""
    if not isinstance(name, str) or not name.isprintable() or "/" in name or name.strip(" .") == "" \
            or len(name.encode()) > _LONGEST_NAME:
        shown = f"{str(name)[:40]!r} …" if len(str(name)) > 40 else repr(name)
        raise UserError(f"{path}: is {shown}, but must be a word that can name a folder, of at most {_LONGEST_NAME} "
                        "bytes.")


def _strings(packages: tuple[str, ...]) -> frozenset[str]:
    modules = [module for name, module in list(sys.modules.items())
               if name in packages or name.startswith(tuple(f"{package}." for package in packages))]
    return frozenset().union(*(known_keys.strings(module) for module in modules))


def _check_keys(block: dict, known: frozenset[str], path: str) -> None:
    for key in block:
        if key not in known:
            raise UserError(f"{join(path, key)}: this key is unknown{nearest(key, known, cutoff=0.7)}.")


def _check_paths(opt: dict) -> None:
    networks = {key for key in opt if key.startswith("network_")}
    known = [f"{prefix}{name.removeprefix('network_')}" for name in networks for prefix in _PATH_PREFIXES]
    known += _PATH_KEYS
    check_types(opt["path"], "path", {"ignore_resume_networks": WORDS, "resume_state": WORD})
    for key, value in opt["path"].items():
        for prefix, wanted in _TYPES["path"].items():
            if key.startswith(prefix) and value is not None:
                check_types({key: value}, "path", {key: wanted})
        if key in known or (value is None and key.startswith(_PATH_PREFIXES)):
            continue
        if key.startswith("pretrain_network_"):
            raise UserError(f"path.{key}: there is no block network_{key.removeprefix('pretrain_network_')}"
                            f"{nearest(key, known, cutoff=0.7)}.")
        raise UserError(f"path.{key}: this key is unknown{nearest(key, known, cutoff=0.7)}.")


def _check_required(opt: dict, model: type, is_train: bool) -> None:
    methods = ("__init__", *(("init_training_settings", "setup_optimizers", "setup_schedulers") if is_train else ()))
    needed = known_keys.required(model, methods, is_train)
    _need(opt, sorted(needed[""] - _COMPLETED), "")
    if is_train:
        _need(opt["train"], ["total_iter", *sorted(needed["train"])], "train")
        _need(opt["logger"], ["print_freq", "save_checkpoint_freq", "use_tb_logger"], "logger")
        if opt.get("val") is not None:
            _need(opt["val"], ["val_freq", "save_img"], "val")
        _check_optimization(opt["train"])
        _check_wandb(opt["logger"])
    else:
        _need(opt["val"], ["save_img"], "val")
        if opt["val"]["save_img"]:
            opt["val"].setdefault("suffix", None)  # sr_model.py:144 reads it unasked


def _need(block: dict, keys, path: str) -> None:
    for key in keys:
        if key not in block:
            raise UserError(f"{join(path, key)}: this key is missing{nearest(key, block, cutoff=0.7)}.")


def _check_optimization(train: dict) -> None:
    for key in [key for key in train if key.startswith("optim_")]:
        _check_choice(train[key], _OPTIMIZERS, f"train.{key}", given=("params",), needs=("lr",))
        check_types(train[key], f"train.{key}", _TYPES["optimizer"])
        construct(_OPTIMIZERS, train[key], f"train.{key}", [torch.nn.Parameter(torch.zeros(1))])
    check_nonfinite(train.get("nonfinite"))
    if "scheduler" not in train:
        return
    scheduler = train["scheduler"]
    _check_choice(scheduler, _SCHEDULERS, "train.scheduler", given=("optimizer", "total"))
    check_types(scheduler, "train.scheduler", _TYPES["scheduler"])
    own = {"total": int(train["total_iter"])} if scheduler["type"] == "LinearWarmupCosineLR" else {}
    construct(_SCHEDULERS, {**scheduler, **own}, "train.scheduler",
              torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))]))
    if own and train.get("warmup_iter", -1) > 0:
        raise UserError("train.warmup_iter: LinearWarmupCosineLR has a warm-up of its own; set train.scheduler.warmup "
                        "instead.")
    if scheduler["type"] == "CosineAnnealingRestartLR" and sum(scheduler["periods"]) < train["total_iter"]:
        end = sum(scheduler["periods"])
        raise UserError(f"train.scheduler.periods: they end at iteration {end}, before total_iter "
                        f"{train['total_iter']}; lengthen them.")


def _check_wandb(logger: dict) -> None:
    block = logger.get("wandb") or {}
    check_types(block, "logger.wandb", {"project": WORD, "resume_id": WORD})
    if block.get("project") is None:
        return
    if not logger["use_tb_logger"]:
        raise UserError("logger.wandb: it shows what TensorBoard is given; set logger.use_tb_logger to true.")
    if importlib.util.find_spec("wandb") is None:
        raise UserError("logger.wandb: wandb is not installed; `pip install wandb`, or set logger.wandb.project to ~.")


def _check_choice(block, choices: dict, path: str, given: tuple[str, ...], needs: tuple[str, ...] = ()) -> None:
    if not isinstance(block, dict):
        raise UserError(f"{path}: is {block!r}, but must be a block with a type.")
    _need(block, ("type", *needs), path)
    if not isinstance(block["type"], str) or block["type"] not in choices:
        raise UserError(f"{path}.type: {block['type']!r} is unknown{nearest(block['type'], choices)}; "
                        f"known are {', '.join(choices)}.")
    check_arguments(choices[block["type"]], {k: v for k, v in block.items() if k != "type"}, path, given=given)


def _check_datasets(opt: dict, is_train: bool) -> None:
    if not opt["datasets"]:
        raise UserError("datasets: it names no dataset.")
    if is_train and "train" not in opt["datasets"]:
        raise UserError("datasets.train: this key is missing.")
    names: dict[str, str] = {}
    for phase, block in opt["datasets"].items():
        path = f"datasets.{phase}"
        kind = phase.split("_")[0]
        allowed = ("train", "val") if is_train else ("test", "val")
        if kind not in allowed or (is_train and kind == "train" and phase != "train"):
            raise UserError(f"{path}: {phase!r} is no phase here; use {allowed[0]}{'' if is_train else '_1'} "
                            f"or {allowed[1]}{'' if is_train else '_1'}.")
        if not isinstance(block, dict):
            raise UserError(f"{path}: is {block!r}, but must be a block of keys.")
        _need(block, ("name", "type"), path)
        check_name(block["name"], f"{path}.name")
        if kind != "train" and names.setdefault(block["name"], path) != path:
            raise UserError(f"{path}.name: {block['name']!r} names {names[block['name']]} too, and their pictures "
                            "would share a folder; rename one.")
        dataset = registered(DATASET_REGISTRY, block["type"], f"{path}.type")
        _check_keys(block, _strings(_LOADER) | known_keys.known(dataset) | _UNREAD, path)
        check_types(block, path, _TYPES["datasets"])
        if kind == "train":
            _need(block, ("batch_size_per_gpu", "num_worker_per_gpu"), path)
            mode = block.get("prefetch_mode")
            if mode not in (None, "cpu", "cuda"):
                raise UserError(f"{path}.prefetch_mode: is {mode!r}, but must be cpu, cuda or ~.")
            if mode == "cuda" and block.get("pin_memory") is not True:
                raise UserError(f"{path}.pin_memory: must be true with prefetch_mode cuda.")
        if block.get("persistent_workers") and not (kind == "train" and block["num_worker_per_gpu"]):
            raise UserError(f"{path}.persistent_workers: needs num_worker_per_gpu of at least 1, in training.")
        if not hasattr(dataset, "check_options"):
            needed = known_keys.required(dataset, ("__init__", "__getitem__"), kind == "train")[""]
            _need({**block, "scale": opt.get("scale"), "phase": kind} if "scale" in opt else {**block, "phase": kind},
                  sorted(needed), path)


def check_device(opt: dict) -> None:
    """Checks `num_gpu` against the machine; `opt` is complete."""
    count = torch.cuda.device_count()
    wanted = opt["num_gpu"]
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 0:
        raise UserError(f"num_gpu: is {wanted!r}, but must be a whole number or auto.")
    # With a launcher it only says whether GPUs are used: each process has one.
    if wanted > count and not (opt["dist"] and count):
        raise UserError(f"num_gpu: is {wanted}, but this machine has {count} CUDA devices; use auto.")
    model = registered(MODEL_REGISTRY, opt["model_type"], "model_type")
    if count == 0 and issubclass(model, VideoBaseModel):
        raise UserError(f"model_type: {opt['model_type']} of BasicSR 1.4.2 is a video model and works on CUDA only.")


def check_content(opt: dict) -> list[str]:
    """Checks what the completed options name: files, networks, losses, metrics, and the plugin classes' own rules.

    Returns:
        Sentences about metrics that have been left out of `opt`, and about the state that is resumed from.
    """
    model = registered(MODEL_REGISTRY, opt["model_type"], "model_type")
    for phase, block in opt["datasets"].items():
        dataset = registered(DATASET_REGISTRY, block["type"], f"datasets.{phase}.type")
        if hasattr(dataset, "check_options"):
            _call_hook(dataset, block, f"datasets.{phase}: ")
        else:
            check_files(dataset, block, f"datasets.{phase}")
    if opt["is_train"]:
        check_losses(opt["train"], required_type=model.__module__.startswith("basicsr."))
    dropped = check_metrics(opt["val"]) if opt.get("val") else []
    state = opt["path"].get("resume_state")
    if state is not None and not (isinstance(state, str) and os.path.isfile(state)):
        raise UserError(f"path.resume_state: there is no file {state!r}.")
    if opt["is_train"]:
        dropped += resuming.find(opt)  # from here on `path` names the weights that the run will read
    check_networks(opt)
    if hasattr(model, "check_options"):
        _call_hook(model, opt, "")
    return dropped


def _call_hook(cls: type, opt: dict, prefix: str) -> None:
    try:
        cls.check_options(opt)
    except UserError as error:
        raise UserError(f"{prefix}{error}") from error
