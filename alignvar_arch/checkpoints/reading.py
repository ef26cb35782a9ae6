"""Reading weights: `.pth` and `.safetensors`, mapped into memory where the format allows, never executed."""

import errno
import os
import pickle
import re
import warnings
import zipfile
from importlib import resources

import torch
from safetensors import SafetensorError, safe_open

from alignvar_arch.errors import UserError

PREFIX = "alignvar_arch:"
# Where VAR's and VARSR's trainers put weights: {'epoch', 'iter', 'trainer': {'var_wo_ddp', 'vae_local', …}, 'args'}.
NEST = "trainer"


def resolve(path: str) -> str:
    """Turns `alignvar_arch:weights/NAME` into the path inside the installed package; leaves other paths as they are."""
    path = str(path)
    if not path.startswith(PREFIX):
        return os.path.expanduser(path)
    found = resources.files("alignvar_arch").joinpath(path[len(PREFIX):])
    if not found.is_file():
        folder = resources.files("alignvar_arch")
        raise UserError(f"{path} does not ship with this package; look into {folder}/weights.")
    return str(found)


def read(path: str) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, str]]:
    """Reads a checkpoint onto the CPU, without copying where the file can be mapped into memory.

    The tensors may be views of the file: whoever overwrites it in place, rather than replacing it, changes them.

    Args:
        path: a `.pth` of BasicSR ({'params': …, 'params_ema': …, optional 'metadata'}), of VAR's or VARSR's trainer
            ({'trainer': {'var_wo_ddp': …, 'vae_local': …}, …}) or of a bare state dict, or a `.safetensors` file; may
            start with `alignvar_arch:`.

    Returns:
        The state dicts by parameter key (a bare state dict is 'params', a trainer's are 'trainer.NAME'), and the
        metadata, strings by name.

    Raises:
        UserError: if the file is missing, damaged, or holds anything but tensors.
    """
    path = resolve(path)
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; name the checkpoint in it.")
    if not os.path.isfile(path):
        raise UserError(f"no checkpoint at {path}; check the path.")
    problem = _no_weights(path)
    if problem:
        raise UserError(f"{path} cannot be read as weights: {problem}.")
    if is_safetensors(path):
        return _read_safetensors(path)
    return _sort(load_pth(path), path)


def is_safetensors(path: str) -> bool:
    """Whether a file is safetensors, by its name or, under another, by its first bytes."""
    with open(path, "rb") as file:
        return path.lower().endswith(".safetensors") or file.read(9)[8:] == b"{"


def load_pth(path: str):
    """Returns what a `.pth` holds, tensors mapped.

    Raises:
        UserError: if it is damaged or holds Python objects.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's on pickle protocols, sparse tensors and TorchScript
            # Files of torch before 1.6 are no archives, and cannot be mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch raises pickle, zip, runtime and OS errors here, by what the file holds
        raise UserError(f"{path} cannot be read as weights: {reason(error)}.") from error


def _sort(content, path: str) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, str]]:
    metadata = content.pop("metadata", {}) if isinstance(content, dict) else {}
    if not isinstance(metadata, dict):
        raise UserError(f"{path}: its metadata are a {type(metadata).__name__}, but must be names with values.")
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} holds no state dict.")
    if all(isinstance(value, torch.Tensor) for value in content.values()):
        content = {"params": content}
    nested = content.get(NEST)
    if isinstance(nested, dict) and not _is_state(nested):
        metadata = {key: content[key] for key in ("iter",) if isinstance(content.get(key), int)} | metadata
        content = {key: value for key, value in content.items() if key != NEST} | {
            f"{NEST}.{key}": value for key, value in nested.items()}
    states = {str(key): dict(value) for key, value in content.items() if _is_state(value)}
    if not states:
        raise UserError(f"{path} holds no state dict; its keys are {', '.join(map(str, content))}.")
    return states, {str(key): str(value) for key, value in metadata.items()}


def _is_state(value) -> bool:
    return isinstance(value, dict) and bool(value) and all(
        isinstance(name, str) and isinstance(entry, torch.Tensor) for name, entry in value.items())


def _read_safetensors(path: str) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {"params": {key: file.get_tensor(key) for key in file.keys()}}, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as weights: {reason(error)}.") from error


def _no_weights(path: str) -> str | None:
    """Returns why a file's first bytes cannot be weights', where that is plain; None otherwise."""
    try:
        with open(path, "rb") as file:
            head = file.read(256).lstrip()
    except OSError as error:
        return reason(error)
    if os.path.getsize(path) == 0:
        return "it is empty; fetch it again"
    if head[:1] == b"<":
        return "it is a web page, not the file that the page offers; download that"
    if head.startswith(b"version https://git-lfs"):
        return "it is Git LFS's pointer to the file; run `git lfs pull` where it lies"
    return None


def reason(error: Exception) -> str:
    """Returns why a file could not be read or written, short and in our own words where torch's mislead."""
    if isinstance(error, OSError) and error.strerror and error.errno != errno.EINVAL:  # a seek before the beginning
        return error.strerror
    if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
        found = re.search(r"GLOBAL (\S+)", str(error))
        return (f"it holds Python objects, which are not executed{f' ({found[1]})' if found else ''}; in the program "
                "that wrote it, save the state dict alone, torch.save(network.state_dict(), FILE)")
    if isinstance(error, RuntimeError) and re.search(r"TorchScript|\.tar ", str(error)):
        return ("it is a TorchScript program or torch's old .tar format, which are not read without executing them; in "
                "the program that wrote it, save the state dict alone, torch.save(network.state_dict(), FILE)")
    if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
        return reason(error.__context__)
    return "truncated, or not a checkpoint"
