"""Weights on disk: BasicSR's `.pth` and `.safetensors`, read without executing anything but tensors."""

import os
import pickle
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from alignvar_arch.errors import UserError

PREFIX = "alignvar_arch:"


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
    """Reads a checkpoint onto the CPU.

    Args:
        path: a `.pth` of BasicSR ({'params': …, 'params_ema': …, optional 'metadata'}) or of a bare state dict, or a
            `.safetensors` file; may start with `alignvar_arch:`.

    Returns:
        The state dicts by parameter key (a bare state dict is 'params'), and the metadata, strings by name.

    Raises:
        UserError: if the file is missing, damaged, or holds anything but tensors.
    """
    path = resolve(path)
    if not os.path.isfile(path):
        raise UserError(f"no checkpoint at {path}; check the path.")
    if path.endswith(".safetensors"):
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip, runtime and OS errors here, by what the file holds
        raise UserError(f"{path} cannot be read as weights: {_reason(error)}.") from error
    metadata = content.pop("metadata", {}) if isinstance(content, dict) else {}
    if not isinstance(metadata, dict):
        raise UserError(f"{path}: its metadata are a {type(metadata).__name__}, but must be names with values.")
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} holds no state dict.")
    if all(isinstance(value, torch.Tensor) for value in content.values()):
        content = {"params": content}
    states = {str(key): dict(value) for key, value in content.items() if isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(entry, torch.Tensor) for name, entry in value.items())}
    if not states:
        raise UserError(f"{path} holds no state dict; its keys are {', '.join(map(str, content))}.")
    return states, {str(key): str(value) for key, value in metadata.items()}


def _read_safetensors(path: str) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {"params": {key: file.get_tensor(key) for key in file.keys()}}, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as weights: {_reason(error)}.") from error


def write_safetensors(path: str, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes one state dict with its metadata so that `path` is always whole: the old file or the new one."""
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    _write_whole(path, lambda file: file.write(save(tensors, metadata or {})))


def write_pth(path: str, content: dict) -> None:
    """Writes what `torch.save` can write so that `path` is always whole: the old file or the new one.

    Raises:
        UserError: if it cannot be written; what was there before is still there.
    """
    _write_whole(path, lambda file: torch.save(content, file))


def _write_whole(path: str, write: Callable[[BinaryIO], object]) -> None:
    target, temporary = Path(path), None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
        temporary = None
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into RuntimeError
        raise UserError(f"cannot write {path} ({_reason(error)}); mend that, nothing was changed there.") from error
    finally:
        if temporary is not None:
            os.unlink(temporary)


def _reason(error: Exception) -> str:
    """Returns why a file could not be read or written, short and in our own words where torch's mislead."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
        return "it holds Python objects, which are not executed"
    if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
        return _reason(error.__context__)
    return "truncated, or not a checkpoint"
